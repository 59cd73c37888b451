"""A microphone, through PortAudio: the callback only copies into a ring buffer, everything else happens outside of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from songcore.errors import ConfigError
from songcore.resample import check_sample_rate
from songstation.device_calls import STUCK, came_back
from songstation.outbox import LossReason
from songstation.ring import Int16Array, RingBuffer, lost_between
from songstation.sources import Lost, chunk_samples

__all__ = ["InputDevice", "Microphone", "input_devices", "look_for_devices"]

RING_S = 10.0
"""So long may the rest of the program stand still."""
RELEASE_S = 2.0
"""A device that is not stopped within this never will be."""


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that can record."""

    name: str
    n_channels: int
    sample_rate_hz: int
    is_default: bool


def input_devices() -> list[InputDevice]:
    """Return the devices that can record; raises ConfigError PORTAUDIO_MISSING."""
    sounddevice = _sounddevice()
    default = sounddevice.default.device[0]
    return [
        InputDevice(d["name"], d["max_input_channels"], round(d["default_samplerate"]), d["index"] == default)
        for d in sounddevice.query_devices()
        if d["max_input_channels"] > 0
    ]


def look_for_devices() -> None:
    """Let PortAudio see the devices that were plugged in since; no device may be open."""
    sounddevice = _sounddevice()
    # There is no other way; PortAudio lists devices once, when it is initialised.
    sounddevice._terminate()  # noqa: SLF001 - what sounddevice's own documentation names for this
    sounddevice._initialize()  # noqa: SLF001 - likewise


class Microphone:
    """A capture device by name, part of a name, or number; the system's default without one.

    Records one channel, or as many as it takes to pick ``channel``, counted from 1. A device that delivers nothing for
    ``silent_s`` is gone. Raises ConfigError DEVICE_MISSING when there is no such device or it refuses the rate.
    """

    can_wait = False

    def __init__(
        self,
        device: str | None = None,
        *,
        sample_rate_hz: int | None = None,
        channel: int | None = None,
        chunk_s: float = 0.5,
        silent_s: float = 10.0,
    ) -> None:
        sounddevice = _sounddevice()
        wanted = int(device) if device and device.isdecimal() else device
        try:
            found = sounddevice.query_devices(wanted, "input")
            self.sample_rate_hz = sample_rate_hz or round(found["default_samplerate"])
            check_sample_rate(self.sample_rate_hz)
            self._channel = (channel or 1) - 1
            self._ring = RingBuffer(round(RING_S * self.sample_rate_hz))
            self._pending = bytearray()
            self._previous_end_s: float | None = None
            self._stream = sounddevice.InputStream(
                samplerate=self.sample_rate_hz,
                device=wanted,
                channels=self._channel + 1,
                dtype="int16",
                callback=self._copy,
            )
        except (ValueError, sounddevice.PortAudioError) as error:
            raise ConfigError(
                f"cannot record from {device or 'the default device'} ({error}); see --list-devices, and try another "
                "--rate or --channel",
                reason="DEVICE_MISSING",
            ) from error
        self.name = str(found["name"])
        self._n_chunk = chunk_samples(chunk_s, self.sample_rate_hz)
        self._poll_s, self._silent_s, self._is_stuck = chunk_s / 4, silent_s, False

    def begin(self, now: Callable[[], datetime]) -> datetime:
        """Start the device; the first sample is now, to within the device's latency. Raises ConfigError DEVICE_MISSING."""
        try:
            self._stream.start()
        except _sounddevice().PortAudioError as error:
            raise ConfigError(f"the device {self.name} does not start ({error})", reason="DEVICE_MISSING") from error
        return now()

    async def chunks(self) -> AsyncIterator[bytes | Lost]:
        """Yield chunks and losses until the device is gone: then the loss so far, and ConfigError DEVICE_LOST."""
        loop = asyncio.get_running_loop()
        heard_s = loop.time()
        while True:
            # Asked before the ring is read: a device that is gone by then has nothing more to write.
            is_active, n_before = self._stream.active, self._ring.n_read
            for chunk in self._take():
                yield chunk
            if self._ring.n_read > n_before:
                heard_s = loop.time()
            elif loop.time() - heard_s > self._silent_s or not is_active:
                # A stream that runs and gives nothing hangs in the sound system. Stopping it may never return, and
                # the event loop was seen to stand still after it did: it is not touched any more.
                self._is_stuck = self._is_stuck or is_active
                for chunk in self.finish():
                    yield chunk
                yield Lost(round((loop.time() - heard_s) * self.sample_rate_hz), LossReason.DEVICE_LOST)
                raise ConfigError(f"the device {self.name} delivers no more sound", reason="DEVICE_LOST")
            await asyncio.sleep(self._poll_s)

    def finish(self) -> list[bytes | Lost]:
        """Stop the device, and return what it gave that was not yielded, the last chunk shorter than the others."""
        self._release(self._stream.stop)
        return [*self._take(), *self._flush()]

    def close(self) -> None:
        """Let go of the device; raises ConfigError DEVICE_STUCK when the sound system does not."""
        self._release(self._stream.close)
        if self._is_stuck:
            raise ConfigError(f"the sound system holds on to the device {self.name}", reason=STUCK)

    def _release(self, call: Callable[[], object]) -> None:
        # What holds one call would hold the next as well.
        self._is_stuck = self._is_stuck or not came_back(call, RELEASE_S)

    def _take(self) -> Iterator[bytes | Lost]:
        """Empty the ring: yield whole chunks and losses, and keep what is shorter than a chunk."""
        while True:
            n_lost, samples = self._ring.read(self._n_chunk - len(self._pending) // 2)
            if n_lost:
                yield from self._flush()
                yield Lost(n_lost, LossReason.DEVICE_OVERRUN)
            elif not len(samples):
                return
            self._pending += samples.astype("<i2", copy=False).tobytes()
            if len(self._pending) == 2 * self._n_chunk:
                yield from self._flush()

    def _flush(self) -> Iterator[bytes]:
        """Yield what is kept, if anything."""
        chunk = bytes(self._pending)
        self._pending.clear()
        if chunk:
            yield chunk

    def _copy(self, block: Int16Array, n_samples: int, time: Any, status: Any) -> None:
        """Take a block (n, n_channels) from PortAudio's thread."""
        begin_s = time.inputBufferAdcTime
        if status.input_overflow:
            self._ring.lose(lost_between(self._previous_end_s, begin_s, self.sample_rate_hz, n_samples))
        self._ring.write(block[:, self._channel])
        self._previous_end_s = begin_s + n_samples / self.sample_rate_hz


def _sounddevice() -> Any:
    try:
        import sounddevice
    except OSError as error:
        raise ConfigError(
            f"no sound system ({error}); install PortAudio (Debian: apt install libportaudio2)",
            reason="PORTAUDIO_MISSING",
        ) from error
    return sounddevice
