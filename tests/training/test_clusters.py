"""Density clustering, prototypes, matching: the number of types is found, numbers mean nothing, sizes may be unequal."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from songcore.arrays import FloatArray, IntArray
from songcore.zipf import zipf_probabilities
from songtrain.clusterers.density import DensityClusterer, by_size, fill
from songtrain.clusterers.matching import agreement, match_labels
from songtrain.clusterers.prototypes import draw_bank, make_prototypes, medoids
from songtrain.reducers.components import UnitComponents


def zipf_mixture(n: int, n_types: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Return unit vectors (n, 32) from well separated clusters whose sizes follow Zipf's law, and their types."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(n_types, size=n, p=zipf_probabilities(n_types, 0.9))
    centres = normalize(rng.normal(size=(n_types, 32)))
    points = normalize(centres[labels] + rng.normal(0, 0.045, (n, 32)))
    return points.astype(np.float32), labels.astype(np.int64)


def test_zipf_sized_clusters_are_found_where_k_means_fails() -> None:
    """Of 3,000 songs of 40 types in Zipf proportions all types are found (ARI ≥ 0.95); k-means, told 40, fails."""
    points, truth = zipf_mixture(3000, 40)
    found = DensityClusterer().fit(points)
    assert adjusted_rand_score(truth, found.labels_) >= 0.95
    assert 36 <= found.n_clusters_ <= 44
    k_means = KMeans(40, n_init=1, random_state=0).fit_predict(points)
    assert adjusted_rand_score(truth, k_means) < 0.95


def test_too_few_songs_give_no_cluster() -> None:
    """Fewer songs than a cluster needs leave every label -1, which is a result and not an error."""
    found = DensityClusterer().fit(zipf_mixture(4, 2)[0])
    assert found.n_clusters_ == 0
    assert (found.labels_ == -1).all()


def test_clusters_are_numbered_by_size_and_filled_by_neighbours() -> None:
    """The largest cluster is 0, noise stays -1 in the cores and takes its neighbours' label when filled."""
    assert by_size(np.array([7, 7, 3, -1, 7])).tolist() == [0, 0, 1, -1, 0]
    line = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]], np.float32)
    assert fill(line, np.array([0, 0, -1, 1, -1]), 1).tolist() == [0, 0, 0, 1, 1]
    assert fill(line, np.full(5, -1), 1).tolist() == [-1] * 5


def test_matching_undoes_any_renumbering() -> None:
    """However clusters are numbered anew, matching by shared songs gives the old numbers back."""
    rng = np.random.default_rng(1)
    old = rng.integers(-1, 9, 500)
    shuffled = np.where(old >= 0, rng.permutation(9)[np.maximum(old, 0)], -1)
    assert (match_labels(old, shuffled) == old).all()
    assert agreement(old, shuffled) == 1.0


def test_a_split_cluster_gets_a_number_of_its_own() -> None:
    """Of two parts of a cluster the larger keeps its number and the other gets one not in use."""
    old = np.array([0] * 10 + [1] * 5)
    new = np.array([0] * 7 + [2] * 3 + [1] * 5)
    assert match_labels(old, new).tolist() == [0] * 7 + [2] * 3 + [1] * 5


def test_prototypes_are_unit_vectors_and_name_their_own_songs() -> None:
    """Every type has one to four prototypes, all unit vectors, and nearest-prototype naming gives the clusters back."""
    points, truth = zipf_mixture(600, 8)
    prototypes, type_index = make_prototypes(points, truth, max_per_type=4, seed=0)
    assert np.linalg.norm(prototypes, axis=1) == pytest.approx(1, abs=1e-5)
    counts = np.bincount(type_index)
    assert counts.min() >= 1
    assert counts.max() <= 4
    assert (type_index[(points @ prototypes.T).argmax(axis=1)] == truth).mean() > 0.99


def test_a_rare_type_is_in_the_bank_of_a_large_archive() -> None:
    """Five songs of each of 40 types, ten of which were sung six times in 9,000 songs; the others are drawn at random."""
    labels = np.concatenate([np.repeat(np.arange(30), 298), np.repeat(np.arange(30, 40), 6)])
    bank = draw_bank(labels, most=600, of_each=5, rng=np.random.default_rng(0))
    assert (len(set(bank.tolist())), bank.tolist()) == (600, sorted(bank.tolist()))
    sizes = np.bincount(labels[bank])
    assert sizes.min() == 5
    assert sizes[:30].max() > 15
    small = draw_bank(labels, most=120, of_each=5, rng=np.random.default_rng(0))
    assert np.bincount(labels[small]).tolist() == [3] * 40
    # Where all have room nothing is drawn.
    assert draw_bank(labels, most=9_000, of_each=5, rng=np.random.default_rng(0)).tolist() == list(range(9_000))


def test_prototypes_of_equal_songs_are_one() -> None:
    """A type whose songs are all the same vector gets a single prototype, without a warning."""
    points = np.tile(np.eye(4, dtype=np.float32)[:2], (30, 1))
    prototypes, type_index = make_prototypes(points, np.tile([0, 1], 30), max_per_type=4, seed=0)
    assert type_index.tolist() == [0, 1]
    assert prototypes == pytest.approx(np.eye(4)[:2])


def test_medoids_are_the_songs_nearest_the_mean() -> None:
    """The first exemplar of a type is its most typical song."""
    angles = np.array([0.0, 0.1, 0.2, 1.5])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert medoids(points, np.array([0, 0, 0, 1]), 2) == [[1, 2], [3]] or medoids(
        points, np.array([0, 0, 0, 1]), 1
    ) == [[1], [3]]


def test_components_equal_one_linear_layer() -> None:
    """The reducer's transform is L2, one matrix, L2: exactly what folds into the exported graph."""
    x = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    reducer = UnitComponents(5).fit(x)
    unit = normalize(x)
    by_hand = normalize(unit @ reducer.components_.T - reducer.components_ @ reducer.mean_)
    assert reducer.transform(x) == pytest.approx(by_hand, abs=1e-5)
    assert UnitComponents(64).fit(x[:4]).transform(x).shape == (50, 4)
