"""Scores, collapse checks, novelty: collapse is named, chance is shown, the promised rate is kept."""

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score, silhouette_score
from sklearn.preprocessing import normalize

from songcore.novelty import conformal_p_values
from songtrain.evaluation.collapse import CollapseError, check_clusters, check_embeddings, effective_rank
from songtrain.evaluation.novelty import check_novelty, left_out_scores, realised_false_alarms
from songtrain.evaluation.scores import assigned_accuracy, diagnostics, label_numbers, label_scores


def test_one_cluster_is_refused_though_its_nmi_is_one() -> None:
    """Constant labels agree perfectly with each other by NMI; the check refuses them by name."""
    constant = np.zeros(100, np.int64)
    assert normalized_mutual_info_score(constant, constant) == 1.0
    with pytest.raises(CollapseError) as raised:
        check_clusters(constant)
    assert raised.value.reason == "NO_TYPES"


def test_one_cluster_with_most_songs_is_collapse() -> None:
    """A cluster with more than 60 % of the songs raises TRAINING_COLLAPSED."""
    with pytest.raises(CollapseError) as raised:
        check_clusters(np.array([0] * 70 + [1] * 30))
    assert raised.value.reason == "TRAINING_COLLAPSED"
    check_clusters(np.array([0] * 55 + [1] * 45))


def test_collapsed_points_fail_though_their_silhouette_is_high() -> None:
    """64 tight points on an arc have a silhouette near 1 and fail the check; random directions pass."""
    rng = np.random.default_rng(0)
    angle = np.repeat(np.linspace(0, 0.5, 64), 10)
    points = np.zeros((640, 32), np.float32)
    points[:, 0], points[:, 1] = np.cos(angle), np.sin(angle)
    points = normalize(points + rng.normal(0, 1e-6, points.shape)).astype(np.float32)
    assert silhouette_score(points, np.repeat(np.arange(64), 10)) > 0.95
    with pytest.raises(CollapseError, match="effective rank"):
        check_embeddings(points)
    check_embeddings(normalize(rng.normal(size=(640, 32))).astype(np.float32))


@pytest.mark.parametrize("n_types", [2, 3, 5, 40])
def test_few_types_need_few_directions(n_types: int) -> None:
    """Tight types in directions of their own pass however few they are; as many in three directions are a collapse."""
    rng = np.random.default_rng(0)
    centres = np.eye(64)[:n_types][np.arange(600) % n_types]
    tight = normalize(centres + rng.normal(0, 0.02, centres.shape)).astype(np.float32)
    check_embeddings(tight)
    check_embeddings(tight, n_types=n_types)
    flat = np.pad(normalize(rng.normal(size=(n_types, 3)))[np.arange(600) % n_types], ((0, 0), (0, 61)))
    flat = normalize(flat + rng.normal(0, 0.005, flat.shape)).astype(np.float32)
    if n_types > 8:
        with pytest.raises(CollapseError, match="effective rank"):
            check_embeddings(flat, n_types=n_types)


def test_effective_rank_of_known_spectra() -> None:
    """Equal variance in k directions has rank k; a single point has rank 1."""
    points = np.concatenate([np.eye(8), -np.eye(8)])[:, :5].astype(np.float32)
    assert effective_rank(points) == pytest.approx(5, abs=1e-3)
    assert effective_rank(np.ones((20, 8), np.float32)) == 1.0


def test_scores_leave_out_unlabelled_songs_and_show_chance() -> None:
    """Perfect labels score 1 whatever their numbers, chance is shown beside, songs without label do not count."""
    truth = label_numbers(["a", "b", "c", ""] * 50)
    found = np.tile([2, 0, 1, 1], 50)
    scores = label_scores(truth, found, rng=np.random.default_rng(0))
    assert {name: scores[name] for name in ("nmi", "ami", "ari", "v_measure", "accuracy")} == pytest.approx(
        {"nmi": 1, "ami": 1, "ari": 1, "v_measure": 1, "accuracy": 1}
    )
    assert 0 < scores["random_nmi"] < 0.2
    assert label_scores(np.full(10, -1), np.arange(10), rng=np.random.default_rng(0)) == {}


def test_accuracy_counts_each_type_once() -> None:
    """A type split in two keeps only its larger part as right."""
    assert assigned_accuracy(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 7])) == 0.75


def test_accuracy_names_no_song_that_is_in_no_cluster() -> None:
    """Leaving a type out is no way to name it: songs in no cluster count as all others do, and are wrong."""
    truth = np.repeat([0, 1], 5)
    assert assigned_accuracy(truth, np.where(truth, -1, 0)) == 0.5
    assert assigned_accuracy(truth, np.full(10, -1)) == 0


def test_diagnostics_of_one_cluster_are_empty() -> None:
    """Silhouette and its like are not defined for one cluster and are then left out."""
    assert diagnostics(np.eye(4, dtype=np.float32), np.zeros(4, np.int64)) == {}


def test_promised_false_alarm_rate_is_kept() -> None:
    """Over 300 calibrations with 200 songs the mean false-alarm rate is floor(201 α)/201 within 3 standard errors."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(300):
        calibration = np.sort(rng.gamma(3, size=200)).astype(np.float32)
        rates.append((conformal_p_values(rng.gamma(3, size=100).astype(np.float32), calibration) <= 0.05).mean())
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - 10 / 201) < 3 * error


def test_left_out_type_is_scored_against_the_others() -> None:
    """Songs of two tight clusters at right angles are sqrt(2) from what is left when their own type is taken away."""
    bank = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    assert left_out_scores(bank, np.repeat([0, 1], 10), 5) == pytest.approx(np.sqrt(2))


def test_novelty_check_tells_clear_cases() -> None:
    """Types far apart give AUROC 1 and are caught; one recording alone has no rate of its own."""
    rng = np.random.default_rng(0)
    centres = normalize(rng.normal(size=(6, 16)))
    labels = np.arange(120) % 6
    bank = normalize(centres[labels] + rng.normal(0, 0.02, (120, 16))).astype(np.float32)
    known = rng.uniform(0.05, 0.15, 60).astype(np.float32)
    check = check_novelty(
        known, [f"r{i % 6}" for i in range(60)], bank, labels, n_neighbours=5, alpha=0.05, rng=np.random.default_rng(0)
    )
    assert check.auroc == 1.0
    assert check.caught_share == 1.0
    assert check.false_alarms == pytest.approx(0.05, abs=0.04)
    assert np.isnan(realised_false_alarms(known, ["r"] * 60, 0.05, np.random.default_rng(0)))
