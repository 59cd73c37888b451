"""Which data directories the rows of a store name. Each directory has a name, its shelf; several may share a PostgreSQL."""

from uuid import UUID

from sqlalchemy import Column, Connection, func, select, update

from songserve.schema import bundle_events, clips

__all__ = ["clips_by_shelf", "move_clips", "shelf_of_store"]


def clips_by_shelf(connection: Connection) -> dict[str, int]:
    """Return how many clips the store has in each data directory."""
    rows = connection.execute(select(clips.c.shelf, func.count()).group_by(clips.c.shelf))
    return {str(shelf): int(n) for shelf, n in rows}


def shelf_of_store(connection: Connection, own: str | None) -> str | None:
    """Return the data directory that the store was in; None where its rows name none, or where that is not certain.

    ``own`` is the name of the directory that the store is in now, if it has one. A SQLite file is of one directory, that of
    its clips or, without any, of what was done with bundles: of several names it has ``own``, or that of the latest song, and
    the others are left from one that lost its name. Servers on a PostgreSQL have one each, so there one name alone is certain.
    """
    by_song = select(clips.c.shelf).order_by(clips.c.song_start_ms.desc(), clips.c.song)
    by_event = select(bundle_events.c.shelf).order_by(bundle_events.c.seq.desc())
    found = [_names(connection, column) for column in (clips.c.shelf, bundle_events.c.shelf)]
    if connection.dialect.name != "sqlite":
        names = found[0] | found[1]
        return own if own in names else _checked(names.pop()) if len(names) == 1 else None
    for names, latest in zip(found, (by_song, by_event), strict=True):
        if own in names:
            return own
        if names:
            return _checked(connection.execute(latest.limit(1)).scalar_one())
    return None


def _names(connection: Connection, column: Column[str]) -> set[str]:
    return set(connection.execute(select(column).distinct()).scalars())


def move_clips(connection: Connection, shelf: str) -> None:
    """Have every clip of the store be in one data directory."""
    connection.execute(update(clips).where(clips.c.shelf != shelf).values(shelf=shelf))


def _checked(name: str) -> str | None:
    """Return a name that the file `shelf` may hold; None for anything else, as a backup comes from elsewhere."""
    try:
        return name if str(UUID(name)) == name else None
    except ValueError:
        return None
