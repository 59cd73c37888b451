"""Communities of a song graph: every song tied to those most like it, and the groups that hold together.

Both ways look for the groups whose songs are tied to each other more often than chance would have it (modularity, Newman &
Girvan 2004), and find the number of groups themselves. A song that was not in the graph is in none: there is no
``predict``.
"""

from importlib import import_module
from typing import Any, Self

import networkx as nx  # type: ignore[import-untyped]  # it ships no types
import numpy as np
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.neighbors import kneighbors_graph

from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError, InputError

__all__ = ["EigenvectorCommunities", "LouvainCommunities", "song_graph"]


def song_graph(points: FloatArray, n_neighbours: int, metric: str) -> csr_array:
    """Return the graph (n, n) of points (n, d): 1 where one is among the nearest of the other; few points have few."""
    n = min(n_neighbours, len(points) - 1)
    if n < 1:
        return csr_array((len(points), len(points)))
    nearest = csr_array(kneighbors_graph(points, n, metric=metric))
    return nearest.maximum(nearest.T)


class EigenvectorCommunities(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Leading-eigenvector communities (Newman 2006) by igraph, where that package is installed.

    ``max_communities`` ends the splitting early; None splits while modularity rises.
    """

    def __init__(self, n_neighbours: int = 10, metric: str = "euclidean", max_communities: int | None = None) -> None:
        self.n_neighbours, self.metric, self.max_communities = n_neighbours, metric, max_communities

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Group points (n, d); ``labels_`` (n,) int64. ConfigError when the package is not there."""
        igraph: Any = _imported("igraph")
        rows, columns = song_graph(X, self.n_neighbours, self.metric).nonzero()
        once = rows < columns
        graph = igraph.Graph(n=len(X), edges=np.stack([rows[once], columns[once]], axis=1).tolist())
        try:
            found = graph.community_leading_eigenvector(clusters=self.max_communities)
        except igraph.InternalError as error:
            raise InputError(
                f"the eigenvectors of the song graph were not found ({' '.join(str(error).split())}); try another "
                "n_neighbours, or the clusterer louvain",
                reason="NO_EIGENVECTORS",
            ) from error
        self.labels_: IntArray = np.asarray(found.membership, np.int64)
        return self


class LouvainCommunities(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Louvain communities (Blondel et al. 2008) by networkx; a higher ``resolution`` gives more and smaller ones."""

    def __init__(
        self, n_neighbours: int = 10, metric: str = "euclidean", resolution: float = 1.0, random_state: int = 0
    ) -> None:
        self.n_neighbours, self.metric = n_neighbours, metric
        self.resolution, self.random_state = resolution, random_state

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Group points (n, d); ``labels_`` (n,) int64."""
        graph = nx.from_scipy_sparse_array(song_graph(X, self.n_neighbours, self.metric))
        groups = nx.community.louvain_communities(graph, resolution=self.resolution, seed=self.random_state)
        labels = np.zeros(len(X), np.int64)
        for number, group in enumerate(groups):
            labels[list(group)] = number
        self.labels_: IntArray = labels
        return self


def _imported(package: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the clusterer communities needs the package {package}: install it, or take the clusterer louvain",
            reason="PART_MISSING",
        ) from error
