"""Decode recordings: WAV, FLAC, OGG, MP3 and whatever else libsndfile reads, as mono float32 blocks.

The one rule for channels: the mean of all channels, unless one is chosen, counted from 1. A bird heard by any microphone
is then heard, and nothing depends on which decoder ran. Where channels carry different things (a playback stimulus on
1 and the bird on 2, say), choose.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import soundfile

from songcore.arrays import FloatArray
from songcore.errors import InputError
from songcore.resample import check_sample_rate
from songcore.truncation import is_cut_short

__all__ = ["AUDIO_SUFFIXES", "Recording", "open_recording", "recordings_below", "to_mono"]

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".w64", ".rf64", ".au", ".caf"}
)
"""File name endings that are taken for recordings when a folder is searched."""

MAX_CHANNELS = 64

LENGTH_UNKNOWN = 2**63 - 1
"""What libsndfile gives as the length of a FLAC whose header has none; it then fails at the file's end."""

MAX_ENERGY = 1e30
"""Sum of squares of a block up to which no power overflows float32; files scaled to 32-bit integers stay far below."""


def to_mono(samples: FloatArray, channel: int | None) -> FloatArray:
    """Return (n,) float32 from samples (n, n_channels): the mean, or one channel counted from 1.

    Raises InputError when there is no such channel, or when a sample is not a finite number.
    """
    n_channels = samples.shape[1]
    if channel is not None and not 1 <= channel <= n_channels:
        has = "one channel; choose none" if n_channels == 1 else f"{n_channels} channels; choose 1 to {n_channels}"
        raise InputError(f"channel {channel} was chosen but the audio has {has}", reason="CHANNEL_MISSING")
    if n_channels == 1:
        mono = samples[:, 0]
    elif channel is None:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            mono = samples.mean(axis=1, dtype=np.float32)
    else:
        mono = samples[:, channel - 1]
    with np.errstate(all="ignore"):
        energy = np.dot(mono, mono)  # one pass without a temporary array
    if not energy < MAX_ENERGY:  # NaN is not less, either
        n_bad = int(np.count_nonzero(~np.isfinite(mono)))
        raise InputError(
            f"{n_bad} of {len(mono)} samples are NaN or infinite, or they are astronomically large; "
            "repair or leave out this recording",
            reason="NOT_FINITE",
        )
    return np.ascontiguousarray(mono, np.float32)


class Recording:
    """An open recording; iterate over `blocks` once. A context manager that closes the file."""

    def __init__(self, source: Path | BinaryIO, *, channel: int | None = None) -> None:
        self.name = source.name if isinstance(source, Path) else str(getattr(source, "name", "recording"))
        try:
            self._file = soundfile.SoundFile(source)
        except (soundfile.LibsndfileError, OSError, TypeError) as error:
            raise _explain(source, self.name, error) from error
        self.sample_rate_hz: int = self._file.samplerate
        self.n_channels: int = self._file.channels
        self.n_samples: int = self._file.frames
        """Samples per channel that the header announces."""
        self.comment: str = self._file.comment
        """That the file carries as metadata; empty for none."""
        self.channel = channel
        try:
            self._check(source)
        except InputError:
            self._file.close()
            raise

    def _check(self, source: Path | BinaryIO) -> None:
        check_sample_rate(self.sample_rate_hz)
        if not 1 <= self.n_channels <= MAX_CHANNELS:
            raise InputError(
                f"{self.name} has {self.n_channels} channels; 1 to {MAX_CHANNELS} are taken",
                reason="FORMAT_UNSUPPORTED",
            )
        if self.n_samples == 0:
            raise InputError(
                f"{self.name} holds no samples; the recorder wrote no more than a header", reason="EMPTY_RECORDING"
            )
        if self.n_samples == LENGTH_UNKNOWN:
            raise InputError(
                f"{self.name} has no length in its header, as encoders leave it that write to a pipe; decode it and "
                "encode it again, into a file",
                reason="LENGTH_MISSING",
            )
        to_mono(np.zeros((0, self.n_channels), np.float32), self.channel)
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            self._is_cut_short = is_cut_short(file)

    def blocks(self, block_s: float = 10.0) -> Iterator[FloatArray]:
        """Yield the recording as mono blocks (n,) float32 in [-1, 1]; memory stays bounded however long it is.

        Raises InputError NOT_FINITE, or TRUNCATED after everything readable was yielded.
        """
        n_block = max(1, int(block_s * self.sample_rate_hz))
        n_read, broken = 0, None
        while not broken:
            block = np.empty((n_block, self.n_channels), np.float32)
            try:
                n = len(self._file.read(out=block))
            except soundfile.LibsndfileError as error:
                # What was decoded before the break is in the block.
                broken, n = error, self._file.tell() - n_read
            if n <= 0:
                break
            n_read += n
            yield to_mono(block[:n], self.channel)
        if broken:
            raise self._truncated(n_read) from broken
        # An MP3's header is an estimate: encoder delay, padding and tags make it differ by up to half a second.
        n_tolerated = self.sample_rate_hz if self._file.format in {"MP3", "MPEG"} else 0
        if n_read + n_tolerated < self.n_samples or self._is_cut_short:
            raise self._truncated(n_read)

    def _truncated(self, n_read: int) -> InputError:
        return InputError(
            f"{self.name} ends after {n_read / self.sample_rate_hz:.2f} s, before its header says it should; "
            "what comes before that can be read; copy the file again from the recorder",
            reason="TRUNCATED",
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_recording(source: Path | str | BinaryIO, *, channel: int | None = None) -> Recording:
    """Open a recording from a path or a seekable binary file.

    Raises InputError: NOT_FOUND, EMPTY_RECORDING, NOT_AUDIO, FORMAT_UNSUPPORTED, LENGTH_MISSING or CHANNEL_MISSING.
    """
    return Recording(Path(source) if isinstance(source, str) else source, channel=channel)


def recordings_below(folder: Path) -> list[Path]:
    """Return the files of `AUDIO_SUFFIXES` in the folder and its subfolders, sorted.

    Hidden files and folders are left out: macOS writes a ``._`` twin beside each recording.
    """
    found: list[Path] = []
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())


def _explain(source: Path | BinaryIO, name: str, error: Exception) -> InputError:
    if isinstance(source, Path):
        if not source.exists():
            return InputError(f"{source} does not exist", reason="NOT_FOUND")
        if source.is_dir():
            return InputError(f"{source} is a directory, not a recording", reason="NOT_AUDIO")
    is_empty = source.stat().st_size == 0 if isinstance(source, Path) else source.seek(0, 2) == 0
    if is_empty:
        return InputError(f"{name} is an empty file", reason="EMPTY_RECORDING")
    # The whole message of libsndfile would name the file object's address.
    what = getattr(error, "error_string", error)
    return InputError(
        f"{name} cannot be decoded ({what}); expected WAV, FLAC, OGG or MP3 with at least one channel",
        reason="NOT_AUDIO",
    )
