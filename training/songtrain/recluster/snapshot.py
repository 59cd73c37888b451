"""What a service has stored, read once as it stood at one moment, and never written.

The tables are those that docs/operating.md describes, looked up in the store itself: training knows no code of the service.
Everything a run needs is copied, songs' features too, so that nothing the service deletes meanwhile is missed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, MetaData, Select, Table, create_engine, func, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchTableError, OperationalError
from sqlalchemy.pool import NullPool

from songcore.arrays import FloatArray
from songcore.decisions import Decision, View, fold, read_action
from songcore.errors import ConfigError, SongError
from songcore.features import unpack_features

__all__ = [
    "OLDEST_REVISION",
    "Snapshot",
    "StoreSong",
    "active_bundle",
    "read_features",
    "read_snapshot",
    "store_folder",
]

OLDEST_REVISION = 5
"""The first revision with embeddings and decisions."""
STORE_NAME = "songs.sqlite"
"""Of the file in a service's data directory."""
TABLES = ("songs", "embeddings", "clips", "decisions", "bundle_events")
SERVING_EVENTS = ("started", "activated", "rolled_back")
"""After which a bundle is served."""
POOL_STATES = ("uncertain", "novel")


@dataclass(frozen=True)
class StoreSong:
    """One song as it was stored, and what its encoder made of it."""

    uid: str
    station: str
    session: str
    start_ms: int
    type_id: str
    novelty: str
    quality: str
    bundle: str
    """Digest of the bundle that named it."""
    vector: FloatArray | None
    """(d,) float32 of that bundle's encoder."""
    features: Path | None
    """Where the file with its features was, if it has any."""
    placed_in: str | None = None
    """The type that a split by people put it in, by name or as the nearest of those that were named."""

    @property
    def in_pool(self) -> bool:
        """Whether new types may come from it."""
        return self.novelty in POOL_STATES and self.quality == "good"

    @property
    def day(self) -> int:
        """UTC days since 1970."""
        return self.start_ms // 86_400_000

    def read_features(self) -> FloatArray | None:
        """Return its features (n_frames, n_mels), or None when they are gone: retention deletes them while others read."""
        return None if self.features is None else read_features(self.features)


@dataclass(frozen=True)
class Snapshot:
    """Songs, and how things stand after people's decisions."""

    songs: tuple[StoreSong, ...]
    """The pool, and the latest of every known type; in the order of their uids."""
    decisions: tuple[Decision, ...]
    type_ids: frozenset[str]
    """Every id that any stored song was ever given."""
    revision: int

    @property
    def view(self) -> View:
        """How things stand after people's decisions."""
        return fold(self.decisions)


def read_features(path: Path) -> FloatArray | None:
    """Return the features (n_frames, n_mels) in a file of the service, None when it is gone or damaged."""
    try:
        return unpack_features(path.read_bytes())
    except (OSError, SongError):
        return None


def shown_url(store: str) -> str:
    """Return the URL of a store without its password; raises ConfigError STORE_UNREACHABLE."""
    return str(_url(store).render_as_string(hide_password=True))


def store_folder(store: str) -> Path | None:
    """Return the folder of a store that is a SQLite file, else None."""
    url = _url(store)
    return Path(url.database).parent if url.get_backend_name() == "sqlite" and url.database else None


def active_bundle(store: str, *beside: Path | None) -> str:
    """Return the digest of the bundle that is served, or was last; ConfigError ACTIVE_UNKNOWN when the store does not say.

    Servers that share a database are each swapped by themselves. Asked about is the one in whose data directory the store's
    file or one of the folders ``beside`` lies, the first that tells; where none does, all must serve the same.
    """
    folders = [store_folder(store), *(folder.parent for folder in beside if folder)]
    names = [folder / "shelf" for folder in folders if folder]
    own = next((file.read_text().strip() for file in names if file.is_file()), None)
    with _reading(store) as connection:
        _revision(connection)
        events = _tables(connection)["bundle_events"]
        last = select(func.max(events.c.seq)).where(events.c.kind.in_(SERVING_EVENTS)).group_by(events.c.shelf)
        if own is not None:
            last = last.where(events.c.shelf == own)
        found = sorted(set(connection.scalars(select(events.c.bundle).where(events.c.seq.in_(last)))))
    if len(found) > 1:
        raise ConfigError(
            f"the servers that share the store serve different bundles, {' and '.join(found)}; give the directory of the one "
            "that shall be retrained as --bundle, without --active",
            reason="ACTIVE_UNKNOWN",
        )
    if not found:
        raise ConfigError(
            "the store does not say which bundle is served; start the service once, or give the bundle's directory",
            reason="ACTIVE_UNKNOWN",
        )
    return str(found[0])


def read_snapshot(store: str, *, clips: Path | None, max_known: int) -> Snapshot:
    """Return the pool and up to ``max_known`` latest songs of every known type, in one read transaction.

    ``clips`` is the folder with songs' features. Raises ConfigError STORE_UNREACHABLE, STORE_FOREIGN, STORE_TOO_OLD.
    """
    with _reading(store) as connection:
        revision = _revision(connection)
        tables = _tables(connection)
        songs, decisions = tables["songs"], tables["decisions"]
        type_ids = frozenset(connection.scalars(select(songs.c.type_id).distinct()))
        wanted = _pool(songs)
        found = {row.uid: row for row in connection.execute(_with_files(wanted, tables))}
        for type_id in sorted(type_ids):
            latest = _latest(songs, type_id, max_known)
            found |= {row.uid: row for row in connection.execute(_with_files(latest, tables))}
        placed = tuple(
            Decision(row.seq, row.time_ms, row.who, read_action(row.action))
            for row in connection.execute(select(decisions).order_by(decisions.c.seq))
        )
        view = fold(placed)
        for part in _parts(sorted(set(view.placed) - set(found))):
            rows = connection.execute(_with_files(select(songs).where(songs.c.uid.in_(part)), tables))
            found |= {row.uid: row for row in rows}
    return Snapshot(tuple(_song(found[uid], clips) for uid in sorted(found)), placed, type_ids, revision)


def _url(store: str) -> Any:
    if "://" not in store:
        place = Path(store).absolute()
        return URL.create("sqlite", database=str(place / STORE_NAME if place.is_dir() else place))
    try:
        return make_url(store)
    except ArgumentError as error:
        raise ConfigError(
            f"--store {store} is neither a data directory nor the URL of a store; give /var/lib/songstream or "
            "postgresql+psycopg://user@host/name",
            reason="STORE_UNREACHABLE",
        ) from error


@contextmanager
def _reading(store: str) -> Iterator[Connection]:
    """Hold one read-only transaction in which nothing changes."""
    url = _url(store)
    if url.get_backend_name() == "sqlite":
        # Read-only, and an error rather than a new file where there is none; the service's WAL lets it write meanwhile.
        path = Path(url.database or "").absolute()
        url = url.set(database=f"file:{path}", query={"mode": "ro", "uri": "true"})
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            if url.get_backend_name() == "sqlite":
                # The driver would begin a transaction only to write.
                connection.exec_driver_sql("BEGIN")
            else:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection
    except (OperationalError, DBAPIError) as error:
        raise ConfigError(
            f"the store {shown_url(store)} cannot be read ({str(error.orig).strip()}); check the URL and that the database is "
            "there",
            reason="STORE_UNREACHABLE",
        ) from error
    finally:
        engine.dispose()


def _revision(connection: Connection) -> int:
    try:
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except DBAPIError as error:
        raise _foreign("it says no schema revision") from error
    if found is None or not str(found).isdigit():
        raise _foreign(f"its schema revision is {found!r}")
    if int(found) < OLDEST_REVISION:
        raise ConfigError(
            f"the store has schema revision {found}, expected {OLDEST_REVISION:04d} or newer: run `songstream db upgrade`",
            reason="STORE_TOO_OLD",
        )
    return int(found)


def _tables(connection: Connection) -> dict[str, Table]:
    metadata = MetaData()
    try:
        return {name: Table(name, metadata, autoload_with=connection) for name in TABLES}
    except NoSuchTableError as error:
        raise _foreign(f"it has no table {error}") from error


def _foreign(what: str) -> ConfigError:
    return ConfigError(
        f"this is no store of `songstream serve`: {what}; give the URL that the service has", reason="STORE_FOREIGN"
    )


def _pool(songs: Table) -> Select[Any]:
    return select(songs).where(songs.c.novelty.in_(POOL_STATES), songs.c.quality == "good")


def _latest(songs: Table, type_id: str, n: int) -> Select[Any]:
    known = select(songs).where(songs.c.type_id == type_id, songs.c.novelty == "known")
    return known.order_by(songs.c.start_ms.desc(), songs.c.uid).limit(n)


def _with_files(wanted: Select[Any], tables: dict[str, Table]) -> Select[Any]:
    """Return the same songs with their vectors and whether they have a file of features."""
    song, embeddings, clips = wanted.subquery("wanted"), tables["embeddings"], tables["clips"]
    return (
        select(song, embeddings.c.vector, func.coalesce(clips.c.feature_bytes, 0).label("feature_bytes"))
        .outerjoin(embeddings, (embeddings.c.song == song.c.uid) & (embeddings.c.bundle == song.c.bundle))
        .outerjoin(clips, clips.c.song == song.c.uid)
    )


def _parts(uids: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    for at in range(0, len(uids), size):
        yield uids[at : at + size]


def _song(row: Any, clips: Path | None) -> StoreSong:
    path = None
    if clips is not None and row.feature_bytes:
        start = datetime.fromtimestamp(row.start_ms / 1000, UTC)
        path = clips / f"{start:%Y-%m-%d}" / f"{start:%H}" / f"{row.uid}.npz"
    vector = None if row.vector is None else np.frombuffer(row.vector, "<f4").astype(np.float32)
    return StoreSong(
        uid=row.uid,
        station=row.station,
        session=row.session,
        start_ms=row.start_ms,
        type_id=row.type_id,
        novelty=row.novelty,
        quality=row.quality,
        bundle=row.bundle,
        vector=vector,
        features=path,
        placed_in=row.placed_in,
    )
