"""Questions about how often each type is sung, answered from counts that were kept as the songs were stored.

A question is answered from the widest buckets that its bounds and its own buckets are made of: a season by day takes a
few thousand rows however many songs there were.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, bindparam, func, literal_column, select

from songserve.schema import DAY_MS, EVER, HOUR_MS, counts, effort

__all__ = ["Frequency", "FrequencyFilter", "combined", "count_query", "effort_query", "stations_query"]


_TYPE, _N = 1, 5
"""Columns of `count_query`."""


@dataclass(frozen=True)
class FrequencyFilter:
    """What to count; empty sequences match everything. Times are UTC milliseconds of whole hours, half-open."""

    start_ms: int | None = None
    end_ms: int | None = None
    bucket_ms: int | None = None
    stations: Sequence[str] = ()
    type_ids: Sequence[str] = ()

    @property
    def width_ms(self) -> int:
        """Width of the kept buckets that answer this: an hour, a day, or `EVER`."""
        marks = [mark for mark in (self.start_ms, self.end_ms, self.bucket_ms) if mark is not None]
        if not marks:
            return EVER
        return HOUR_MS if any(mark % DAY_MS for mark in marks) else DAY_MS


@dataclass
class Frequency:
    """One station in one bucket of time."""

    station: str
    start_ms: int | None
    recorded_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    """Songs by type, most frequent first, novel ones and noise excluded."""
    n_novel: int = 0
    n_noise: int = 0


def stations_query() -> Select[Any]:
    """Return the question for every station that ever recorded.

    With them a question about all stations can use indexes that begin with the station.
    """
    return select(effort.c.station).where(effort.c.width_ms == EVER)


def effort_query(wanted: FrequencyFilter, stations: Sequence[str]) -> Select[Any]:
    """Return the question for recorded seconds by station and bucket."""
    bucket = _bucket(effort, wanted).label("bucket")
    conditions = _conditions(effort, wanted, stations)
    if wanted.bucket_ms == wanted.width_ms:
        return select(effort.c.station, bucket, effort.c.recorded_s).where(*conditions)
    grouped = select(effort.c.station, bucket, func.sum(effort.c.recorded_s)).where(*conditions)
    return grouped.group_by(effort.c.station, literal_column("bucket"))


def count_query(wanted: FrequencyFilter, stations: Sequence[str]) -> Select[Any]:
    """Return the question for songs by station, bucket and type."""
    bucket = _bucket(counts, wanted).label("bucket")
    conditions = _conditions(counts, wanted, stations)
    if wanted.type_ids:
        conditions.append(counts.c.type_id.in_(wanted.type_ids))
    keys = (counts.c.station, counts.c.type_id, counts.c.is_novel, counts.c.kind)
    if wanted.bucket_ms == wanted.width_ms:  # what is kept is what is wanted
        return select(*keys, bucket, counts.c.n).where(*conditions)
    return select(*keys, bucket, func.sum(counts.c.n)).where(*conditions).group_by(*keys, literal_column("bucket"))


def combined(wanted: FrequencyFilter, recorded: Iterable[Any], counted: Iterable[Any]) -> list[Frequency]:
    """Return rows of both queries put together, ordered by station and time."""
    found: dict[tuple[str, int], Frequency] = {}

    def at(station: str, bucket: int) -> Frequency:
        if (station, bucket) not in found:
            start = None if wanted.bucket_ms is None else (wanted.start_ms or 0) + bucket * wanted.bucket_ms
            found[station, bucket] = Frequency(station, start)
        return found[station, bucket]

    for station, bucket, recorded_s in recorded:
        at(station, bucket).recorded_s = recorded_s
    # By falling number, then type; two stable sorts, as there can be a hundred thousand rows.
    ordered = sorted(counted, key=itemgetter(_TYPE))
    ordered.sort(key=itemgetter(_N), reverse=True)
    for station, type_id, is_novel, kind, bucket, n in ordered:
        frequency = found.get((station, bucket)) or at(station, bucket)
        if kind == "noise":
            frequency.n_noise += int(n)
        elif is_novel:
            frequency.n_novel += int(n)
        else:
            frequency.counts[type_id] = int(n)
    return [found[key] for key in sorted(found)]


def _conditions(table: Table, wanted: FrequencyFilter, stations: Sequence[str]) -> list[ColumnElement[bool]]:
    conditions = [table.c.width_ms == wanted.width_ms, table.c.station.in_(stations)]
    if wanted.start_ms is not None:
        conditions.append(table.c.start_ms >= wanted.start_ms)
    if wanted.end_ms is not None:
        conditions.append(table.c.start_ms < wanted.end_ms)
    return conditions


def _bucket(table: Table, wanted: FrequencyFilter) -> ColumnElement[int]:
    """Bucket number of a row; without a bucket width everything is in number 0."""
    if wanted.bucket_ms is None:
        return literal_column("0")
    start, width = ((wanted.start_ms or 0), wanted.bucket_ms)
    return (table.c.start_ms - _plain("start", start)) // _plain("width", width)


def _plain(name: str, value: int) -> ColumnElement[int]:
    # Written into the statement: to PostgreSQL two parameters are two expressions, even when their values are equal.
    return bindparam(name, value, literal_execute=True)
