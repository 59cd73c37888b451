"""Questions about how often each type is sung, answered from counts that were kept as the songs were stored.

A question is answered from the widest buckets that its bounds and its own buckets are made of: a season by day takes a
few thousand rows however many songs there were.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Select, select

from songcore.decisions import View
from songserve.schema import EVER, buckets
from songserve.tally import Tally, by_number
from songserve.times import DAY_MS, HOUR_MS

__all__ = ["Frequency", "FrequencyFilter", "bucket_query", "combined", "stations_query"]


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

    With them a question about all stations can use an index that begins with the station.
    """
    return select(buckets.c.station).where(buckets.c.width_ms == EVER)


def bucket_query(wanted: FrequencyFilter, stations: Sequence[str]) -> Select[Any]:
    """Return the question for the rows that answer this, in order."""
    conditions = [buckets.c.width_ms == wanted.width_ms, buckets.c.station.in_(stations)]
    if wanted.start_ms is not None:
        conditions.append(buckets.c.start_ms >= wanted.start_ms)
    if wanted.end_ms is not None:
        conditions.append(buckets.c.start_ms < wanted.end_ms)
    columns = (buckets.c.station, buckets.c.start_ms, buckets.c.recorded_s, buckets.c.tally)
    return select(*columns).where(*conditions).order_by(buckets.c.station, buckets.c.start_ms)


def combined(wanted: FrequencyFilter, rows: Iterable[Any], view: View) -> list[Frequency]:
    """Return rows of `bucket_query` put together to the buckets that are wanted, by people's decisions."""
    found: list[Frequency] = []
    types = frozenset(view.resolve(type_id) for type_id in wanted.type_ids)
    for (station, start_ms), group in groupby(rows, key=lambda row: (row[0], _start(row[1], wanted))):
        (_, _, recorded_s, text), *more = group
        tally = Tally.read(text)  # one row, the usual case, is in order as it is written
        for _, _, further_s, text in more:
            recorded_s += further_s
            tally.merge(Tally.read(text))
        if view.last_seq:
            tally = tally.decided(view)
        songs = by_number(tally.songs) if more or view.last_seq else tally.songs
        counts, novel, noise = (
            {key: n for key, n in part.items() if key in types} if types else part
            for part in (songs, tally.novel, tally.noise)
        )
        found.append(
            Frequency(station, start_ms, recorded_s, counts, n_novel=sum(novel.values()), n_noise=sum(noise.values()))
        )
    return found


def _start(row_ms: int, wanted: FrequencyFilter) -> int | None:
    if wanted.bucket_ms is None:
        return None
    first = wanted.start_ms or 0
    return first + (row_ms - first) // wanted.bucket_ms * wanted.bucket_ms
