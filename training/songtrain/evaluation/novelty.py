"""How well novelty is told: a check that needs no label, made by taking every found type out of the bank in turn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from songcore.arrays import FloatArray, IntArray
from songcore.novelty import conformal_p_values

__all__ = ["NoveltyCheck", "check_novelty", "left_out_scores", "realised_false_alarms"]


@dataclass(frozen=True)
class NoveltyCheck:
    """Scores of songs that are known, and of songs whose type was taken away."""

    known: FloatArray
    """(c,) held-out songs: the calibration."""
    novel: FloatArray
    """(n,) songs scored against a bank without their type."""
    auroc: float
    caught_share: float
    """Part of the novel songs called novel at the promised false-alarm rate."""
    false_alarms: float
    """Share of known songs called novel when calibrated on other recordings."""


def check_novelty(
    known: FloatArray,
    known_recordings: list[str],
    bank: FloatArray,
    labels: IntArray,
    *,
    n_neighbours: int,
    alpha: float,
    rng: np.random.Generator,
) -> NoveltyCheck:
    """Return the check for calibration scores ``known`` (c,) and the bank (r, d) with its found types (r,)."""
    novel = left_out_scores(bank, labels, n_neighbours)
    truth = np.concatenate([np.zeros(len(known)), np.ones(len(novel))])
    p_values = conformal_p_values(novel, np.sort(known))
    return NoveltyCheck(
        known=known,
        novel=novel,
        auroc=float(roc_auc_score(truth, np.concatenate([known, novel]))),
        caught_share=float((p_values <= alpha).mean()),
        false_alarms=realised_false_alarms(known, known_recordings, alpha, rng),
    )


def left_out_scores(bank: FloatArray, labels: IntArray, n_neighbours: int) -> FloatArray:
    """Return (r,) float32: every song's mean distance to its nearest songs of *other* types."""
    scores = np.empty(len(bank), np.float32)
    for label in np.unique(labels):
        own = labels == label
        others = bank[~own]
        n = min(n_neighbours, len(others))
        cosines = np.partition(bank[own] @ others.T, len(others) - n, axis=1)[:, -n:]
        scores[own] = np.sqrt(np.maximum(0, 2 - 2 * cosines)).mean(axis=1)
    return scores


def realised_false_alarms(
    scores: FloatArray, recordings: list[str], alpha: float, rng: np.random.Generator, n_splits: int = 100
) -> float:
    """Return how often known songs are called novel when calibrated on one half of the recordings and met in the other.

    NaN with fewer than two recordings.
    """
    names, of = np.unique(np.asarray(recordings), return_inverse=True)
    if len(names) < 2:
        return float("nan")
    rates: list[NDArray[np.bool_]] = []
    for _ in range(n_splits):
        chosen = np.isin(of, rng.permutation(len(names))[: len(names) // 2])
        rates.append(conformal_p_values(scores[~chosen], np.sort(scores[chosen])) <= alpha)
    return float(np.concatenate(rates).mean())
