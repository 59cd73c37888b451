"""Reads the store: one song, pages of songs, how far a session is, and how often each type is sung."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Engine, func, literal, select, tuple_
from sqlalchemy.exc import DBAPIError

from songserve.records import SessionRecord, StoredSong
from songserve.refusal import Refusal
from songserve.schema import effort, songs
from songserve.store import read_session

__all__ = ["Frequency", "FrequencyFilter", "Position", "SongFilter", "SongQueries"]

Position = tuple[int, str]
"""Start time in milliseconds and uid of a song: where a page ends."""


@dataclass(frozen=True)
class SongFilter:
    """Which songs; None matches everything. Times are UTC milliseconds, half-open."""

    start_ms: int | None = None
    end_ms: int | None = None
    station: str | None = None
    session: str | None = None
    type_id: str | None = None
    only_novel: bool = False
    include_noise: bool = False


@dataclass(frozen=True)
class FrequencyFilter:
    """What to count; empty sequences match everything."""

    start_ms: int | None = None
    end_ms: int | None = None
    bucket_ms: int | None = None
    stations: Sequence[str] = ()
    type_ids: Sequence[str] = ()


@dataclass
class Frequency:
    """One station in one bucket of time."""

    station: str
    start_ms: int | None
    recorded_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    """Songs by type, novel ones and noise excluded."""
    n_novel: int = 0
    n_noise: int = 0


class SongQueries:
    """Questions to the store; every method raises Refusal STORE_UNAVAILABLE when it cannot be read."""

    def __init__(self, readers: Engine) -> None:
        self._readers = readers

    def session(self, uuid: str) -> tuple[SessionRecord, int] | None:
        """Return a session and how many songs of it are stored, or None."""
        try:
            with self._readers.connect() as connection:
                record = read_session(connection, uuid)
                count = select(func.count()).select_from(songs).where(songs.c.session == uuid)
                return None if record is None else (record, connection.execute(count).scalar_one())
        except DBAPIError as error:
            raise _unreadable(error) from error

    def song(self, uid: str) -> StoredSong | None:
        """Return one song, or None."""
        rows = self._all(select(songs).where(songs.c.uid == uid))
        return StoredSong(**rows[0]) if rows else None

    def page(self, wanted: SongFilter, after: Position | None, size: int) -> tuple[list[StoredSong], Position | None]:
        """Return up to ``size`` songs in order of start time, and where the next page begins after, None at the end."""
        conditions = _song_conditions(wanted)
        if after is not None:
            conditions.append(tuple_(songs.c.start_ms, songs.c.uid) > after)
        ordered = select(songs).where(*conditions).order_by(songs.c.start_ms, songs.c.uid).limit(size + 1)
        found = [StoredSong(**row) for row in self._all(ordered)]
        page = found[:size]
        return page, (page[-1].start_ms, page[-1].uid) if len(found) > size else None

    def type_counts(self) -> dict[tuple[str, str, bool], int]:
        """Return how many songs are stored by type id, kind and whether they are novel."""
        columns = (songs.c.type_id, songs.c.kind, songs.c.is_novel)
        rows = self._all(select(*columns, func.count().label("n")).group_by(*columns))
        return {(row["type_id"], row["kind"], row["is_novel"]): row["n"] for row in rows}

    def recorded_s(self) -> dict[str, float]:
        """Return the seconds recorded by each station."""
        total = func.sum(effort.c.recorded_s).label("recorded_s")
        rows = self._all(select(effort.c.station, total).group_by(effort.c.station))
        return {row["station"]: row["recorded_s"] for row in rows}

    def frequencies(self, wanted: FrequencyFilter) -> list[Frequency]:
        """Return counts and recorded seconds by station and bucket, ordered by both."""
        found: dict[tuple[str, int | None], Frequency] = {}

        def at(row: Any) -> Frequency:
            key = (row["station"], _bucket_start(row["bucket"], wanted))
            return found.setdefault(key, Frequency(*key))

        for row in self._all(_effort_query(wanted)):
            at(row).recorded_s = row["recorded_s"]
        for row in self._all(_count_query(wanted)):
            frequency = at(row)
            if row["kind"] == "noise":
                frequency.n_noise += row["n"]
            elif row["is_novel"]:
                frequency.n_novel += row["n"]
            else:
                frequency.counts[row["type_id"]] = row["n"]
        return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1] or 0))]

    def _all(self, statement: Any) -> Sequence[Any]:
        try:
            with self._readers.connect() as connection:
                return connection.execute(statement).mappings().all()
        except DBAPIError as error:
            raise _unreadable(error) from error


def _unreadable(error: DBAPIError) -> Refusal:
    return Refusal(f"the store cannot be read now ({error.orig})", reason="STORE_UNAVAILABLE")


def _song_conditions(wanted: SongFilter) -> list[ColumnElement[bool]]:
    conditions = _time_conditions(songs.c.start_ms, wanted.start_ms, wanted.end_ms)
    if wanted.station is not None:
        conditions.append(songs.c.station == wanted.station)
    if wanted.session is not None:
        conditions.append(songs.c.session == wanted.session)
    if wanted.type_id is not None:
        conditions += [songs.c.type_id == wanted.type_id, songs.c.is_novel.is_(False)]
    if wanted.only_novel:
        conditions.append(songs.c.is_novel.is_(True))
    if not wanted.include_noise:
        conditions.append(songs.c.kind == "song")
    return conditions


def _time_conditions(column: ColumnElement[int], start_ms: int | None, end_ms: int | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if start_ms is not None:
        conditions.append(column >= start_ms)
    if end_ms is not None:
        conditions.append(column < end_ms)
    return conditions


def _bucket(column: ColumnElement[int], wanted: FrequencyFilter) -> ColumnElement[int]:
    """Bucket number of a time; without a bucket width everything is in number 0."""
    if wanted.bucket_ms is None:
        return literal(0)
    return (column - (wanted.start_ms or 0)) // wanted.bucket_ms


def _bucket_start(number: int, wanted: FrequencyFilter) -> int | None:
    return None if wanted.bucket_ms is None else (wanted.start_ms or 0) + number * wanted.bucket_ms


def _effort_query(wanted: FrequencyFilter) -> Any:
    bucket = _bucket(effort.c.hour_ms, wanted).label("bucket")
    conditions = _time_conditions(effort.c.hour_ms, wanted.start_ms, wanted.end_ms)
    if wanted.stations:
        conditions.append(effort.c.station.in_(wanted.stations))
    total = func.sum(effort.c.recorded_s).label("recorded_s")
    return select(effort.c.station, bucket, total).where(*conditions).group_by(effort.c.station, bucket)


def _count_query(wanted: FrequencyFilter) -> Any:
    bucket = _bucket(songs.c.start_ms, wanted).label("bucket")
    conditions = _time_conditions(songs.c.start_ms, wanted.start_ms, wanted.end_ms)
    if wanted.stations:
        conditions.append(songs.c.station.in_(wanted.stations))
    if wanted.type_ids:
        conditions.append(songs.c.type_id.in_(wanted.type_ids))
    keys = (songs.c.station, bucket, songs.c.type_id, songs.c.is_novel, songs.c.kind)
    count = func.count().label("n")
    return select(*keys, count).where(*conditions).group_by(*keys).order_by(count.desc(), songs.c.type_id)
