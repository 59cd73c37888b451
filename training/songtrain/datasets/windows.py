"""Windows of a sound, for models that hear so much at a time."""

import numpy as np

from songcore.arrays import FloatArray

__all__ = ["windows_of"]


def windows_of(sound: FloatArray, n_window: int, n_hop: int, *, at_least: int) -> FloatArray:
    """Return windows (n, ``n_window``) of samples (m,), one every ``n_hop`` and one that ends with the sound.

    A sound shorter than a window is one window as long as itself, or with silence after it ``at_least`` samples long.
    """
    if len(sound) <= n_window:
        return np.pad(sound, (0, max(0, at_least - len(sound))))[None]
    last = len(sound) - n_window
    starts = [*range(0, last, n_hop), last]
    return np.stack([sound[start : start + n_window] for start in starts])
