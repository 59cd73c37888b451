"""Asking for the song that is being sung changes nothing, and what is told is the song that follows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import soundscape, stream_config
from songcore.stream import Song, SongStream

RATE = 24_000
CONFIG = stream_config()
SAMPLES = soundscape([0, 1, 2], 9, gap_s=0.9)[0]


def run(sizes: list[int], *, asking: bool) -> tuple[list[Song], list[bytes], list[Song]]:
    """Return songs, checkpoints and guesses of a stream in chunks of these sizes, the last going on to the end."""
    stream = SongStream(CONFIG, RATE)
    songs: list[Song] = []
    guesses: list[Song] = []
    checkpoints: list[bytes] = []
    position = 0
    while position < len(SAMPLES):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        songs += stream.push(SAMPLES[position : position + size])
        position += size
        if asking and (guess := stream.open_song()):
            guesses.append(guess)
        checkpoints.append(stream.checkpoint().state)
    return songs + stream.finish(), checkpoints, guesses


@settings(max_examples=15)
@given(st.lists(st.integers(500, 40_000), min_size=1, max_size=12))
def test_asking_changes_no_bit(sizes: list[int]) -> None:
    """Songs, features and checkpoints are those of a stream that was never asked."""
    plain, asked = run(list(sizes), asking=False), run(list(sizes), asking=True)
    assert plain[1] == asked[1]
    assert len(plain[0]) == len(asked[0]) == 3
    for one, other in zip(plain[0], asked[0], strict=True):
        assert (one.onset, one.offset, one.snr_db) == (other.onset, other.offset, other.snr_db)
        np.testing.assert_array_equal(one.features, other.features)


def test_guesses_grow_into_the_song() -> None:
    """A guess has the onset of the song that follows, never goes back, and once all is sung is the song itself."""
    songs, _, guesses = run([RATE // 10], asking=True)
    assert len(guesses) > len(songs)
    for song in songs:
        mine = [guess for guess in guesses if guess.onset == song.onset]
        offsets = [guess.offset for guess in mine]
        assert offsets == sorted(offsets)
        assert mine[0].offset < song.offset
        assert mine[-1].offset == song.offset
        assert mine[-1].snr_db == pytest.approx(song.snr_db)
        np.testing.assert_array_equal(mine[-1].features, song.features)
    assert {guess.onset for guess in guesses} == {song.onset for song in songs}


def test_silence_is_no_open_song() -> None:
    """A stream that heard only noise, or nothing yet, has no open song."""
    stream = SongStream(CONFIG, RATE)
    assert stream.open_song() is None
    stream.push((0.002 * np.random.default_rng(0).standard_normal(4 * RATE)).astype(np.float32))
    assert stream.open_song() is None
