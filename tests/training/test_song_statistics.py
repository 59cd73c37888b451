"""Statistics of songs, types and distances against closed forms."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from songcore.arrays import FloatArray
from songcore.errors import InputError
from songtrain.evaluation.distances import pair_distances
from songtrain.evaluation.over_k import inertia, scores_over_k, usual_numbers
from songtrain.evaluation.song_statistics import MAX_ENTROPY_BITS, chroma_entropy, describe_song, summary
from songtrain.evaluation.stability import k_range, stability_between_halves
from songtrain.evaluation.types import type_scores
from songtrain.reducers.projections import DiscriminantMap

RATE = 24_000


def groups(
    n_groups: int = 4, n_each: int = 30, seed: int = 0
) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return far groups of points in 6 dimensions, and their numbers."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(n_groups), n_each)
    return (rng.normal(0, 20, (n_groups, 6))[truth] + rng.normal(size=(len(truth), 6))).astype(np.float32), truth


def test_statistics_of_a_tone() -> None:
    """A tone of amplitude 0.5 and two seconds has the level, energy, crossings and frequencies that formulas give it."""
    samples = 0.5 * np.sin(2 * np.pi * 3520.0 * np.arange(2 * RATE) / RATE).astype(np.float32)
    found = describe_song(samples, RATE, f_min_hz=700, f_max_hz=11_500)
    assert found.peak_db == pytest.approx(-6.02, abs=0.4), "the filter overshoots a little where the tone sets in"
    assert found.rms_db == pytest.approx(10 * np.log10(0.125), abs=0.05)
    assert found.energy_db == pytest.approx(10 * np.log10(0.25), abs=0.05)
    assert found.zero_crossings_hz == pytest.approx(7040, rel=0.001)
    assert [found.peak_hz, found.centroid_hz] == pytest.approx([3520, 3520], abs=12)
    assert 3480 < found.low_hz <= found.high_hz < 3560
    assert found.chroma_entropy < 1.5


def test_statistics_of_noise_and_silence() -> None:
    """White noise spreads over the band and all pitch classes; silence has the least level and no frequencies."""
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype(np.float32)
    found = describe_song(noise, RATE, f_min_hz=700, f_max_hz=11_500)
    assert found.centroid_hz == pytest.approx((700 + 11_500) / 2, rel=0.02)
    assert [found.low_hz, found.high_hz] == pytest.approx([700 + 540, 11_500 - 540], rel=0.07)
    assert found.chroma_entropy == pytest.approx(MAX_ENTROPY_BITS, abs=0.05)
    silent = describe_song(np.zeros(RATE, np.float32), RATE, f_min_hz=700, f_max_hz=11_500)
    assert (silent.peak_db, silent.rms_db, silent.energy_db) == (-120, -120, -120)
    assert (silent.zero_crossings_hz, silent.peak_hz, silent.chroma_entropy) == (0, 0, 0)


def test_chroma_entropy_of_known_shares() -> None:
    """One class has no entropy, two alike have one bit, twelve alike 3.58."""
    assert chroma_entropy(np.eye(12, dtype=np.float32)[3]) == 0
    assert chroma_entropy(np.array([2.0, 2.0] + [0.0] * 10, np.float32)) == pytest.approx(1)
    assert chroma_entropy(np.ones(12, np.float32)) == pytest.approx(MAX_ENTROPY_BITS)
    assert pytest.approx(3.585, abs=0.001) == MAX_ENTROPY_BITS
    assert chroma_entropy(np.zeros(12, np.float32)) == 0


def test_summary_of_known_numbers() -> None:
    """Quartiles, extremes, mean and sample deviation of 1 to 5."""
    found = summary([5, 1, 2, 3, 4])
    assert (found.mean, found.least, found.quartiles, found.most) == (3, 1, (2, 3, 4), 5)
    assert found.deviation == pytest.approx(np.sqrt(2.5))
    assert summary([7]).deviation == 0


def test_precision_and_recall_of_types_are_scikit_learns_after_assignment() -> None:
    """Known confusions give known scores; a type without a cluster has none; songs without label do not count."""
    labels = ["a"] * 6 + ["b"] * 3 + ["c"] * 2 + [""] * 4
    found = np.array([1, 1, 1, 1, 0, -1, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    scores = type_scores(labels, found)
    assert [(s.name, s.n_songs, s.cluster) for s in scores] == [("a", 6, 1), ("b", 3, 0), ("c", 2, None)]
    assert [s.precision for s in scores] == pytest.approx([4 / 6, 3 / 4, 0])
    assert [s.recall for s in scores] == pytest.approx([4 / 6, 1, 0])
    named = {1: "a", 0: "b", -1: "none"}
    told = [named[int(label)] for label in found[:11]]
    for score in scores[:2]:
        options = {"labels": [score.name], "average": "macro", "zero_division": 0}
        assert score.precision == pytest.approx(precision_score(labels[:11], told, **options))
        assert score.recall == pytest.approx(recall_score(labels[:11], told, **options))
    assert type_scores(["", ""], np.array([0, 1])) == []


def test_inertia_is_that_of_k_means() -> None:
    """Points in clusters have scikit-learn's inertia; one cluster has all of it, points in none are left out."""
    points, truth = groups()
    model = KMeans(4, n_init=3, random_state=0).fit(points)
    within, share = inertia(points, np.asarray(model.labels_, np.int64))
    assert within == pytest.approx(model.inertia_, rel=1e-4)
    assert 0 < share < 0.1
    assert inertia(points, np.zeros(len(points), np.int64))[1] == pytest.approx(1)
    assert inertia(points, np.where(truth == 0, 0, -1))[1] == pytest.approx(1)
    assert inertia(points, np.full(len(points), -1)) == (0, 0)


def test_curves_over_the_number_of_clusters_peak_at_the_truth() -> None:
    """With four far groups silhouette, ARI and NMI are best at four clusters, and inertia only falls."""
    points, truth = groups()
    curve = scores_over_k(points, truth, usual_numbers(len(points), 16), seed=0)
    assert [at.k for at in curve] == [2, 3, 4, 6, 8, 11, 16]
    assert max(curve, key=lambda at: at.silhouette).k == max(curve, key=lambda at: at.ari or 0).k == 4
    assert [at.inertia for at in curve] == sorted((at.inertia for at in curve), reverse=True)
    assert scores_over_k(points, np.full(len(points), -1), [4], seed=0)[0].ari is None
    assert usual_numbers(4) == [2]


def test_pairs_of_one_type_and_of_two() -> None:
    """Far groups never overlap, random labels do by half; the overlap is one minus the area under the ROC curve."""
    points, truth = groups()
    rng = np.random.default_rng(0)
    apart = pair_distances(points, truth, rng)
    assert apart is not None
    assert apart.overlap < 0.01
    assert len(apart.same) + len(apart.other) == 120 * 119 / 2
    mixed = pair_distances(points, rng.permutation(truth), rng)
    assert mixed is not None
    assert mixed.overlap == pytest.approx(0.5, abs=0.05)
    is_same = np.r_[np.ones(len(mixed.same)), np.zeros(len(mixed.other))]
    auc = roc_auc_score(is_same, -np.r_[mixed.same, mixed.other])
    assert mixed.overlap == pytest.approx(1 - auc, abs=1e-6)
    assert pair_distances(points, np.zeros(len(points), np.int64), rng) is None
    assert pair_distances(points, np.full(len(points), -1), rng) is None


def test_halves_agree_where_there_are_groups_and_not_in_noise() -> None:
    """k-means finds four far groups again in either half; eight clusters of noise are others every time."""
    points, _ = groups()
    rng = np.random.default_rng(0)

    def cluster(n: int) -> object:
        return lambda rows: KMeans(n, n_init=5, random_state=0).fit_predict(rows)

    assert stability_between_halves(points, cluster(4), rng) == 1  # type: ignore[arg-type]  # KMeans has no types
    noise = rng.normal(size=(200, 6)).astype(np.float32)
    found = stability_between_halves(noise, cluster(8), rng)  # type: ignore[arg-type]  # KMeans has no types
    assert found is not None
    assert found < 0.6
    assert stability_between_halves(points, lambda rows: np.full(len(rows), -1), rng) is None


def test_range_of_numbers_over_smallest_sizes() -> None:
    """Sizes run from 0.8 to 2.4 times the usual one, and the range is that of the numbers found."""
    seen = []

    def cluster(size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        seen.append(size)
        return np.arange(20) // size - 1

    assert k_range(cluster, 5) == (1, 4)
    assert seen == [4, 5, 8, 12]


def test_discriminant_map_parts_clusters_that_components_do_not() -> None:
    """Two groups that differ in a faint direction fall apart on the map's first axis; one cluster is refused by name."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 3
    points = (rng.normal(size=(200, 5)) * [50, 20, 10, 5, 0.1]).astype(np.float32)
    points[:, 4] += truth
    places = DiscriminantMap().fit(points, truth).transform(points)
    assert places.shape == (200, 2)
    means = [places[truth == k, 0].mean() for k in range(3)]
    assert min(np.abs(np.diff(means))) > 5 * places[truth == 0, 0].std()
    assert DiscriminantMap(1).fit_transform(points).shape == (200, 1)
    with pytest.raises(InputError) as raised:
        DiscriminantMap().fit(points, np.zeros(200, np.int64))
    assert raised.value.reason == "TOO_FEW_CLUSTERS"
