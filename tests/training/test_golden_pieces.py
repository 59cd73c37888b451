"""Pieces of recordings that a bundle proves itself on: the right ones, and however long the recording is."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from songcore.errors import InputError
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongPlace
from songtrain.export.golden import AFTER_S, BEFORE_S, golden_recordings

RATE_HZ = 24_000
LONG_S, SONG_S = 300, 290


@pytest.fixture
def long_recording(tmp_path: Path) -> Path:
    """Return five minutes of faint noise with a warbling second near the end."""
    samples = np.random.default_rng(0).normal(0, 1e-3, LONG_S * RATE_HZ)
    t = np.arange(RATE_HZ) / RATE_HZ
    samples[SONG_S * RATE_HZ :][:RATE_HZ] += 0.3 * np.sin(2 * np.pi * (3000 * t + 30 * np.sin(2 * np.pi * 6 * t)))
    soundfile.write(tmp_path / "long.wav", samples, RATE_HZ, subtype="PCM_16")
    return tmp_path / "long.wav"


def test_what_lies_before_a_song_is_not_held(long_recording: Path, stream: StreamConfig) -> None:
    """Of a song late in a long recording the piece is its surroundings, and far less than the recording was in memory."""
    place = SongPlace("long.wav", SONG_S * RATE_HZ, (SONG_S + 1) * RATE_HZ)
    tracemalloc.start()
    try:
        (piece,) = golden_recordings([place], {"long.wav": long_recording}, stream, None)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    begin, end = place.onset - round(BEFORE_S * RATE_HZ), place.offset + round(AFTER_S * RATE_HZ)
    expected, _ = soundfile.read(long_recording, start=begin, stop=end, dtype="float32")
    assert np.array_equal(piece, expected)
    assert most < LONG_S * RATE_HZ * np.dtype(np.float32).itemsize / 2


def test_a_piece_ends_with_its_recording(long_recording: Path, stream: StreamConfig) -> None:
    """A place near the end gives what there is behind it; without a song in it the bundle could not prove itself."""
    place = SongPlace("long.wav", (LONG_S - 3) * RATE_HZ, (LONG_S - 1) * RATE_HZ)
    with pytest.raises(InputError) as caught:
        golden_recordings([place], {"long.wav": long_recording}, stream, None)
    assert caught.value.reason == "NO_GOLDEN"
    song = SongPlace("long.wav", SONG_S * RATE_HZ, (LONG_S - 1) * RATE_HZ)
    (piece,) = golden_recordings([song], {"long.wav": long_recording}, stream, None)
    assert len(piece) == (LONG_S - SONG_S + BEFORE_S) * RATE_HZ
