"""Scores of a clustering: against labels where there are any, and label-free diagnostics that promise nothing."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from sklearn.utils import check_random_state

from songcore.arrays import FloatArray, IntArray

__all__ = ["diagnostics", "label_numbers", "label_scores"]

MAX_SILHOUETTE_SONGS = 5000
"""It takes all distances between them."""


def label_numbers(labels: Sequence[str]) -> IntArray:
    """Return labels as int64 numbers, -1 for the empty label."""
    names = {name: number for number, name in enumerate(sorted({label for label in labels if label}))}
    return np.asarray([names.get(label, -1) for label in labels], np.int64)


def label_scores(truth: IntArray, found: IntArray, *, rng: np.random.Generator) -> dict[str, float]:
    """Return NMI, AMI, ARI, V-measure and assigned accuracy over the songs whose truth is known (not -1).

    ``nmi`` divides by the arithmetic mean of the entropies, ``nmi_geometric`` by the geometric one, as some papers do.
    ``random_nmi`` is what the same cluster sizes score when dealt out at random: NMI is not zero for chance.
    Empty when fewer than two types are labelled.
    """
    known = truth >= 0
    truth, found = truth[known], found[known]
    if len(np.unique(truth)) < 2:
        return {}
    with warnings.catch_warnings():
        # scikit-learn wonders about many classes in few songs; that is what song types are like.
        warnings.simplefilter("ignore", UserWarning)
        return {
            "nmi": float(metrics.normalized_mutual_info_score(truth, found)),
            "nmi_geometric": float(
                metrics.normalized_mutual_info_score(truth, found, average_method="geometric"),
            ),
            "ami": float(metrics.adjusted_mutual_info_score(truth, found)),
            "ari": float(metrics.adjusted_rand_score(truth, found)),
            "v_measure": float(metrics.v_measure_score(truth, found)),
            "accuracy": assigned_accuracy(truth, found),
            "random_nmi": float(metrics.normalized_mutual_info_score(truth, rng.permutation(found))),
        }


def assigned_accuracy(truth: IntArray, found: IntArray) -> float:
    """Return the share of all songs named rightly when every cluster is given the one type that makes this largest.

    Songs in no cluster (-1) are not named.
    """
    inside = found >= 0
    if not inside.any():
        return 0.0
    table = metrics.cluster.contingency_matrix(truth[inside], found[inside])
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(truth))


def diagnostics(embeddings: FloatArray, labels: IntArray) -> dict[str, float]:
    """Return silhouette, Calinski-Harabasz and Davies-Bouldin; empty when there are not between 2 and n - 1 clusters.

    The silhouette is that of 5,000 songs drawn at random, and is left out where these have only one cluster between them.
    """
    if not 2 <= len(np.unique(labels)) < len(labels):
        return {}
    scores = {
        "calinski_harabasz": float(metrics.calinski_harabasz_score(embeddings, labels)),
        "davies_bouldin": float(metrics.davies_bouldin_score(embeddings, labels)),
    }
    chosen = np.sort(check_random_state(0).permutation(len(labels))[:MAX_SILHOUETTE_SONGS])
    if 2 <= len(np.unique(labels[chosen])) < len(chosen):
        scores["silhouette"] = float(metrics.silhouette_score(embeddings[chosen], labels[chosen]))
    return scores
