"""Sound from a pipe: whatever program can write raw samples is a microphone, as ``arecord -t raw > pipe`` is."""

import asyncio
import os
import select
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from songcore.errors import ConfigError
from songstation.outbox import LossReason
from songstation.sources import Lost, chunk_samples

__all__ = ["Pipe"]

_FIRST_SOUND_S = 2.0
_READ_BYTES = 65_536


class Pipe:
    """A named pipe (``mkfifo``) with 16-bit little-endian mono samples; it is live, and comes back when its writer does.

    A writer that gives nothing for ``silent_s`` is gone, even if it holds the pipe open. Raises ConfigError DEVICE_MISSING
    when there is no pipe, or nobody writes into it.
    """

    can_wait = False

    def __init__(self, path: Path, *, sample_rate_hz: int, chunk_s: float = 0.5, silent_s: float = 10.0) -> None:
        self.sample_rate_hz, self.name, self._silent_s = sample_rate_hz, str(path), silent_s
        self._n_bytes = 2 * chunk_samples(chunk_s, sample_rate_hz)
        self._pending = bytearray()
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}", reason="DEVICE_MISSING") from error
        # Its session begins with its first sample, so that is waited for.
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode) or not select.select([self._fd], [], [], _FIRST_SOUND_S)[0]:
            os.close(self._fd)
            raise ConfigError(
                f"{path} is no pipe that somebody writes into; make one with mkfifo and start its writer",
                reason="DEVICE_MISSING",
            )

    def begin(self, now: Callable[[], datetime]) -> datetime:
        """Return now, as the first sample is there."""
        return now()

    async def chunks(self) -> AsyncIterator[bytes | Lost]:
        """Yield chunks until the writer is gone or silent: then what is lost of it, and ConfigError DEVICE_LOST."""
        readable, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._fd, readable.set)
        heard_s = loop.time()
        try:
            while await _is_set_within(readable, self._silent_s):
                readable.clear()
                if not self._read():
                    break
                heard_s = loop.time()
                while len(self._pending) >= self._n_bytes:
                    yield self._take(self._n_bytes)
        finally:
            loop.remove_reader(self._fd)
        for rest in self.finish():
            yield rest
        yield Lost(round((loop.time() - heard_s) * self.sample_rate_hz), LossReason.DEVICE_LOST)
        raise ConfigError(f"nobody writes into {self.name} any more", reason="DEVICE_LOST")

    def finish(self) -> list[bytes | Lost]:
        """Return what was read and not yielded, whole samples of it, in chunks that are no longer than the others."""
        rest = self._take(len(self._pending) & ~1)
        return [rest[begin : begin + self._n_bytes] for begin in range(0, len(rest), self._n_bytes)]

    def close(self) -> None:
        """Close it; its writer notices."""
        os.close(self._fd)

    def _read(self) -> bool:
        """Take what is in the pipe; return False when it is empty for good."""
        try:
            content = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return True
        self._pending += content
        return bool(content)

    def _take(self, n_bytes: int) -> bytes:
        taken = bytes(self._pending[:n_bytes])
        del self._pending[:n_bytes]
        return taken


async def _is_set_within(event: asyncio.Event, limit_s: float) -> bool:
    # Python 3.11's `wait_for` forgets that it was cancelled when the event came at that moment: a stop would wait for more.
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
    return event.is_set()
