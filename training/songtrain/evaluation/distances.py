"""How far songs lie from one another: all pairs, and pairs of one type against pairs of two."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import kurtosis, skew

from songcore.arrays import FloatArray, IntArray

__all__ = ["PairDistances", "pair_distances"]

MAX_SONGS = 1000


@dataclass(frozen=True)
class PairDistances:
    """Euclidean distances of pairs of songs."""

    same: FloatArray
    """(s,) pairs within one cluster or type."""
    other: FloatArray
    """(o,) pairs of two."""
    overlap: float
    """Chance that a pair of one is farther apart than a pair of two: 0 when apart, 0.5 when there is nothing to see."""
    skewness: float
    """Of the distances of all pairs; 0 for a normal distribution, as is"""
    excess_kurtosis: float


def pair_distances(points: FloatArray, labels: IntArray, rng: np.random.Generator) -> PairDistances | None:
    """Return the distances of pairs of up to a thousand points (n, d) with a label (n,), not -1; None without both kinds."""
    chosen = np.flatnonzero(labels >= 0)
    chosen = np.sort(rng.permutation(chosen)[:MAX_SONGS])
    if len(chosen) < 3:
        return None
    distances = pdist(points[chosen])
    first, second = np.triu_indices(len(chosen), 1)
    own = labels[chosen]
    is_same = own[first] == own[second]
    if is_same.all() or not is_same.any():
        return None
    same, other = distances[is_same], distances[~is_same]
    ranked = np.sort(other)
    below = (np.searchsorted(ranked, same, "left") + np.searchsorted(ranked, same, "right")) / 2
    is_flat = np.ptp(distances) == 0
    return PairDistances(
        same.astype(np.float32),
        other.astype(np.float32),
        float(below.mean() / len(other)),
        0.0 if is_flat else float(skew(distances)),
        0.0 if is_flat else float(kurtosis(distances)),
    )
