"""Whether a store agrees with itself: pages, counts against songs, effort against sessions, clips against files.

Nothing is written, and a server may be running meanwhile.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

from sqlalchemy import Connection, Engine, case, exists, func, select
from sqlalchemy.exc import DatabaseError, DBAPIError

from songcore.errors import ConfigError
from songserve.clips_shelf import ClipShelf, features_path
from songserve.database import CLIPS_FOLDER, DATABASE_NAME, check_revision, found_revision, read_shelf, unusable
from songserve.engines import postgresql_engines, postgresql_url, sqlite_reader
from songserve.records import StoredClip
from songserve.schema import EVER, REVISION, WIDTHS_MS, buckets, clips, gaps, sessions, songs
from songserve.shelves import clips_by_shelf, shelf_of_store
from songserve.tally import Tally
from songserve.times import HOUR_MS
from songserve.writing import bucket_start

__all__ = ["StoreReport", "check_store", "reading", "require_current"]

MAX_LISTED = 20
CLOSE_S = 1e-6
"""For each chunk and each bucket, seconds may be off by less. A chunk's begin and end are milliseconds since 1970 in a double,
which tells 2.4e-4 of them apart, so each is off by 1.2e-7 s at most; adding it to a sum of up to 1e9 s rounds by no more."""


@dataclass
class StoreReport:
    """What a check found; without ``problems`` the store is sound."""

    revision: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What cannot be told from an older songstream's ways, and is no problem."""
    n_sessions: int = 0
    n_songs: int = 0
    recorded_s: float = 0.0
    n_clips: int = 0
    """In all data directories."""
    clip_bytes: int = 0
    n_clips_elsewhere: int = 0
    """Of these, in other data directories than this, where nobody looked for their files."""


@contextmanager
def reading(data_dir: Path, database_url: str | None) -> Iterator[Engine]:
    """Give an engine that reads a store; raises ConfigError when there is none or it cannot be read."""
    file = data_dir / DATABASE_NAME
    if database_url is None and not file.is_file():
        found = f"{data_dir} is a file" if data_dir.is_file() else f"there is no {file}"
        raise ConfigError(f"{found}; name the data directory of a server", reason="DATABASE_MISSING")
    engines = None if database_url is None else postgresql_engines(postgresql_url(database_url))
    engine = engines.readers if engines else sqlite_reader(file)
    try:
        yield engine
    except DBAPIError as error:
        raise unusable(engine, error) from error
    finally:
        (engines or engine).dispose()


def require_current(engine: Engine) -> None:
    """Raise ConfigError unless the tables are those of this songstream: DATABASE_MISSING, SCHEMA_NEWER, STORE_TOO_OLD."""
    with engine.connect() as connection:
        found = found_revision(connection)
    if found is None:
        raise ConfigError("the database holds no store; `songstream serve` makes one", reason="DATABASE_MISSING")
    if check_revision(found) != REVISION:
        raise ConfigError(
            f"the store has schema {found}, not {REVISION}; run `songstream db upgrade`, or start its server once",
            reason="STORE_TOO_OLD",
        )


def check_store(data_dir: Path, database_url: str | None) -> StoreReport:
    """Check everything; raises ConfigError: that of `reading`, SCHEMA_NEWER, DATABASE_INVALID."""
    with reading(data_dir, database_url) as engine, engine.connect() as connection:
        # All is read as of one moment, so that what a server stores meanwhile is no disagreement.
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
        found = found_revision(connection)
        if found is None:
            raise ConfigError("the database holds no store; `songstream serve` makes one", reason="DATABASE_MISSING")
        report = StoreReport(check_revision(found))
        if found != REVISION:
            report.problems.append(f"the schema is {found}, not {REVISION}: run `songstream db upgrade`")
            return report
        checks: list[Callable[[Connection, StoreReport], Iterator[str]]]
        checks = [_check_songs, _check_effort, partial(_check_clips, data_dir=data_dir)]
        if engine.dialect.name == "sqlite":
            checks.insert(0, _check_pages)
        for check in checks:
            _collect(check(connection, report), report)
        return report


def _collect(problems: Iterator[str], report: StoreReport) -> None:
    try:
        report.problems += islice(problems, MAX_LISTED)
        n_more = sum(1 for _ in problems)
    except (DatabaseError, ValueError) as error:  # damage shows as either
        report.problems.append(f"the database cannot be read ({' '.join(str(error).split())})")
        return
    if n_more:
        report.problems.append(f"and {n_more} more like that")


def _check_pages(connection: Connection, _: StoreReport) -> Iterator[str]:
    found = connection.exec_driver_sql(f"PRAGMA integrity_check({MAX_LISTED})").scalars().all()
    yield from (f"integrity_check: {line}" for line in found if line != "ok")


def _check_songs(connection: Connection, report: StoreReport) -> Iterator[str]:
    """Count the songs of each station anew and compare with every bucket."""
    report.n_sessions = connection.execute(select(func.count()).select_from(sessions)).scalar_one()
    stations = {*connection.execute(select(songs.c.station).distinct()).scalars()}
    stations |= {*connection.execute(select(buckets.c.station).distinct()).scalars()}
    for station in sorted(stations):
        counted = _counted(connection, station)
        kept = select(buckets.c.width_ms, buckets.c.start_ms, buckets.c.tally).where(buckets.c.station == station)
        found = {(width_ms, start_ms): tally for width_ms, start_ms, tally in connection.execute(kept)}
        nothing = Tally()
        report.n_songs += sum(sum(part.values()) for part in _parts(counted[EVER, 0]))
        for key in sorted({*found, *counted}):
            kept_tally = Tally.read(found[key]) if key in found else nothing
            if kept_tally != counted.get(key, nothing):
                yield f"{station}: counts of the {_name(key)} do not agree with its songs"
    strangers = select(func.count()).select_from(songs).where(~exists().where(sessions.c.uuid == songs.c.session))
    n_strangers = connection.execute(strangers).scalar_one()
    if n_strangers:
        yield f"{n_strangers} songs belong to no session"


def _counted(connection: Connection, station: str) -> defaultdict[tuple[int, int], Tally]:
    hour = songs.c.start_ms - songs.c.start_ms % HOUR_MS
    type_id = func.coalesce(songs.c.placed_in, songs.c.type_id)
    novel = songs.c.is_novel & songs.c.placed_in.is_(None)
    keys = (hour.label("hour_ms"), type_id.label("id"), songs.c.kind, novel.label("novel"), songs.c.forced_cut)
    hours = select(*keys).where(songs.c.station == station).subquery()
    rows = connection.execute(select(*hours.c, func.count()).group_by(*hours.c))
    counted: defaultdict[tuple[int, int], Tally] = defaultdict(Tally)
    for row in rows:
        hour_ms, counted_as, kind, is_novel, forced_cut, n = tuple(row)
        for width_ms in WIDTHS_MS:
            tally = counted[width_ms, bucket_start(hour_ms, width_ms)]
            tally.add(counted_as, kind, is_novel=is_novel, n=n, n_cut=n * forced_cut)
    return counted


def _parts(tally: Tally) -> tuple[dict[str, int], ...]:
    return tally.songs, tally.novel, tally.noise


def _check_effort(connection: Connection, report: StoreReport) -> Iterator[str]:
    """Compare the seconds of hours, days and in total, and these and the declared gaps with what sessions have committed.

    They are the same at every moment: a transaction that moves a session's watermark over sound or a gap adds it to them.
    """
    seconds: defaultdict[str, dict[int, float]] = defaultdict(dict)
    n_buckets: defaultdict[str, int] = defaultdict(int)
    key = buckets.c.station, buckets.c.width_ms
    by_key = select(*key, func.sum(buckets.c.recorded_s), func.count()).group_by(*key)
    for station, width_ms, recorded_s, n in connection.execute(by_key):
        seconds[station][width_ms] = recorded_s
        n_buckets[station] += n
    declared = select(gaps.c.station, func.sum(gaps.c.declared_s)).group_by(gaps.c.station)
    lost = {station: float(gap_s) for station, gap_s in connection.execute(declared)}
    committed = _committed(connection)
    for station in sorted({*seconds, *lost, *committed}):
        by_width, lost_s = seconds[station], lost.get(station, 0.0)
        found = committed.get(station, _Committed())
        report.recorded_s += by_width.get(EVER, 0.0)
        close_s = CLOSE_S * (1 + found.n_chunks + n_buckets[station])
        sums = [by_width.get(width_ms, 0.0) for width_ms in WIDTHS_MS]
        if any(abs(one - other) > close_s for one, other in pairwise(sums)):
            yield f"{station}: seconds by hour, by day and in total differ: {sums}"
        missing_s = found.seconds - sums[-1] - lost_s
        if abs(missing_s) <= close_s:
            continue
        accounted = f"{station}: {sums[-1]:.1f} s recorded and {lost_s:.1f} s declared lost"
        if missing_s < 0:
            yield f"{accounted}, more than its sessions committed, {found.seconds:.1f} s"
        elif missing_s <= found.older_s:
            report.notes.append(
                f"{accounted}, {missing_s:.1f} s less than its sessions committed; it has sessions from when declared gaps "
                "were not kept"
            )
        else:
            yield f"{accounted}, less than its sessions committed, {found.seconds:.1f} s"


@dataclass(frozen=True)
class _Committed:
    """What the sessions of a station have committed."""

    seconds: float = 0.0
    older_s: float = 0.0
    """Of these, seconds of sessions that began before clocks were kept, which is as much as to say: before gaps were."""
    n_chunks: int = 0
    """At most so many: a gap has one number and more."""


def _committed(connection: Connection) -> dict[str, _Committed]:
    audio_s = sessions.c.committed_sample * 1.0 / sessions.c.sample_rate_hz
    columns = (
        func.sum(audio_s),
        func.sum(case((sessions.c.clock_source.is_(None), audio_s), else_=0.0)),
        func.sum(sessions.c.committed_sequence_number),
    )
    rows = connection.execute(select(sessions.c.station, *columns).group_by(sessions.c.station))
    return {
        station: _Committed(float(seconds), float(older_s), int(n_chunks))
        for station, seconds, older_s, n_chunks in rows
    }


def _check_clips(connection: Connection, report: StoreReport, *, data_dir: Path) -> Iterator[str]:
    """Look for the file of every clip that is in this data directory, and for the song of every clip."""
    totals = connection.execute(
        select(func.count(), func.coalesce(func.sum(clips.c.n_bytes + clips.c.feature_bytes), 0)).select_from(clips)
    ).one()
    report.n_clips, report.clip_bytes = int(totals[0]), int(totals[1])
    n_strangers = connection.execute(
        select(func.count()).select_from(clips).where(~exists().where(songs.c.uid == clips.c.song))
    ).scalar_one()
    if n_strangers:
        yield f"{n_strangers} clips belong to no song"
    is_shared = connection.dialect.name != "sqlite"
    # Without a name the next start will give it this one.
    shelf = read_shelf(data_dir) or (None if is_shared else shelf_of_store(connection, None)) or ""
    elsewhere = {name: n for name, n in clips_by_shelf(connection).items() if name != shelf}
    report.n_clips_elsewhere = sum(elsewhere.values())
    if elsewhere and not is_shared:
        yield (
            f"{report.n_clips_elsewhere} clips are of a data directory by another name ({', '.join(sorted(elsewhere))}) and "
            "cannot be read; `songstream db backup` and `db restore` of it make them this one's"
        )
    files = ClipShelf(data_dir / CLIPS_FOLDER, shelf, choice="none", has_room=lambda: False, observe=lambda _: None)
    mine = select(clips).where(clips.c.shelf == shelf).execution_options(yield_per=1000)
    for row in connection.execute(mine).mappings():
        clip = StoredClip(**row)
        path = files.path(clip.song_start_ms, clip.song)
        for file, expected in ((path, clip.n_bytes), (features_path(path), clip.feature_bytes)):
            size = file.stat().st_size if file.is_file() else None
            if size != (expected or None):
                found = "is missing" if size is None else f"has {size} bytes, not {expected}"
                yield f"{file.relative_to(data_dir)} {found}"


def _name(key: tuple[int, int]) -> str:
    width_ms, start_ms = key
    if width_ms == EVER:
        return "total"
    start = datetime.fromtimestamp(start_ms / 1000, UTC)
    return f"hour {start:%Y-%m-%d %H}:00" if width_ms == HOUR_MS else f"day {start:%Y-%m-%d}"
