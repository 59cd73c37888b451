"""Where sound comes from: what a source is, and the one that plays a recording."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Protocol

import numpy as np

from songcore.arrays import FloatArray
from songcore.audio import open_recording
from songcore.recorders import start_time_in_name
from songstation.outbox import LossReason

__all__ = ["Lost", "Playback", "Source", "chunk_samples", "next_chunk", "to_pcm16"]

MAX_CHUNK_SAMPLES = 131_072
"""256 KiB, below any server's limit, at 384 kHz too."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Samples that never arrived."""

    n_samples: int
    reason: LossReason


class Source(Protocol):
    """A stream of samples with one clock."""

    sample_rate_hz: int
    can_wait: bool
    """A recording waits when nothing more can be kept; a bird does not."""

    def begin(self, now: Callable[[], datetime]) -> datetime:
        """Start, and return the UTC time of the first sample."""

    def chunks(self) -> AsyncIterator[bytes | Lost]:
        """Yield 16-bit little-endian mono chunks and losses, in order, as they become due."""

    def finish(self) -> Iterable[bytes | Lost]:
        """Take in nothing more, and return what was taken in and not yielded; `chunks` is not asked again."""

    def close(self) -> None:
        """Let go of device or file."""


def chunk_samples(chunk_s: float, sample_rate_hz: int) -> int:
    """Return the samples of a chunk of about ``chunk_s``."""
    return max(1, min(MAX_CHUNK_SAMPLES, round(chunk_s * sample_rate_hz)))


async def next_chunk(chunks: AsyncIterator[bytes | Lost], stop: asyncio.Event) -> bytes | Lost | None:
    """Return the next chunk, or None when there is none or the station is to stop; nothing is lost by that."""
    coming = asyncio.ensure_future(anext(chunks, None))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return coming.result() if coming.done() else None
    finally:
        coming.cancel()
        stopping.cancel()
        await asyncio.gather(coming, stopping, return_exceptions=True)


def to_pcm16(samples: FloatArray) -> bytes:
    """Return samples (n,) float32 in [-1, 1] as 16-bit little-endian; a 16-bit recording gives its own bytes back."""
    scaled: FloatArray = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767)
    return scaled.astype("<i2").tobytes()


class Playback:
    """A recording, ``speed`` times as fast as it was made; ``inf`` is as fast as it is taken.

    Raises InputError when it cannot be read; at the place where it breaks off when it is damaged there.
    """

    can_wait = True

    def __init__(self, path: Path, *, channel: int | None = None, speed: float = 1.0, chunk_s: float = 0.5) -> None:
        self._path, self._speed = path, speed
        self._recording = open_recording(path, channel=channel)
        self.sample_rate_hz = self._recording.sample_rate_hz
        self._n_chunk = chunk_samples(chunk_s, self.sample_rate_hz)
        self.n_samples = self._recording.n_samples
        """That the file announces."""

    def begin(self, now: Callable[[], datetime]) -> datetime:
        """Return the time that the file name states, or now."""
        return start_time_in_name(self._path.name) or now()

    async def chunks(self) -> AsyncIterator[bytes | Lost]:
        """Yield a chunk when its last sample would have been heard."""
        loop = asyncio.get_running_loop()
        began_s, n_played = loop.time(), 0
        for samples in self._recording.blocks(self._n_chunk / self.sample_rate_hz):
            n_played += len(samples)
            due_s = began_s + n_played / self.sample_rate_hz / self._speed if self._speed < inf else 0.0
            # Also when late, so that sending has its turn.
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            yield to_pcm16(samples)

    def finish(self) -> Iterable[bytes | Lost]:
        """Return nothing: what was not played is still in the recording."""
        return ()

    def close(self) -> None:
        """Close the file."""
        self._recording.close()
