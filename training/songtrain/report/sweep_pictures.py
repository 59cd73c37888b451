"""Pictures of sweeps: scores with and without labels over the values of one parameter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from songcore.figures import ACCENT, FAINT, INK, SECOND, new_figure

__all__ = ["SweepPoint", "sweep_figure"]

MAX_LINES = 8


@dataclass(frozen=True)
class SweepPoint:
    """What one setting scored, mean over seeds; a score that there is not is absent."""

    parameters: Mapping[str, Any]
    scores: Mapping[str, float]


def sweep_figure(points: Sequence[SweepPoint], parameter: str) -> Figure:
    """Return silhouette, stability between halves, NMI and ARI over a parameter, a line per setting of the others."""
    names = ("silhouette", "stability_halves", "nmi", "ari")
    shown = [name for name in names if any(name in point.scores for point in points)]
    figure, axes = new_figure(11.0, 2.9, max(1, len(shown)))
    lines: dict[str, list[SweepPoint]] = {}
    for point in points:
        rest = ", ".join(f"{k}={v}" for k, v in sorted(point.parameters.items()) if k != parameter)
        lines.setdefault(rest, []).append(point)
    # By their words: a value may be a table.
    values = sorted({str(v): v for v in (point.parameters[parameter] for point in points)}.values(), key=_order)
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    for ax, name in zip(axes, shown, strict=False):
        for number, (rest, own) in enumerate(lines.items()):
            known = sorted((p for p in own if name in p.scores), key=lambda p: _order(p.parameters[parameter]))
            at = [p.parameters[parameter] if are_numbers else values.index(p.parameters[parameter]) for p in known]
            label = rest if number < MAX_LINES else None
            colour = (ACCENT, SECOND, INK, FAINT)[number % 4]
            ax.plot(at, [p.scores[name] for p in known], "o-", color=colour, markersize=3, linewidth=1.1, label=label)
        ax.set_title(f"{name}{'' if name in {'nmi', 'ari'} else ' (no labels)'}", fontsize=9, color=INK)
        _scale(ax, values, are_numbers=are_numbers)
        ax.set_xlabel(parameter, fontsize=8)
    if len(lines) > 1:
        axes[0].legend(frameon=False, fontsize=6, loc="lower right")
    return figure


def _scale(ax: Any, values: Sequence[Any], *, are_numbers: bool) -> None:
    if not are_numbers:
        ax.set_xticks(range(len(values)), [str(value) for value in values])
    elif min(values) > 0 and max(values) / min(values) >= 8:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _order(value: Any) -> tuple[bool, Any]:
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number and np.isfinite(value) else str(value)
