"""Whether a retraining would pay. Pure; docs/repertoire.md tells the rule."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from songcore.decisions import Decision, Mark, Merge, Split

__all__ = ["NovelExcess", "decided_since", "novel_excess", "retraining_due"]

MIN_EXCESS = 15
"""Novel songs beyond false alarms: enough for a type."""
MIN_DEVIATIONS = 3.0
MIN_DECISIONS = 10


@dataclass(frozen=True)
class NovelExcess:
    """How many more novel songs there were than false alarms explain."""

    songs: float
    deviations: float
    """The same in standard deviations of the number of false alarms."""


def novel_excess(n_songs: int, n_novel: int, alpha: float) -> NovelExcess:
    """Return the excess of novel songs among ``n_songs``, of which a share ``alpha`` is called novel wrongly."""
    excess = n_novel - alpha * n_songs
    deviation = sqrt(n_songs * alpha * (1 - alpha))
    return NovelExcess(excess, excess / deviation if deviation else 0.0)


def decided_since(decisions: Iterable[Decision], undone: Iterable[int], since_ms: int) -> int:
    """Return how many decisions about what is a type were made since a time and hold."""
    gone = set(undone)
    return sum(
        isinstance(one.action, Merge | Split | Mark) and one.seq not in gone and one.time_ms >= since_ms
        for one in decisions
    )


def retraining_due(excess: NovelExcess, n_decisions: int) -> dict[str, bool]:
    """Return by reason whether a retraining is due."""
    return {
        "novel_songs": excess.songs >= MIN_EXCESS and excess.deviations >= MIN_DEVIATIONS,
        "decisions": n_decisions >= MIN_DECISIONS,
    }
