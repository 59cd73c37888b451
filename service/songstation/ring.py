"""The buffer between a sound card's callback and everything slower."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

__all__ = ["Int16Array", "RingBuffer", "lost_between"]

Int16Array = NDArray[np.int16]


class RingBuffer:
    """The last samples of a device, for one writing thread and one reading thread, without locks.

    Writing copies and returns: what does not fit is counted as lost, in its place.
    """

    def __init__(self, capacity: int) -> None:
        self._samples = np.zeros(capacity, np.int16)
        # Each counter has one writer, and CPython replaces an int in one step; samples are copied before they count.
        self._n_written = 0
        self._n_read = 0
        self._losses: deque[tuple[int, int]] = deque()  # samples written before the loss, samples lost

    @property
    def n_read(self) -> int:
        """Samples that were read, the lost ones not counted."""
        return self._n_read

    def write(self, samples: Int16Array) -> None:
        """Append samples (n,) int16; all of them are lost when they do not all fit."""
        capacity, begin = len(self._samples), self._n_written
        if len(samples) > capacity - (begin - self._n_read):
            self.lose(len(samples))
            return
        place = begin % capacity
        n_first = min(len(samples), capacity - place)
        self._samples[place : place + n_first] = samples[:n_first]
        self._samples[: len(samples) - n_first] = samples[n_first:]
        self._n_written = begin + len(samples)

    def lose(self, n_samples: int) -> None:
        """Note that the device lost samples before the next write."""
        self._losses.append((self._n_written, n_samples))

    def read(self, most: int) -> tuple[int, Int16Array]:
        """Return how many samples are lost here, and the samples after that, at most ``most`` and up to the next loss."""
        end = min(self._n_written, self._n_read + most)
        n_lost = 0
        while self._losses and self._losses[0][0] == self._n_read:
            n_lost += self._losses.popleft()[1]
        if self._losses:
            end = min(end, self._losses[0][0])
        places = np.arange(self._n_read, end) % len(self._samples)
        samples = self._samples[places]
        self._n_read = end
        return n_lost, samples


def lost_between(previous_end_s: float | None, begin_s: float, rate_hz: int, n_block: int) -> int:
    """Estimate the samples a device lost before a block of ``n_block``.

    From the times that its clock gives to the end of the block before and to the begin of this one; a block's worth
    where the clock says nothing useful.
    """
    if previous_end_s is None or begin_s <= previous_end_s:
        return n_block
    return max(1, round((begin_s - previous_end_s) * rate_hz))
