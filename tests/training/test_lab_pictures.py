"""Pictures of the laboratory's report, on data whose look is known."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from songtrain.evaluation.distances import pair_distances
from songtrain.evaluation.over_k import scores_over_k
from songtrain.evaluation.types import type_scores
from songtrain.report.cluster_pictures import distances_figure, maps, maps_figure, over_k_figure, types_figure
from songtrain.report.network_pictures import history_figure, reconstructions_figure
from songtrain.report.song_pictures import STATISTIC_WORDS, duration_figure, statistics_figure
from songtrain.report.sweep_pictures import SweepPoint, sweep_figure

TRUTH = np.repeat(np.arange(4), 15)
POINTS = (np.eye(8)[TRUTH] * 10 + np.random.default_rng(0).normal(size=(60, 8))).astype(np.float32)


def test_maps_keep_far_groups_apart() -> None:
    """Every map of four far groups has them apart; it is drawn by clusters, and by types where there are any."""
    places = maps(POINTS, TRUTH, seed=0)
    assert {"PCA", "t-SNE", "LDA of the clusters found"} <= places.keys()
    for place in places.values():
        assert place.shape == (60, 2)
        assert silhouette_score(place, TRUTH) > 0.25
    assert len(maps_figure(places, TRUTH, TRUTH).axes) == 2 * len(places)
    assert len(maps_figure(places, TRUTH, np.full(60, -1)).axes) == len(places)
    assert "LDA of the clusters found" not in maps(POINTS, np.zeros(60, np.int64), seed=0)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_maps_of_hardly_any_songs(n: int) -> None:
    """Whatever can place so few songs does; what cannot is left out and nothing fails."""
    places = maps(POINTS[:n], np.zeros(n, np.int64), seed=0)
    assert all(place.shape == (n, 2) and np.isfinite(place).all() for place in places.values())
    assert "t-SNE" in places
    assert maps_figure(places, np.zeros(n, np.int64), np.full(n, -1)).axes


def test_curves_show_what_was_scored() -> None:
    """Curves over the number of clusters and of losses hold the given numbers; without labels a panel less is drawn."""
    curve = scores_over_k(POINTS, TRUTH, [2, 4, 8], seed=0)
    figure = over_k_figure(curve)
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([at.silhouette for at in curve])
    assert len(figure.axes) == 4
    assert len(over_k_figure(scores_over_k(POINTS, np.full(60, -1), [2, 4], seed=0)).axes) == 3
    losses = history_figure({"a": [{"loss": 4.0}, {"loss": 2.0, "nmi": 0.5}], "b": [{"loss": 1.0}]})
    assert losses.axes[0].lines[0].get_ydata() == pytest.approx([1, 0.5])
    assert losses.axes[1].lines[0].get_xydata() == pytest.approx(np.array([[2, 0.5]]))
    assert len(history_figure({"b": [{"loss": 1.0}]}).axes) == 1


def test_sweeps_have_a_line_per_setting_of_the_other_parameters() -> None:
    """Scores with and without labels stand side by side, in the order of the values, words after numbers."""
    points = [
        SweepPoint({"k": k, "whiten": whiten}, {"ari": k / 100, "silhouette": 1 / k})
        for k in (8, 2, 64)
        for whiten in (True, False)
    ]
    figure = sweep_figure(points, "k")
    assert [ax.get_title() for ax in figure.axes] == ["silhouette (no labels)", "ari"]
    assert [len(ax.lines) for ax in figure.axes] == [2, 2]
    assert figure.axes[1].lines[0].get_xydata() == pytest.approx(np.array([[2, 0.02], [8, 0.08], [64, 0.64]]))
    words = sweep_figure([SweepPoint({"linkage": w}, {"ari": 0.5}) for w in ("single", "average")], "linkage")
    assert [label.get_text() for label in words.axes[0].get_xticklabels()] == ["average", "single"]
    tables = sweep_figure(
        [SweepPoint({"changes": c}, {"ari": 0.5}) for c in ({"rounds": {"scale": 8}}, None)], "changes"
    )
    assert len(tables.axes[0].get_xticklabels()) == 2


def test_songs_types_and_reconstructions_are_drawn() -> None:
    """Durations have a box for all songs and one per type, every statistic a panel, every song a pair."""
    durations = np.linspace(1, 5, 60).astype(np.float32)
    boxes = duration_figure(durations, ["a", "b", ""] * 20).axes[1]
    assert [label.get_text() for label in boxes.get_xticklabels()] == ["all songs", "a", "b"]
    figure = statistics_figure(dict.fromkeys([*STATISTIC_WORDS][1:4], durations))
    assert [ax.get_title() for ax in figure.axes] == [*STATISTIC_WORDS.values()][1:4]
    scores = type_scores([f"t{k}" for k in TRUTH], np.where(TRUTH == 3, 2, TRUTH))
    drawn = types_figure(scores).axes[0].collections[0].get_offsets()
    assert sorted(map(tuple, np.asarray(drawn))) == [(0, 0), (0.5, 1), (1, 1), (1, 1)]
    pairs = pair_distances(POINTS, TRUTH, np.random.default_rng(0))
    assert pairs is not None
    assert distances_figure(pairs, "type").axes[0].get_legend() is not None
    images = np.random.default_rng(0).random((2, 3, 10, 4), np.float32)
    images[:, :, 6:] = 0
    figure = reconstructions_figure(images)
    assert len(figure.axes) == 6
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (4, 6)
