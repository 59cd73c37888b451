"""What is asked of clusters without labels when their number is to be chosen, over a range of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

from songcore.arrays import FloatArray, IntArray
from songtrain.evaluation.scores import diagnostics, label_scores

__all__ = ["AtK", "inertia", "scores_over_k", "usual_numbers"]


@dataclass(frozen=True)
class AtK:
    """k-means with k clusters, without labels and, where songs have them, with."""

    k: int
    inertia: float
    silhouette: float
    calinski_harabasz: float
    nmi: float | None
    ari: float | None


def inertia(points: FloatArray, labels: IntArray) -> tuple[float, float]:
    """Return the sum of squared distances to the own cluster's mean, and its share of that to the mean of all.

    Points (n, d) in no cluster (-1) are left out; (0, 0) when nothing is left or all points are one.
    """
    inside = labels >= 0
    if not inside.any():
        return 0.0, 0.0
    rows, numbers = points[inside].astype(np.float64), np.unique(labels[inside], return_inverse=True)[1]
    counts = np.bincount(numbers)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, numbers, rows)
    within = float(((rows - (sums / counts[:, None])[numbers]) ** 2).sum())
    total = float(((rows - rows.mean(axis=0)) ** 2).sum())
    return within, within / total if total > 0 else 0.0


def usual_numbers(n_points: int, n_largest: int = 256) -> list[int]:
    """Return numbers of clusters to try: powers of two and halfway between, fewer than half the points."""
    powers = [2**i for i in range(1, 12)]
    between = [round(2 ** (i + 0.5)) for i in range(1, 12)]
    return sorted(k for k in {*powers, *between} if k <= min(n_largest, n_points // 2))


def scores_over_k(points: FloatArray, truth: IntArray, numbers: Sequence[int], seed: int) -> list[AtK]:
    """Return what k-means scores on points (n, d) for each number of clusters; truth (n,) may be -1 for unknown."""
    found = []
    for k in numbers:
        model = KMeans(k, n_init=1, random_state=seed).fit(points)
        labels = np.asarray(model.labels_, np.int64)
        free = diagnostics(points, labels)
        if not free:
            continue
        known = label_scores(truth, labels, rng=np.random.default_rng(seed))
        found.append(
            AtK(
                k,
                float(model.inertia_),
                free["silhouette"],
                free["calinski_harabasz"],
                known.get("nmi"),
                known.get("ari"),
            )
        )
    return found
