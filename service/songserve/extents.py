"""What a session has listened to and not committed yet, and what it adds up to: sound by hour, loss by reason. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from songserve.intake import Chunk, Gap
from songserve.times import HOUR_MS

__all__ = ["Extent", "gap_s", "recorded_s"]


@dataclass(frozen=True)
class Extent:
    """Where a chunk or gap lies."""

    last_sequence_number: int
    start_sample: int
    end_sample: int
    gap_reason: str | None
    """None of sound."""

    @classmethod
    def of(cls, item: Chunk | Gap) -> Self:
        """Return the extent of what came in."""
        reason = item.reason if isinstance(item, Gap) else None
        return cls(item.last_sequence_number, item.start_sample, item.start_sample + item.sample_count, reason)


def recorded_s(extents: Iterable[Extent], session_start_ms: int, sample_rate_hz: int) -> dict[int, float]:
    """Return the seconds of sound by the hour they were recorded in, UTC milliseconds; gaps are not effort."""
    seconds: dict[int, float] = {}
    for extent in extents:
        if extent.gap_reason is not None:
            continue
        begin = session_start_ms + extent.start_sample * 1000 / sample_rate_hz
        end = session_start_ms + extent.end_sample * 1000 / sample_rate_hz
        while begin < end:
            hour = int(begin // HOUR_MS) * HOUR_MS
            until = min(end, hour + HOUR_MS)
            seconds[hour] = seconds.get(hour, 0.0) + (until - begin) / 1000
            begin = until
    return seconds


def gap_s(extents: Iterable[Extent], sample_rate_hz: int) -> dict[str, float]:
    """Return the seconds declared lost, by reason."""
    seconds: dict[str, float] = {}
    for extent in extents:
        if extent.gap_reason is not None:
            lost_s = (extent.end_sample - extent.start_sample) / sample_rate_hz
            seconds[extent.gap_reason] = seconds.get(extent.gap_reason, 0.0) + lost_s
    return seconds
