"""Hold songs out by whole recordings: songs of one recording share its noise, its singer and its weather."""

from collections.abc import Sequence

import numpy as np

from songcore.arrays import IntArray

__all__ = ["hold_out"]

MIN_RECORDINGS = 5
"""With fewer recordings the last songs of each are held out instead."""
MOST_OF_SHARE = 2.0
"""A recording with more songs than this many times the share is learned from: held out it would leave too little."""


def hold_out(
    recordings: Sequence[str], share: float, rng: np.random.Generator, onsets: Sequence[int] | None = None
) -> IntArray:
    """Return the indices of about ``share`` of the songs, at least one, whose recordings are ``recordings`` (n,).

    ``onsets`` (n,) say in which order songs were sung; songs of a recording follow one another if not given.
    """
    names = np.asarray(recordings)
    unique, sizes = np.unique(names, return_counts=True)
    if len(unique) < MIN_RECORDINGS:
        # Of a recording with one song nothing, for something has to be learned from it.
        held = np.minimum(np.maximum(1, np.round(share * sizes)), sizes - 1).astype(np.int64)
        if not held.any():
            held[-1] = 1
        # Not as songs.csv lists them: sorted by label its last lines would be of one type.
        times = np.arange(len(names)) if onsets is None else np.asarray(onsets)
        last = [_sung_last(np.flatnonzero(names == name), times, n) for name, n in zip(unique, held, strict=True) if n]
        return np.sort(np.concatenate(last)).astype(np.int64)
    order = rng.permutation(len(unique))
    most = MOST_OF_SHARE * share * len(names)
    chosen = order[sizes[order] <= most][: len(unique) - 1]
    if not len(chosen):
        chosen = np.array([sizes.argmin()])
    counts = np.cumsum(sizes[chosen])
    # Whole recordings until the share is reached as nearly as can be.
    n = 1 + int(np.abs(counts - share * len(names)).argmin())
    return np.flatnonzero(np.isin(names, unique[chosen[:n]])).astype(np.int64)


def _sung_last(songs: IntArray, times: IntArray, n: int) -> IntArray:
    """Return the last ``n`` of these songs, and all that began with the first of them: they may be one song twice."""
    in_order = songs[np.argsort(times[songs], kind="stable")]
    last = in_order[times[in_order] >= times[in_order[-n]]]
    return last if len(last) < len(songs) else in_order[-n:]
