"""Hold songs out by whole recordings: songs of one recording share its noise, its singer and its weather."""

from collections.abc import Sequence

import numpy as np

from songcore.arrays import IntArray

__all__ = ["hold_out"]

MIN_RECORDINGS = 5
"""With fewer recordings the last songs of each are held out instead."""


def hold_out(recordings: Sequence[str], share: float, rng: np.random.Generator) -> IntArray:
    """Return the indices of about ``share`` of the songs, at least one, whose recordings are ``recordings`` (n,)."""
    names = np.asarray(recordings)
    unique = rng.permutation(np.unique(names))
    if len(unique) < MIN_RECORDINGS:
        last = [
            np.flatnonzero(names == name)[-max(1, round(share * int((names == name).sum()))) :]
            for name in np.unique(names)
        ]
        return np.sort(np.concatenate(last)).astype(np.int64)
    counts = np.cumsum([int((names == name).sum()) for name in unique])
    # Whole recordings until the share is reached as nearly as can be.
    n = 1 + int(np.abs(counts[:-1] - share * len(names)).argmin())
    return np.flatnonzero(np.isin(names, unique[:n])).astype(np.int64)
