"""Which cluster is which: labels of two rounds brought into line by the songs they share."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from songcore.arrays import IntArray

__all__ = ["agreement", "match_labels"]


def match_labels(old: IntArray, new: IntArray) -> IntArray:
    """Return ``new`` renumbered so that as many songs as possible keep the number they had in ``old``.

    Negative labels mean no cluster. Clusters without a counterpart get numbers that ``old`` does not use.
    """
    n_old, n_new = int(old.max(initial=-1)) + 1, int(new.max(initial=-1)) + 1
    if n_old == 0 or n_new == 0:
        return new.copy()
    both = (old >= 0) & (new >= 0)
    shared = np.zeros((n_new, n_old), np.int64)
    np.add.at(shared, (new[both], old[both]), 1)
    rows, columns = linear_sum_assignment(-shared)
    number = {int(r): int(c) for r, c in zip(rows, columns, strict=True) if shared[r, c] > 0}
    unused = iter(range(n_old, n_old + n_new))
    mapped = [number[label] if label in number else next(unused) for label in range(n_new)]
    return np.where(new >= 0, np.asarray(mapped, np.int64)[np.maximum(new, 0)], -1)


def agreement(old: IntArray, new: IntArray) -> float:
    """Return the share of songs labelled in both rounds that keep their cluster, after matching; 0 when there are none."""
    both = (old >= 0) & (new >= 0)
    return float((match_labels(old, new)[both] == old[both]).mean()) if both.any() else 0.0
