"""Novelty with a promised false-alarm rate: split-conformal p-values, type by type.

A song's score is compared with the scores of held-out songs of known types. If the new song is exchangeable with them,
P(p <= alpha) <= alpha (Bates et al., Ann. Stat. 2023, eq. 4), whatever the encoder is. That holds on average over all types,
which may hide a type that is always called novel; comparing with the songs that were given the same name makes the promise to
each type (Mondrian conformal prediction: Vovk, Gammerman and Shafer 2005, section 4.5).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from songcore.arrays import FloatArray, IntArray

__all__ = ["Calibration", "Novelty", "NoveltyConfig", "conformal_p_values"]

Novelty = Literal["known", "uncertain", "novel"]


class NoveltyConfig(BaseModel):
    """When a song counts as novel; part of the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_neighbours: int = Field(default=5, ge=1, le=100)
    """The score is the mean distance to this many nearest songs of the reference bank."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Novel when the p-value is at most this: the promised share of known songs called novel."""
    uncertain_alpha: float = Field(default=0.1, gt=0, lt=1)
    """Uncertain when it is above `alpha` and at most this; no song is when `alpha` is the larger one."""
    min_type_songs: int = Field(default=100, ge=1)
    """A type is calibrated on its own with at least so many held-out songs; those with fewer share one calibration."""

    def state(self, p_value: float) -> Novelty:
        """Return what a p-value means."""
        if p_value <= self.alpha:
            return "novel"
        return "uncertain" if p_value <= self.uncertain_alpha else "known"


class Calibration:
    """Scores (c,) of held-out songs of known types, and what each was named (c,), a number below ``n_types``.

    Types with fewer than ``min_type_songs`` of them are calibrated together; where even together they have fewer, on all
    songs. Without names (None) every type is.
    """

    def __init__(self, scores: FloatArray, types: IntArray | None, n_types: int, *, min_type_songs: int) -> None:
        self.pooled = np.sort(scores)
        """(c,) ascending."""
        self._of_type = [self.pooled] * n_types
        if types is None:
            return
        counts = np.bincount(types, minlength=n_types)
        rare = np.flatnonzero(counts < min_type_songs)
        together = np.sort(scores[np.isin(types, rare)])
        for number in range(n_types):
            if counts[number] >= min_type_songs:
                self._of_type[number] = np.sort(scores[types == number])
            elif len(together) >= min_type_songs:
                self._of_type[number] = together

    def p_values(self, scores: FloatArray, types: IntArray) -> NDArray[np.float64]:
        """Return the p-values (n,) of songs with these scores that were named so."""
        p_values = np.empty(len(scores))
        for number in np.unique(types):
            own = types == number
            p_values[own] = conformal_p_values(scores[own], self._of_type[number])
        return p_values


def conformal_p_values(scores: FloatArray, calibration: FloatArray) -> NDArray[np.float64]:
    """Return p-values (n,): (1 + how many calibration scores are at least the score) / (1 + n_calibration).

    ``calibration`` (c,) must be sorted ascending.
    """
    n_as_strange = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return np.asarray((1.0 + n_as_strange) / (1.0 + len(calibration)), np.float64)
