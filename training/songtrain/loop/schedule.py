"""The epochs of a training run, known before it starts, so that it can be resumed at any of them."""

from dataclasses import dataclass
from math import cos, pi
from typing import Literal

from songtrain.settings import TrainSettings

__all__ = ["Epoch", "learning_rate", "plan_epochs"]

WARM_STEPS_SHARE = 0.15
"""Part of a stage over which the learning rate rises from zero."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the songs."""

    index: int
    """Counted over the whole run."""
    stage: Literal["warmup", "round"]
    round: int
    """0 for the warm-up, then from 1."""
    step: int
    """Counted within the stage."""
    n_steps: int
    """Epochs of the stage."""

    @property
    def opens_stage(self) -> bool:
        """True for the first epoch of the warm-up or of a round."""
        return self.step == 0


def plan_epochs(settings: TrainSettings) -> tuple[Epoch, ...]:
    """Return the warm-up's epochs, then those of every round."""
    warmup, rounds = settings.warmup, settings.rounds
    stages: list[tuple[Literal["warmup", "round"], int, int]] = [("warmup", 0, warmup.n_epochs)]
    stages += [("round", number, rounds.n_epochs) for number in range(1, rounds.n_rounds + 1)]
    epochs: list[Epoch] = []
    for stage, number, n in stages:
        epochs += [Epoch(len(epochs) + step, stage, number, step, n) for step in range(n)]
    return tuple(epochs)


def learning_rate(peak: float, progress: float) -> float:
    """Return the rate at ``progress`` in [0, 1) through a stage: a linear rise, then half a cosine down to zero."""
    if progress < WARM_STEPS_SHARE:
        return peak * (progress + 0.01) / (WARM_STEPS_SHARE + 0.01)
    return peak * 0.5 * (1 + cos(pi * (progress - WARM_STEPS_SHARE) / (1 - WARM_STEPS_SHARE)))
