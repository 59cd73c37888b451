"""Reducers with their usual options: principal components, and the two maps that keep neighbourhoods."""

from importlib import import_module
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from songcore.arrays import FloatArray
from songcore.errors import ConfigError

__all__ = ["Components", "NeighbourMap", "UniformMap"]

NEGLIGIBLE = 1e-9
"""Part of the variance below which a component is rounding error, which whitening would blow up."""


class Components(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """PCA, then ``whiten`` and ``unit`` (L2) if wanted; as many components as the songs have, up to ``n_components``."""

    def __init__(
        self, n_components: int = 64, *, whiten: bool = False, unit: bool = True, random_state: int = 0
    ) -> None:
        self.n_components, self.whiten, self.unit, self.random_state = n_components, whiten, unit, random_state

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Learn from rows (n, n_features), not all equal."""
        pca = PCA(min(self.n_components, *X.shape), random_state=self.random_state).fit(X)
        kept = pca.explained_variance_ratio_ > NEGLIGIBLE
        scale = np.sqrt(pca.explained_variance_[kept]) if self.whiten else np.ones(int(kept.sum()))
        self.mean_ = np.asarray(pca.mean_, np.float32)
        self.components_ = np.asarray(pca.components_[kept] / scale[:, None], np.float32)
        return self

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return (n, d) float32."""
        rows = (X - self.mean_) @ self.components_.T
        return np.asarray(normalize(rows) if self.unit else rows, np.float32)


class NeighbourMap(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """t-SNE; its perplexity is lowered where there are too few songs. It places the songs it is fitted on, no others."""

    def __init__(self, n_components: int = 2, perplexity: float = 30.0, random_state: int = 0) -> None:
        self.n_components, self.perplexity, self.random_state = n_components, perplexity, random_state

    def fit_transform(self, X: FloatArray, y: None = None) -> FloatArray:  # noqa: N803, ARG002 - scikit-learn's signature
        """Return places (n, n_components) float32."""
        perplexity = min(self.perplexity, max(1.0, (len(X) - 1) / 4))
        # Three dimensions at most for the quick approximation.
        method = "barnes_hut" if self.n_components < 4 else "exact"
        tsne = TSNE(self.n_components, perplexity=perplexity, method=method, random_state=self.random_state)
        return np.asarray(tsne.fit_transform(X), np.float32)


class UniformMap(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """UMAP, where the package umap-learn is installed."""

    def __init__(self, n_components: int = 8, n_neighbors: int = 15, random_state: int = 0) -> None:
        self.n_components, self.n_neighbors, self.random_state = n_components, n_neighbors, random_state

    def fit_transform(self, X: FloatArray, y: None = None) -> FloatArray:  # noqa: N803, ARG002 - scikit-learn's signature
        """Return places (n, n_components) float32; ConfigError when the package is not there."""
        try:
            umap = import_module("umap")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "the reducer umap needs the package umap-learn: install it, or take another reducer",
                reason="PART_MISSING",
            ) from error
        options: dict[str, Any] = self.get_params()
        n_neighbors = min(options.pop("n_neighbors"), len(X) - 1)
        return np.asarray(umap.UMAP(n_neighbors=n_neighbors, **options).fit_transform(X), np.float32)
