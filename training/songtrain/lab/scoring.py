"""Scores of rows, and of rows against each other: stability over seeds, and which label-free score could be believed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from songcore.arrays import FloatArray, IntArray
from songcore.errors import SongError
from songtrain.clusterers.density import smallest_cluster
from songtrain.evaluation.collapse import differ, effective_rank
from songtrain.evaluation.over_k import inertia
from songtrain.evaluation.scores import diagnostics, label_scores
from songtrain.evaluation.stability import k_range, stability_between_halves
from songtrain.lab.parts import build, n_clusters_asked
from songtrain.lab.results import LABEL_FREE, Key, Row
from songtrain.lab.systems import System, part

__all__ = ["RankAgreement", "agreement_with_labels", "label_free_scores", "score_labels", "stability"]

MIN_RUNS = 3
N_RANK_SONGS = 1000
"""The effective rank is taken of so many songs: it needs a full decomposition."""


def score_labels(points: FloatArray, found: IntArray, truth: IntArray, seed: int) -> dict[str, float]:
    """Return the scores of clusters ``found`` (n,), -1 for none, of points (n, d) with true types (n,), -1 if unknown.

    Songs in no cluster count as one cluster more, as scikit-learn has it: leaving songs out is no way to a better score.
    """
    scores = label_scores(truth, found, rng=np.random.default_rng([seed, 5]))
    within, share = inertia(points, found)
    return scores | diagnostics(points, found) | {"inertia": within, "inertia_share": share}


def label_free_scores(points: FloatArray, found: IntArray, system: System, seed: int) -> dict[str, float]:
    """Return signs of collapse, and what the system's clusterer finds in halves of the points and with other smallest sizes.

    Largest share: songs of the largest cluster, or in none, where these are more. Distinct points are told apart by more
    than a hundred-thousandth of the points' spread.
    """
    rng = np.random.default_rng([seed, 7])
    chosen = rng.permutation(len(points))[:N_RANK_SONGS]
    spread = float(points.std()) or 1.0
    scores = {
        "effective_rank": effective_rank(points[chosen]),
        "largest_share": float(np.unique(found, return_counts=True)[1].max() / len(found)),
        "n_distinct": float(len(np.unique(np.round(points / spread, 5), axis=0))),
    }
    if not differ(points):
        return scores
    halves = _halves(points, system, seed, rng)
    if halves is not None:
        scores["stability_halves"] = halves
    clusterer = build("clusterer", system.clusterer, seed=seed)
    known = clusterer.get_params(deep=False)
    # One seed is enough: density clustering has no chance in it, and four fits cost more than the row itself.
    if seed == 0 and "min_cluster_size" in known and len(points) > 2 * MIN_RUNS:
        found_over_sizes = _sizes(points, system, _usual_size(known, len(points)))
        if found_over_sizes is not None:
            scores |= dict(zip(("k_low", "k_high"), map(float, found_over_sizes), strict=True))
    return scores


def _halves(points: FloatArray, system: System, seed: int, rng: np.random.Generator) -> float | None:
    """None where the encoder is what assigns songs, or a half is too small for what is asked of the clusterer."""
    clusterer = build("clusterer", system.clusterer, seed=seed)
    asked = n_clusters_asked(clusterer)
    if system.clusterer.name == "argmax" or (asked or 2) > len(points) // 2:
        return None

    def cluster(rows: FloatArray) -> IntArray:
        return np.asarray(build("clusterer", system.clusterer, seed=seed).fit_predict(rows), np.int64)

    try:
        return stability_between_halves(points, cluster, rng)
    except (ValueError, SongError):  # such as more neighbours asked for than a half has: the row itself stands
        return None


def _usual_size(known: Mapping[str, Any], n_songs: int) -> int:
    """Return the smallest cluster of a density clusterer with these parameters: OPTICS takes its ``min_samples`` if not told.

    Its numbers may be a share of the songs.
    """
    size = known["min_cluster_size"]
    if size is None and "min_share" not in known:
        size = known.get("min_samples")
    if size is None:
        size = smallest_cluster(n_songs, known.get("min_share"))
    return round(size * n_songs) if isinstance(size, float) and size <= 1 else int(size)


def _sizes(points: FloatArray, system: System, min_cluster_size: int) -> tuple[int, int] | None:
    """None where there are fewer songs than the largest of the sizes: OPTICS refuses these, and the row itself stands."""
    given = dict(system.clusterer.parameters)

    def cluster(size: int) -> IntArray:
        changed = part(system.clusterer.name, **(given | {"min_cluster_size": size}))
        return np.asarray(build("clusterer", changed).fit_predict(points), np.int64)

    try:
        return k_range(cluster, min_cluster_size)
    except (ValueError, SongError):
        return None


def stability(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Return the mean ARI between the labels of a system's seeds, by system and swept parameters, where two or more worked."""
    labels: dict[tuple[str, str], list[tuple[int, ...]]] = defaultdict(list)
    for row in rows:
        if not row.error:
            labels[row.key[:2]].append(row.labels)
    return {
        system: float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(found, 2)]))
        for system, found in labels.items()
        if len(found) > 1
    }


@dataclass(frozen=True)
class RankAgreement:
    """How well a label-free score orders the runs as the labels do."""

    score: str
    rho: float
    """Spearman's, with ARI; 1 for the same order, -1 for the reverse."""
    rho_nmi: float
    """The same with NMI."""
    n_runs: int


def agreement_with_labels(rows: Sequence[Row]) -> list[RankAgreement]:
    """Return the rank correlation of each label-free score with ARI and NMI over all runs that have them.

    Among them are stability over seeds and the agreement of a network's last two clusterings. Davies-Bouldin, inertia and the
    largest share are better when low: one worth believing has rho near -1 there. A score with fewer than three runs, or
    always the same, is left out.
    """
    stable = stability(rows)
    labelled = [row for row in rows if not row.error and {"ari", "nmi"} <= row.scores.keys()]
    agreements = []
    for score in (*LABEL_FREE, "stability_seeds", "epoch_nmi"):
        values = [(_value(row, score, stable), row) for row in labelled]
        free = [value for value, _ in values if value is not None]
        ari, nmi = ([row.scores[name] for value, row in values if value is not None] for name in ("ari", "nmi"))
        if len(free) >= MIN_RUNS and all(np.ptp(column) > 0 for column in (free, ari, nmi)):
            rhos = [float(spearmanr(free, column).statistic) for column in (ari, nmi)]
            agreements.append(RankAgreement(score, rhos[0], rhos[1], len(free)))
    return agreements


def _value(row: Row, score: str, stable: dict[tuple[str, str], float]) -> float | None:
    key: Key = row.key
    if score == "epoch_nmi":
        return next((epoch["nmi"] for epoch in reversed(row.history) if "nmi" in epoch), None)
    return stable.get(key[:2]) if score == "stability_seeds" else row.scores.get(score)
