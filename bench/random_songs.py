"""Songs that mean nothing, for benchmarks of time."""

import numpy as np

from songtrain.datasets.songs import SongPlace, SongSet


def random_songs(n_songs: int, n_frames: int, seed: int) -> SongSet:
    """Return songs of a few random notes each: what they are does not matter here, how long they are does."""
    rng = np.random.default_rng(seed)
    lengths = 32 * rng.integers(max(1, n_frames // 64), n_frames // 24 + 1, n_songs)
    frames = (rng.random((int(lengths.sum()), 64)) > 0.8) * rng.uniform(0, 4, (int(lengths.sum()), 64))
    places = tuple(SongPlace(f"r{i // 20}", i, i + 1) for i in range(n_songs))
    return SongSet(places, lengths.astype(np.int64), frames.astype(np.float16), frames[:2048].astype(np.float16), 1.0)
