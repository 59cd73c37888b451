"""Scores of rows, and of rows against each other: stability over seeds, and which label-free score could be believed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from songcore.arrays import FloatArray, IntArray
from songtrain.evaluation.scores import diagnostics, label_scores
from songtrain.lab.results import Row

__all__ = ["RankAgreement", "agreement_with_labels", "score_labels", "stability"]

LABEL_FREE = ("silhouette", "calinski_harabasz", "davies_bouldin", "stability")
MIN_RUNS = 3


def score_labels(points: FloatArray, found: IntArray, truth: IntArray, seed: int) -> dict[str, float]:
    """Return the scores of clusters ``found`` (n,), -1 for none, of points (n, d) with true types (n,), -1 if unknown.

    Songs in no cluster count as one cluster more, as scikit-learn has it: leaving songs out is no way to a better score.
    """
    scores = label_scores(truth, found, rng=np.random.default_rng([seed, 5]))
    return scores | diagnostics(points, found)


def stability(rows: Sequence[Row]) -> dict[str, float]:
    """Return for each system the mean ARI between the labels of its seeds; systems with one seed that worked have none."""
    labels: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for row in rows:
        if not row.error:
            labels[row.system].append(row.labels)
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
    n_runs: int


def agreement_with_labels(rows: Sequence[Row]) -> list[RankAgreement]:
    """Return the rank correlation of each label-free score with ARI over all runs that have both.

    Davies-Bouldin is better when low: a score worth believing has rho near -1 there. A score with fewer than three runs, or
    always the same, is left out.
    """
    stable = stability(rows)
    agreements = []
    for score in LABEL_FREE:
        pairs = []
        for row in rows:
            value = stable.get(row.system) if score == "stability" else row.scores.get(score)
            if not row.error and value is not None and "ari" in row.scores:
                pairs.append((value, row.scores["ari"]))
        free, ari = np.asarray(pairs, np.float64).reshape(-1, 2).T
        if len(pairs) >= MIN_RUNS and np.ptp(free) > 0 and np.ptp(ari) > 0:
            agreements.append(RankAgreement(score, float(spearmanr(free, ari).statistic), len(pairs)))
    return agreements
