"""Density clustering: song types are dense regions, however unequal their sizes, and their number is found.

Sizes of song types follow Zipf's law; k-means cuts the large ones and merges the small ones, HDBSCAN (Campello et al.
2013) does neither.
"""

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import HDBSCAN
from sklearn.neighbors import KNeighborsClassifier

from songcore.arrays import FloatArray, IntArray
from songtrain.clusterers.reachability import density_labels

__all__ = ["DensityClusterer", "smallest_cluster"]

MANY_SONGS = 8000
"""From here on the tree comes from a graph of nearest neighbours: the same clusters, sooner (bench/clustering.py)."""


class DensityClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """HDBSCAN cores, the rest filled by nearest neighbours; scikit-learn's habits.

    After `fit`, ``core_labels_`` (n,) int64 numbers the clusters by size from 0, -1 for songs in no core; ``labels_`` is
    the same with every song filled in, and -1 everywhere only when nothing is dense. Like scikit-learn's HDBSCAN it has no
    ``predict``.
    """

    def __init__(
        self,
        min_cluster_size: int | None = None,
        min_samples: int = 5,
        fill_neighbours: int = 5,
        min_share: float | None = None,
    ) -> None:
        self.min_cluster_size, self.min_samples, self.fill_neighbours = min_cluster_size, min_samples, fill_neighbours
        self.min_share = min_share

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Cluster unit embeddings (n, d) float32."""
        smallest = self.min_cluster_size or smallest_cluster(len(X), self.min_share)
        if len(X) <= max(smallest, self.min_samples):
            found = np.full(len(X), -1, np.int64)
        elif len(X) >= MANY_SONGS:
            found = density_labels(X, smallest, self.min_samples)
        else:
            found = HDBSCAN(min_cluster_size=smallest, min_samples=self.min_samples, copy=True).fit_predict(X)
        self.core_labels_ = by_size(found)
        self.labels_ = fill(X, self.core_labels_, self.fill_neighbours)
        self.n_clusters_ = int(self.core_labels_.max(initial=-1)) + 1
        return self


def smallest_cluster(n_songs: int, share: float | None = None) -> int:
    """Return the songs that a type needs at least: that share of all, but no fewer than 5.

    Where nobody names a share it is 0.2 %, and no more than 10 songs: more songs may be of more types rather than of larger
    ones; among 700 species of 20 calls each, a type of 0.2 % is none.
    """
    if share is not None:
        return max(5, round(share * n_songs))
    return min(10, max(5, round(0.002 * n_songs)))


def by_size(labels: IntArray) -> IntArray:
    """Return labels (n,) int64 renumbered so that 0 is the most frequent; negative ones become -1."""
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    ranked = names[np.argsort(-counts, kind="stable")]
    new = {int(name): rank for rank, name in enumerate(ranked)}
    return np.asarray([new.get(int(label), -1) for label in labels], np.int64)


def fill(embeddings: FloatArray, core: IntArray, n_neighbours: int) -> IntArray:
    """Return the labels with every -1 replaced by the label most frequent among its nearest core songs."""
    labelled = core >= 0
    if labelled.all() or not labelled.any():
        return core.copy()
    n = min(n_neighbours, int(labelled.sum()))
    nearest = KNeighborsClassifier(n_neighbors=n, weights="distance").fit(embeddings[labelled], core[labelled])
    filled = core.copy()
    filled[~labelled] = nearest.predict(embeddings[~labelled])
    return filled
