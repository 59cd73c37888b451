"""Recordings as they come back from the field: broken in every way that is known."""

import struct
from pathlib import Path

import numpy as np
import soundfile

from bundles import soundscape

__all__ = ["REASONS", "write_bad_recordings"]

REASONS = {
    "absent_channels.wav": "NOT_AUDIO",
    "empty.wav": "EMPTY_RECORDING",
    "header_only.wav": "EMPTY_RECORDING",
    "nan.wav": "NOT_FINITE",
    "text.wav": "NOT_AUDIO",
    "too_slow.wav": "FORMAT_UNSUPPORTED",
}
"""File name and the reason with which it is refused."""


def write_bad_recordings(folder: Path) -> None:
    """Write every recording of `REASONS` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("recorder 7: battery low\n" * 500)
    (folder / "absent_channels.wav").write_bytes(
        _wav_header(n_channels=0, rate_hz=48_000, n_bytes=9_600) + bytes(9_600)
    )
    (folder / "header_only.wav").write_bytes(_wav_header(n_channels=1, rate_hz=48_000, n_bytes=0))
    (folder / "too_slow.wav").write_bytes(_wav_header(n_channels=1, rate_hz=4_000, n_bytes=8_000) + bytes(8_000))
    samples, _ = soundscape([0, 1], 5)
    samples[len(samples) // 2 :] = np.nan
    soundfile.write(folder / "nan.wav", samples, 24_000, subtype="FLOAT")


def _wav_header(*, n_channels: int, rate_hz: int, n_bytes: int) -> bytes:
    """Return a 44-byte header of 16-bit PCM."""
    width = 2 * n_channels
    form = struct.pack("<HHIIHH", 1, n_channels, rate_hz, rate_hz * width, width, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + n_bytes)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", n_bytes)
    )


def sparse_wav(path: Path, *, rate_hz: int, duration_s: float) -> None:
    """Write a silent mono 16-bit WAV of any length at once, as a file with a hole."""
    n_bytes = int(duration_s * rate_hz) * 2
    with path.open("wb") as file:
        file.write(_wav_header(n_channels=1, rate_hz=rate_hz, n_bytes=n_bytes))
        file.truncate(44 + n_bytes)
