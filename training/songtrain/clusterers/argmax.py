"""For encoders that already say to which cluster a song belongs."""

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin

from songcore.arrays import FloatArray, IntArray

__all__ = ["LargestShare"]


class LargestShare(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Each song's cluster is the column in which its row is largest: probabilities, responsibilities or logits."""

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Take rows (n, n_clusters)."""
        self.labels_ = self.predict(X)
        return self

    def predict(self, X: FloatArray) -> IntArray:  # noqa: N803 - scikit-learn's signature
        """Return the cluster (n,) int64."""
        return np.asarray(X.argmax(axis=1), np.int64)
