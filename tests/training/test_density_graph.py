"""HDBSCAN from a graph of nearest neighbours: the same tree as from all distances, the same clusters as scikit-learn's."""

import tracemalloc

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score

from songcore.arrays import FloatArray
from songtrain.clusterers.density import MANY_SONGS, DensityClusterer
from songtrain.clusterers.density_graph import GraphDensityClusterer
from songtrain.clusterers.reachability import density_labels, nearest_neighbours, reachability_tree


def zipf_points(n: int, spread: float, seed: int = 0, n_types: int = 40, dimension: int = 16) -> FloatArray:
    """Return unit vectors (n, d) around random directions, as many around each as Zipf's law has it."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_types, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    share = 1 / np.arange(1, n_types + 1)
    points = centres[rng.choice(n_types, n, p=share / share.sum())] + rng.normal(0, spread, (n, dimension))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(unit, np.float32)


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("n_neighbours", [5, 12])
def test_tree_is_the_minimum_spanning_tree_of_all_distances(spread: float, n_neighbours: int) -> None:
    """Its n - 1 edges have the lengths that scipy's tree over the full matrix has, from dense to structureless points."""
    points = zipf_points(700, spread)
    distances = cdist(points.astype(np.float64), points.astype(np.float64))
    core = np.sort(distances, axis=1)[:, 4]
    full = np.maximum(np.maximum(core, core[:, None]), distances)
    np.fill_diagonal(full, 0)
    tree = reachability_tree(points, nearest_neighbours(points, points, n_neighbours), 5)
    expected = np.sort(minimum_spanning_tree(full).data)
    assert np.allclose(np.sort(tree.lengths), expected, rtol=0, atol=1e-12)


def test_tree_is_grown_without_a_copy_of_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left of the tree when the neighbours are used up is found in pieces: the same edges, in a bounded memory."""
    points = zipf_points(3000, 0.03, n_types=20, dimension=256)
    neighbours = nearest_neighbours(points, points, 12)
    whole = reachability_tree(points, neighbours, 5)
    monkeypatch.setattr("songtrain.clusterers.reachability.BLOCK_VALUES", 1 << 15)
    asked = 0

    def given() -> FloatArray:
        nonlocal asked
        asked += 1
        tracemalloc.reset_peak()
        return points

    tracemalloc.start()
    try:
        tree = reachability_tree(given, neighbours, 5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert asked == 1
    assert peak < points.nbytes
    assert np.allclose(np.sort(tree.lengths), np.sort(whole.lengths), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("spread", "smallest"), [(0.03, 5), (0.08, 8), (0.15, 5)])
def test_clusters_are_those_of_scikit_learn(spread: float, smallest: int) -> None:
    """ARI with scikit-learn's HDBSCAN is at least 0.99, noise counted as a cluster."""
    points = zipf_points(3000, spread)
    exact = HDBSCAN(min_cluster_size=smallest, min_samples=5, copy=True).fit_predict(points)
    found = density_labels(points, smallest, 5)
    assert exact.max() > 5
    assert adjusted_rand_score(exact, found) >= 0.99


def test_equal_points_are_one_cluster() -> None:
    """Twenty copies of one point and twenty of another, which the graph sees at no distance, are two clusters."""
    points = np.repeat(np.eye(2, 8, dtype=np.float32), 20, axis=0)
    found = density_labels(points, 5, 5)
    assert len(set(found[:20].tolist())) == len(set(found[20:].tolist())) == 1
    assert found[0] != found[20]
    assert found.min() == 0


def test_too_few_points_are_all_noise() -> None:
    """As many points as the smallest cluster has are no cluster."""
    assert (density_labels(zipf_points(5, 0.1), 5, 5) == -1).all()


def test_estimator_fills_every_song() -> None:
    """Core labels are numbered by size, and in ``labels_`` no song is left out."""
    clusterer = GraphDensityClusterer(min_cluster_size=8).fit(zipf_points(1500, 0.08))
    sizes = np.bincount(clusterer.core_labels_[clusterer.core_labels_ >= 0])
    assert clusterer.n_clusters_ == len(sizes)
    assert (np.diff(sizes) <= 0).all()
    assert (clusterer.core_labels_ < 0).any()
    assert (clusterer.labels_ >= 0).all()


def test_many_songs_take_the_graph() -> None:
    """From `MANY_SONGS` on `DensityClusterer` gives what the part hdbscan-graph gives."""
    points = zipf_points(MANY_SONGS, 0.05, dimension=8)
    one, other = DensityClusterer().fit(points), GraphDensityClusterer().fit(points)
    assert one.n_clusters_ > 20
    assert np.array_equal(one.labels_, other.labels_)
