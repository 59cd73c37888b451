"""Novelty with a promised false-alarm rate: split-conformal p-values.

A song's score is compared with the scores of held-out songs of known types. If the new song is exchangeable with them,
P(p <= alpha) <= alpha (Bates et al., Ann. Stat. 2023, eq. 4), whatever the encoder is.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from songcore.arrays import FloatArray

__all__ = ["NoveltyConfig", "conformal_p_values"]


class NoveltyConfig(BaseModel):
    """When a song counts as novel; part of the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_neighbours: int = Field(default=5, ge=1, le=100)
    """The score is the mean distance to this many nearest songs of the reference bank."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Novel when the p-value is at most this: the promised share of known songs called novel."""


def conformal_p_values(scores: FloatArray, calibration: FloatArray) -> NDArray[np.float64]:
    """Return p-values (n,): (1 + how many calibration scores are at least the score) / (1 + n_calibration).

    ``calibration`` (c,) must be sorted ascending.
    """
    n_as_strange = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return np.asarray((1.0 + n_as_strange) / (1.0 + len(calibration)), np.float64)
