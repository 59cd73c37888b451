"""The pictures of the laboratory's report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from songcore.figures import ACCENT, FAINT, INK, SECOND, new_figure

__all__ = ["Spread", "agreement_figure", "leaderboard_figure"]


N_NAMED = 12
"""More names than these cannot be read among points."""


@dataclass(frozen=True)
class Spread:
    """A score over seeds."""

    mean: float
    deviation: float
    """0 with one seed."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f}"


def leaderboard_figure(names: Sequence[str], ari: Sequence[Spread], nmi: Sequence[Spread]) -> Figure:
    """Return ARI and NMI of systems, the first on top, with their spread over seeds."""
    figure, (ax,) = new_figure(8.0, 1.0 + (0.42 if len(names) <= N_NAMED else 0.27) * len(names))
    at = np.arange(len(names))
    for spreads, shift, colour, word in ((ari, -0.18, ACCENT, "ARI"), (nmi, 0.18, FAINT, "NMI")):
        widths = [s.mean for s in spreads]
        errors = [s.deviation for s in spreads]
        ax.barh(at + shift, widths, 0.34, xerr=errors, color=colour, ecolor=INK, label=word)
    ax.set_yticks(at, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(min(0.0, *(s.mean for s in ari)), 1)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def agreement_figure(silhouette: Sequence[float], ari: Sequence[float], names: Sequence[str]) -> Figure:
    """Return silhouette against ARI, a point per run: what a label-free score would have chosen, and what that was worth.

    Of many systems those are named that are among the first by either score.
    """
    figure, (ax,) = new_figure(6.4, 4.2)
    ax.scatter(silhouette, ari, s=22, color=SECOND, linewidths=0)
    runs = {name: [i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
    places = {name: (np.mean(np.take(silhouette, own)), np.mean(np.take(ari, own))) for name, own in runs.items()}
    first = {name for axis in (0, 1) for name in sorted(places, key=lambda n: -places[n][axis])[: N_NAMED // 2]}
    for name in (name for name in places if name in first or len(places) <= N_NAMED):
        ax.annotate(name, places[name], xytext=(5, 4), textcoords="offset points", fontsize=7.5, color=INK)
    ax.set_xlabel("silhouette")
    ax.set_ylabel("ARI")
    return figure
