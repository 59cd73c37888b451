"""What time it was at a sample. Pure: readings of the clocks are arguments.

Samples are counted and never moved. The session's start, by the wall clock as it was then, gives each its time; when what the
wall clock says now has gone too far from that for a while (it was set, or the sound card's crystal drifts), it is time for a
new session, which begins at the same sample with a better start.
"""

from collections import deque
from datetime import datetime, timedelta

__all__ = ["SampleClock"]

_N_READINGS = 10
"""So many chunks in a row must agree: a single one may only have come late."""


class SampleClock:
    """The time of each sample of a session, and how far the wall clock is from it."""

    def __init__(self, start: datetime, sample_rate_hz: int) -> None:
        self.start, self.sample_rate_hz = start, sample_rate_hz
        self._offsets_s: deque[float] = deque(maxlen=_N_READINGS)

    def time_of(self, sample: int) -> datetime:
        """Return the UTC time of a sample."""
        return self.start + timedelta(seconds=sample / self.sample_rate_hz)

    def observe(self, n_samples: int, wall: datetime) -> None:
        """Note what the wall clock says when so many samples have arrived."""
        self._offsets_s.append((wall - self.time_of(n_samples)).total_seconds())

    @property
    def offset_s(self) -> float:
        """How far the wall clock is ahead of the samples, as far as lateness of the last chunks cannot explain it."""
        if len(self._offsets_s) < _N_READINGS:
            return 0.0
        # Sound can only arrive late: the least late chunk tells. A clock put back makes all of them early.
        return min(self._offsets_s)

    def is_off(self, limit_s: float) -> bool:
        """Return whether the session's times have become wrong by more than the limit."""
        return abs(self.offset_s) > limit_s
