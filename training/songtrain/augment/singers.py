"""Songs as another singer might sing them: at another pace and pitch, nothing else changed.

Held-out songs are from the singers that the encoder learned from. What is met in the field is not, and stands farther from the
known songs; a novelty threshold drawn from the held-out songs as they are would call too many of those novel.
"""

import numpy as np
import torch

from songcore.arrays import FloatArray
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.augment.views import ViewMaker
from songtrain.datasets.songs import SongSet
from songtrain.settings import AugmentSettings

__all__ = ["sung_by_others"]

BATCH_SONGS = 32


def sung_by_others(
    songs: SongSet, stream: StreamConfig, *, tempo: float, pitch_mels: float, n_times: int, seed: int
) -> list[FloatArray]:
    """Return ``n_times`` versions of all songs, features (n_frames, n_mels) float32: all songs once, then all again.

    Pace changes by up to ``tempo`` (a part), pitch by up to ``pitch_mels`` bands.
    """
    settings = AugmentSettings(
        tempo=tempo, pitch_mels=pitch_mels, shift_share=0, crop_share=0, gain_db=0, mix_probability=0,
        background_probability=0, raise_floor_probability=0, n_masks=0,
    )  # fmt: skip
    bucket = stream.features.bucket_frames
    longest = int(np.ceil(songs.lengths.max(initial=1) * (1 + tempo))) + bucket
    store = FrameStore(songs, torch.device("cpu"))
    views = ViewMaker(store, settings, stream.frontend, stream.features, max_frames=longest, seed=seed)
    views.seed(seed)
    found: list[FloatArray] = []
    for _ in range(n_times):
        for begin in range(0, len(songs), BATCH_SONGS):
            index = np.arange(begin, min(begin + BATCH_SONGS, len(songs)), dtype=np.int64)
            batch = views.views(index)[:, 0].transpose(1, 2).numpy()
            found += [_in_buckets(song, bucket) for song in batch]
    return found


def _in_buckets(song: FloatArray, bucket: int) -> FloatArray:
    """Return the song without the silence behind it, but for what completes its last bucket."""
    sounding = np.flatnonzero(song.any(axis=1))
    n = int(sounding[-1]) + 1 if len(sounding) else 1
    n_padded = -(-n // bucket) * bucket
    return np.pad(song[:n], ((0, n_padded - n), (0, 0)))
