"""Spherical k-means: clusters of directions."""

from typing import Self

import faiss
import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.preprocessing import normalize

from songcore.arrays import FloatArray, IntArray

__all__ = ["SphericalKMeans"]


class SphericalKMeans(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """k-means by cosine (faiss): centres are unit vectors, ``cluster_centers_`` (n_clusters, d) float32."""

    def __init__(self, n_clusters: int = 8, n_init: int = 3, max_iter: int = 50, random_state: int = 0) -> None:
        self.n_clusters, self.n_init, self.max_iter, self.random_state = n_clusters, n_init, max_iter, random_state

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Cluster rows (n, d), n at least n_clusters."""
        rows = np.ascontiguousarray(normalize(X), np.float32)
        search = faiss.Kmeans(
            rows.shape[1],
            self.n_clusters,
            niter=self.max_iter,
            nredo=self.n_init,
            seed=self.random_state,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),
        )
        search.train(rows)
        self.cluster_centers_ = np.asarray(search.centroids, np.float32)
        self.labels_ = self.predict(X)
        return self

    def predict(self, X: FloatArray) -> IntArray:  # noqa: N803 - scikit-learn's signature
        """Return the cluster (n,) int64 of the most similar centre."""
        return np.asarray((normalize(X) @ self.cluster_centers_.T).argmax(axis=1), np.int64)
