"""What to say of a choice without songs: which stations were heard at all, and when there are songs."""

from datetime import UTC, datetime

from sqlalchemy import Engine, func, select

from songcore.errors import InputError
from songserve.frequencies import stations_query
from songserve.repertoire.season import Choice
from songserve.schema import songs

__all__ = ["heard_stations", "no_songs"]


def heard_stations(engine: Engine) -> set[str]:
    """Return every station that the store has anything of, be it sound without songs."""
    with engine.connect() as connection:
        return set(connection.scalars(stations_query()))


def no_songs(engine: Engine, choice: Choice) -> InputError:
    """Return the error NO_SONGS of a choice without songs, which says from when to when there are some."""
    within = [] if choice.station is None else [songs.c.station == choice.station]
    with engine.connect() as connection:
        first, last = connection.execute(
            select(func.min(songs.c.start_ms), func.max(songs.c.start_ms)).where(*within)
        ).one()
    of = "" if choice.station is None else f" of station {choice.station!r}"
    if first is None:
        return InputError(f"no song{of} is stored yet; `songstream serve` stores those it hears", reason="NO_SONGS")
    return InputError(
        f"no song{of} is stored from that time; the first was sung on {_day(first)}, the last on {_day(last)}, UTC",
        reason="NO_SONGS",
    )


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d}"
