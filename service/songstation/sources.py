"""Where sound comes from: what a source is, and the one that plays a recording."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from math import inf
from pathlib import Path
from typing import Literal, Protocol
from uuid import UUID, uuid5

import numpy as np

from songcore.arrays import FloatArray
from songcore.audio import open_recording
from songcore.recorders import read_guano, stated_start, utc_start
from songstation.outbox import LossReason

__all__ = ["Lost", "Playback", "Source", "chunk_samples", "next_chunk", "to_pcm16"]

LEAST_SERVER_CHUNK_BYTES = 262_144
"""The smallest `max_chunk_bytes` that a server can be set to."""
MAX_CHUNK_SAMPLES = 130_000
"""So that a chunk is taken by every server, at 384 kHz too: noise as FLAC takes some 450 bytes more than its samples."""
HASHED_BYTES = 2**20
"""Of a recording's file, how much of its begin and of its end tells it from others; all of a night would take minutes."""
_RECORDINGS = UUID("3f0b5d0a-6d2e-5c43-9a53-9d5f7f1c2b86")


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
    finally:
        coming.cancel()
        stopping.cancel()
        await asyncio.gather(coming, stopping, return_exceptions=True)
    # One that came at the moment of the stop is taken as well.
    return None if coming.cancelled() else coming.result()


def to_pcm16(samples: FloatArray) -> bytes:
    """Return samples (n,) float32 in [-1, 1] as 16-bit little-endian; a 16-bit recording gives its own bytes back."""
    scaled: FloatArray = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767)
    return scaled.astype("<i2").tobytes()


class Playback:
    """A recording, ``speed`` times as fast as it was made; ``inf`` is as fast as it is taken.

    ``start`` is when it began: a time with its zone, what the file's header, its GUANO metadata or its name state, in ``zone``
    where they tell none, or now, when it is played. Raises InputError when it cannot be read; at the place where it breaks
    off when it is damaged there.
    """

    can_wait = True

    def __init__(
        self,
        path: Path,
        *,
        channel: int | None = None,
        speed: float = 1.0,
        chunk_s: float = 0.5,
        start: datetime | Literal["stated", "now"] = "stated",
        zone: tzinfo | None = None,
    ) -> None:
        self._path, self._speed, self._channel = path, speed, channel
        self._recording = open_recording(path, channel=channel)
        self.sample_rate_hz = self._recording.sample_rate_hz
        self._n_chunk = chunk_samples(chunk_s, self.sample_rate_hz)
        self._n_skipped = 0
        self.n_samples = self._recording.n_samples
        """That the file announces."""
        self.stated = start if isinstance(start, datetime) else None if start == "now" else self._stated()
        """When it began, as far as that is known: naive when its zone is not."""
        self.start = utc_start(self.stated, zone)
        """UTC time of the first sample; None where that is not known."""

    def _stated(self) -> datetime | None:
        guano = ""
        # What lies behind the sound may be what cannot be read.
        with suppress(OSError), self._path.open("rb") as file:
            guano = read_guano(file)
        return stated_start(self._path.name, comment=self._recording.comment, guano=guano)

    def begin(self, now: Callable[[], datetime]) -> datetime:
        """Return when the recording began, or now where that is not known."""
        return self.start or now()

    def session(self, station: str) -> UUID | None:
        """Return the UUID of the session that this recording is for a station, the same each time that it is played.

        None where its start is not known. What the UUID stands for: station, channel, sample rate, start, and the file by its
        size and its first and last `HASHED_BYTES`.
        """
        if self.start is None:
            return None
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            content = hashlib.sha256(file.read(HASHED_BYTES))
            file.seek(max(0, size - HASHED_BYTES))
            content.update(file.read(HASHED_BYTES))
        facts = (station, self._channel or 0, self.sample_rate_hz, self.start.astimezone(UTC).isoformat(), size)
        return uuid5(_RECORDINGS, " ".join(map(str, (*facts, content.hexdigest()))))

    def skip(self, n_samples: int) -> None:
        """Begin to play behind the first so many samples."""
        self._n_skipped = n_samples

    async def chunks(self) -> AsyncIterator[bytes | Lost]:
        """Yield a chunk when its last sample would have been heard."""
        loop = asyncio.get_running_loop()
        n_left = self._n_skipped
        began_s, n_played = loop.time(), 0
        for block in self._recording.blocks(self._n_chunk / self.sample_rate_hz):
            # Decoded and dropped: not every format can be entered in its middle to the sample.
            samples, n_left = block[n_left:], max(0, n_left - len(block))
            if not len(samples):
                await asyncio.sleep(0)
                began_s = loop.time()
                continue
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
