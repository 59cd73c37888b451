"""Questions about how often each type is sung, answered from counts that were kept as the songs were stored.

A question is answered from the widest buckets that its bounds and its own buckets are made of: a season by day takes a
few thousand rows however many songs there were.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Select, select, tuple_

from songcore.decisions import View
from songserve.schema import EVER, buckets
from songserve.tally import Tally, by_number
from songserve.times import DAY_MS, HOUR_MS

__all__ = ["Frequency", "FrequencyFilter", "FrequencyPosition", "bucket_query", "combined", "stations_query"]

FrequencyPosition = tuple[str, int | None]
"""Station and start time in milliseconds of a bucket, None without buckets of time: where a page ends."""


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

    @property
    def most_rows(self) -> int | None:
        """Kept buckets that one of the wanted buckets is made of at most; None for no bound."""
        return self.bucket_ms and self.bucket_ms // self.width_ms


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


def bucket_query(
    wanted: FrequencyFilter, stations: Sequence[str], after: FrequencyPosition | None = None, size: int | None = None
) -> Select[Any]:
    """Return the question for the rows that answer this, in order: those of ``size`` buckets behind ``after``, or more."""
    conditions = [buckets.c.width_ms == wanted.width_ms, buckets.c.station.in_(stations)]
    if wanted.start_ms is not None:
        conditions.append(buckets.c.start_ms >= wanted.start_ms)
    if wanted.end_ms is not None:
        conditions.append(buckets.c.start_ms < wanted.end_ms)
    if after is not None:
        station, start_ms = after
        # No row of the bucket before is taken again, however many it was made of.
        behind = None if start_ms is None or wanted.bucket_ms is None else start_ms + wanted.bucket_ms
        place = tuple_(buckets.c.station, buckets.c.start_ms)
        conditions.append(buckets.c.station > station if behind is None else place >= (station, behind))
    columns = (buckets.c.station, buckets.c.start_ms, buckets.c.recorded_s, buckets.c.tally)
    ordered = select(*columns).where(*conditions).order_by(buckets.c.station, buckets.c.start_ms)
    return ordered.limit(size * wanted.most_rows) if size and wanted.most_rows else ordered


def combined(wanted: FrequencyFilter, rows: Iterable[Any], view: View) -> Iterator[Frequency]:
    """Give rows of `bucket_query` put together to the buckets that are wanted, by people's decisions."""
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
        n_novel, n_noise = sum(novel.values()), sum(noise.values())
        yield Frequency(station, start_ms, recorded_s, counts, n_novel=n_novel, n_noise=n_noise)


def _start(row_ms: int, wanted: FrequencyFilter) -> int | None:
    if wanted.bucket_ms is None:
        return None
    first = wanted.start_ms or 0
    return first + (row_ms - first) // wanted.bucket_ms * wanted.bucket_ms
