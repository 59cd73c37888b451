"""Songs sung by others: another pace and pitch within what is asked, whole buckets, reproducible."""

from collections.abc import Callable

import numpy as np
import pytest

from songcore.stream import StreamConfig
from songtrain.augment.singers import sung_by_others
from songtrain.datasets.songs import SongSet


def test_no_change_gives_the_songs_again(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """Without a change of pace or pitch every version is the song, in order, all once and then all again."""
    songs = toy_songs(40)
    again = sung_by_others(songs, stream, tempo=0, pitch_mels=0, n_times=2, seed=0)
    assert len(again) == 80
    for number, version in enumerate(again):
        song = songs.features(number % 40)
        n = min(len(song), len(version))
        assert len(version) % stream.features.bucket_frames == 0
        assert version[:n] == pytest.approx(song[:n], abs=2e-3)
        assert not song[n:].any()
        assert not version[n:].any()


def test_pace_and_pitch_change_within_bounds(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """Lengths change by no more than asked and do change, a tone moves by no more bands than asked, seeds repeat."""
    songs = toy_songs(30)
    tone = np.zeros_like(songs.frames)
    tone[:, 30] = 2
    songs = SongSet(songs.places, songs.lengths, tone, songs.background, songs.duration_s)
    first, again = (sung_by_others(songs, stream, tempo=0.1, pitch_mels=2, n_times=1, seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    shares = np.asarray([song.any(axis=1).sum() for song in first]) / songs.lengths
    assert shares.min() > 1 / 1.1 - 0.05
    assert shares.max() < 1.1 + 0.05
    assert np.ptp(shares) > 0.1
    bands = np.asarray([song.sum(axis=0) @ np.arange(64) / song.sum() for song in first])
    assert np.abs(bands - 30).max() <= 2 + 1e-3
    assert np.ptp(bands) > 1
