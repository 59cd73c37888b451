"""Whether a clusterer finds the same again in other songs of the same kind."""

from collections.abc import Callable

import numpy as np
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from songcore.arrays import FloatArray, IntArray

__all__ = ["k_range", "stability_between_halves"]

SIZE_FACTORS = (0.8, 1.0, 1.6, 2.4)
"""Around the usual five songs: 4, 5, 8 and 12."""


def stability_between_halves(
    points: FloatArray, cluster: Callable[[FloatArray], IntArray], rng: np.random.Generator
) -> float | None:
    """Return the ARI between what ``cluster`` finds in either half of points (n, d), each carried over to all points.

    A point takes the cluster of the nearest point of the half that was clustered; points that either half leaves in no
    cluster (-1) do not count (Lange et al. 2004 carry labels over likewise). None when fewer than two points are left.
    One cluster in both halves scores 1: collapse is for other checks to see.
    """
    order = rng.permutation(len(points))
    found = []
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        nearest = NearestNeighbors(n_neighbors=1).fit(points[half]).kneighbors(points, return_distance=False)[:, 0]
        found.append(np.asarray(cluster(points[half]))[nearest])
    both = (found[0] >= 0) & (found[1] >= 0)
    return float(adjusted_rand_score(found[0][both], found[1][both])) if both.sum() > 1 else None


def k_range(cluster: Callable[[int], IntArray], min_cluster_size: int) -> tuple[int, int]:
    """Return the least and the largest number of clusters over smallest sizes from 0.8 to 2.4 times ``min_cluster_size``.

    ``cluster`` gives the labels for a smallest size, -1 for none.
    """
    sizes = sorted({max(2, round(factor * min_cluster_size)) for factor in SIZE_FACTORS})
    numbers = [len(np.unique(labels[labels >= 0])) for labels in map(cluster, sizes)]
    return min(numbers), max(numbers)
