"""Principal components of unit vectors, in a form that folds into one linear layer."""

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from songcore.arrays import FloatArray

__all__ = ["UnitComponents"]


class UnitComponents(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """L2 → PCA → L2; after `fit`, ``mean_`` (n,) and ``components_`` (d, n) are float32.

    Where there are fewer songs or values than dimensions asked for, there are as many as can be.
    """

    def __init__(self, n_components: int = 256, seed: int = 0) -> None:
        self.n_components, self.seed = n_components, seed

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Learn from pooled features (n, n_features)."""
        n = min(self.n_components, *X.shape)
        pca = PCA(n, random_state=self.seed).fit(normalize(X))
        self.mean_ = np.asarray(pca.mean_, np.float32)
        self.components_ = np.ascontiguousarray(pca.components_, np.float32)
        return self

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return unit embeddings (n, d) float32."""
        return np.asarray(normalize((normalize(X) - self.mean_) @ self.components_.T), np.float32)
