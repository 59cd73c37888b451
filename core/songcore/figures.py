"""What the pictures of all reports have in common, as matplotlib figures.

matplotlib is in the extras `training` and `science` only; whoever draws imports this when it draws.
"""

from collections.abc import Sequence
from io import BytesIO, StringIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from songcore.zipf import zipf_probabilities

__all__ = ["ACCENT", "FAINT", "INK", "SECOND", "new_figure", "png", "sizes_figure", "svg"]

INK, ACCENT, SECOND, FAINT = "#22303c", "#1b7f79", "#d1603d", "#b8c2cc"


def new_figure(width: float, height: float, n_columns: int = 1) -> tuple[Figure, list[Any]]:
    """Return a figure of this size in inches with its axes side by side, in the style of all reports."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(1, n_columns, number + 1) for number in range(n_columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(FAINT)
        ax.tick_params(colors=INK, labelsize=8)
    return figure, axes


def sizes_figure(counts: Sequence[int], exponent: float, p_value: float) -> Figure:
    """Return songs per type by rank beside the fitted Zipf law."""
    figure, (ax,) = new_figure(5.2, 3.4)
    sizes = np.sort(np.asarray(counts))[::-1]
    ranks = np.arange(1, len(sizes) + 1)
    ax.loglog(ranks, sizes, "o", color=ACCENT, markersize=5, label="types found")
    expected = zipf_probabilities(len(sizes), exponent) * sizes.sum()
    ax.loglog(ranks, expected, "-", color=SECOND, linewidth=1.5, label=f"Zipf, s = {exponent:.2f} (p = {p_value:.2f})")
    ax.set_xlabel("rank of type")
    ax.set_ylabel("songs")
    for axis, top in ((ax.xaxis, len(sizes)), (ax.yaxis, int(sizes.max()))):
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000) if t <= top]
        axis.set_ticks(ticks, [f"{t:,}" for t in ticks])
        axis.set_ticks([], minor=True)
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
