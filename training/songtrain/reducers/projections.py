"""Reducers with their usual options: principal and discriminant components, and the two maps that keep neighbourhoods."""

from importlib import import_module
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError, InputError

__all__ = ["Components", "DiscriminantMap", "NeighbourMap", "UniformMap"]

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


class DiscriminantMap(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Linear discriminant analysis: the directions that part given clusters best; without any, those of k-means.

    Fewer components than clusters. It draws clusters apart by construction, and shows how they lie, not that they are there.
    """

    def __init__(self, n_components: int = 2, n_clusters: int = 16, random_state: int = 0) -> None:
        self.n_components, self.n_clusters, self.random_state = n_components, n_clusters, random_state

    def fit(self, X: FloatArray, y: IntArray | None = None) -> Self:  # noqa: N803 - scikit-learn's signature
        """Learn from rows (n, d) and their clusters (n,); InputError when there is only one cluster."""
        if y is None:
            n_clusters = min(self.n_clusters, len(X) // 2)
            y = KMeans(n_clusters, n_init=3, random_state=self.random_state).fit_predict(X)
        # A cluster of one song has no spread to learn from.
        kept = np.bincount(y - y.min())[y - y.min()] > 1
        n_found = len(np.unique(y[kept]))
        if n_found < 2:
            raise InputError(
                "there are no two clusters of two songs or more; nothing to part", reason="TOO_FEW_CLUSTERS"
            )
        # Shrunk (Ledoit & Wolf): there may be fewer songs than dimensions.
        n_components = min(self.n_components, n_found - 1, X.shape[1])
        lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", n_components=n_components)
        lda.fit(X[kept], y[kept])
        self.mean_ = np.asarray(X.mean(axis=0), np.float32)
        self.components_ = np.asarray(lda.scalings_[:, :n_components].T, np.float32)
        return self

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return places (n, n_components) float32."""
        return np.asarray((X - self.mean_) @ self.components_.T, np.float32)


class NeighbourMap(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """t-SNE; its perplexity is lowered where there are too few songs.

    After `fit`, ``embedding_`` (n, n_components) float32. Like scikit-learn's TSNE it has no ``transform``: it places the
    songs it is fitted on, no others.
    """

    def __init__(self, n_components: int = 2, perplexity: float = 30.0, random_state: int = 0) -> None:
        self.n_components, self.perplexity, self.random_state = n_components, perplexity, random_state

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Place rows (n, d)."""
        perplexity = min(self.perplexity, max(1.0, (len(X) - 1) / 4))
        # Three dimensions at most for the quick approximation.
        method = "barnes_hut" if self.n_components < 4 else "exact"
        tsne = TSNE(self.n_components, perplexity=perplexity, method=method, random_state=self.random_state)
        self.embedding_ = np.asarray(tsne.fit_transform(X), np.float32)
        return self

    def fit_transform(self, X: FloatArray, y: None = None) -> FloatArray:  # noqa: N803, ARG002 - scikit-learn's signature
        """Return places (n, n_components) float32."""
        return self.fit(X).embedding_


class UniformMap(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """UMAP, where the package umap-learn is installed; after `fit`, ``embedding_`` (n, n_components) float32.

    It cannot begin with hardly more songs than dimensions: so few have their principal components, as many as can be.
    """

    def __init__(self, n_components: int = 8, n_neighbors: int = 15, random_state: int = 0) -> None:
        self.n_components, self.n_neighbors, self.random_state = n_components, n_neighbors, random_state

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Place rows (n, d); ConfigError when the package is not there."""
        try:
            umap = import_module("umap")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "the reducer umap needs the package umap-learn: install it, or take another reducer",
                reason="PART_MISSING",
            ) from error
        if len(X) <= self.n_components + 1:
            self.map_ = Components(self.n_components, unit=False, random_state=self.random_state)
            self.embedding_ = self.map_.fit(X).transform(X)
            return self
        options: dict[str, Any] = self.get_params()
        n_neighbors = min(options.pop("n_neighbors"), len(X) - 1)
        # One job: with a seed it takes no more, and warns of it.
        self.map_ = umap.UMAP(n_neighbors=n_neighbors, n_jobs=1, **options).fit(X)
        self.embedding_ = np.asarray(self.map_.embedding_, np.float32)
        return self

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return the places (n, n_components) float32 of rows (n, d) among those that it was fitted on."""
        return np.asarray(self.map_.transform(X), np.float32)

    def fit_transform(self, X: FloatArray, y: None = None) -> FloatArray:  # noqa: N803, ARG002 - scikit-learn's signature
        """Return places (n, n_components) float32; ConfigError when the package is not there."""
        return self.fit(X).embedding_
