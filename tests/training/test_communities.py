"""Communities of a song graph: groups that were planted are found, by both ways."""

import sys
from importlib import import_module

import networkx as nx  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score

from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError
from songtrain.clusterers.communities import EigenvectorCommunities, LouvainCommunities, song_graph

WAYS = [LouvainCommunities(), EigenvectorCommunities()]


def planted(spread: float = 0.5, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Return points in four groups of unlike sizes, and their groups."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(4), (60, 40, 30, 20))
    return (4 * np.eye(5)[truth] + rng.normal(0, spread, (150, 5))).astype(np.float32), truth


def test_song_graph_ties_the_nearest() -> None:
    """On a line every song is tied to the one nearest to it, both ways, never to itself; few points have few neighbours."""
    line = np.asarray([[0], [1], [3], [3.5]], np.float32)
    expected = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert song_graph(line, 1, "euclidean").toarray().tolist() == expected
    assert song_graph(line, 10, "euclidean").toarray().sum() == 12
    assert song_graph(line[:1], 10, "euclidean").nnz == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spread", [0.4, 1.0])
def test_planted_groups_are_found(way: LouvainCommunities | EigenvectorCommunities, spread: float) -> None:
    """Groups apart are found exactly; groups that touch, and so hang together, nearly; twice the same."""
    points, truth = planted(spread)
    labels = way.fit_predict(points)
    assert labels.dtype == np.int64
    assert adjusted_rand_score(truth, labels) > (0.9 if spread < 1 else 0.75)
    assert np.array_equal(clone(way).fit_predict(points), labels)
    graph = nx.from_scipy_sparse_array(song_graph(points, 10, "euclidean"))
    groups = [set(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)]
    kinds = [set(np.flatnonzero(truth == kind).tolist()) for kind in range(4)]
    found, known = (nx.community.modularity(graph, partition) for partition in (groups, kinds))
    assert found > 0.9 * known


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n_songs", [1, 2, 3])
def test_a_few_songs_are_one_community(way: LouvainCommunities | EigenvectorCommunities, n_songs: int) -> None:
    """Songs that are all tied to each other are not split."""
    assert not way.fit_predict(planted()[0][:n_songs]).any()


def test_igraph_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional package the clusterer names it and the alternative."""
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ConfigError, match="louvain") as raised:
        EigenvectorCommunities().fit(planted()[0])
    assert raised.value.reason == "PART_MISSING"


def test_communities_are_igraphs_where_the_graph_hangs_together() -> None:
    """On one connected graph the labels are those of the library's own method."""
    points, _ = planted(1.5)
    graph = nx.from_scipy_sparse_array(song_graph(points, 10, "euclidean"))
    assert nx.is_connected(graph)
    theirs = import_module("igraph").Graph.from_networkx(graph).community_leading_eigenvector().membership
    assert adjusted_rand_score(theirs, EigenvectorCommunities().fit_predict(points)) == 1
