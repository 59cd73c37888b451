"""Which of the annotated types were found, one by one."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from songcore.arrays import IntArray

__all__ = ["TypeScore", "type_scores"]


@dataclass(frozen=True)
class TypeScore:
    """One annotated type, and the cluster that stands for it."""

    name: str
    n_songs: int
    cluster: int | None
    """None when every cluster stands for another type: there are fewer clusters than types."""
    precision: float
    """Share of the cluster's annotated songs that are of the type; 0 without a cluster."""
    recall: float
    """Share of the type's songs that are in the cluster."""


def type_scores(labels: list[str], found: IntArray) -> list[TypeScore]:
    """Return a score per type, most sung first, for labels (n,), empty if unknown, and clusters (n,), -1 for none.

    Every cluster stands for one type at most, chosen so that as many songs as possible are named rightly.
    """
    known = np.asarray([bool(label) for label in labels], bool)
    if not known.any():
        return []
    names, truth = np.unique(np.asarray(labels)[known], return_inverse=True)
    inside = found[known]
    table = np.zeros((len(names), int(inside.max(initial=-1)) + 1), np.int64)
    clustered = inside >= 0
    np.add.at(table, (truth[clustered], inside[clustered]), 1)
    rows, columns = linear_sum_assignment(-table)
    cluster_of = {int(r): int(c) for r, c in zip(rows, columns, strict=True) if table[r, c] > 0}
    sizes = np.bincount(truth)
    scores = []
    for number in np.argsort(-sizes, kind="stable").tolist():
        cluster = cluster_of.get(number)
        right = 0 if cluster is None else int(table[number, cluster])
        precision = 0.0 if cluster is None else right / int(table[:, cluster].sum())
        scores.append(TypeScore(str(names[number]), int(sizes[number]), cluster, precision, right / int(sizes[number])))
    return scores
