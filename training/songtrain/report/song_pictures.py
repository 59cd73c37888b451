"""Pictures of what the songs of a data set sound like: durations, levels, frequencies, pitch classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from songcore.arrays import FloatArray
from songcore.figures import ACCENT, FAINT, INK, SECOND, new_figure
from songtrain.evaluation.song_statistics import MAX_ENTROPY_BITS

__all__ = ["STATISTIC_WORDS", "duration_figure", "statistics_figure"]

MAX_TYPES = 24
STATISTIC_WORDS: Mapping[str, str] = {
    "duration_s": "duration, s",
    "peak_db": "peak amplitude, dB",
    "rms_db": "level (RMS), dB",
    "energy_db": "energy, dB",
    "zero_crossings_hz": "zero crossings per second",
    "peak_hz": "strongest frequency, Hz",
    "centroid_hz": "mean frequency, Hz",
    "low_hz": "lowest frequency (5 % of power below), Hz",
    "high_hz": "highest frequency (5 % above), Hz",
    "chroma_entropy": f"chroma entropy, bits of {MAX_ENTROPY_BITS:.2f}",
}
"""What the statistics of a song are called, in the order in which they are told."""


def duration_figure(duration_s: FloatArray, labels: Sequence[str]) -> Figure:
    """Return a histogram of the durations (n,) and box plots of all songs and of the most sung types."""
    figure, (left, right) = new_figure(10.0, 3.6, 2)
    left.hist(duration_s, bins=min(40, max(5, len(duration_s) // 10)), color=ACCENT)
    left.set_xlabel("duration, s")
    left.set_ylabel("songs")
    groups = [("all songs", duration_s)]
    names = np.asarray(labels)
    known, counts = np.unique(names[names != ""], return_counts=True)
    groups += [(str(name), duration_s[names == name]) for name in known[np.argsort(-counts, kind="stable")][:MAX_TYPES]]
    boxes = right.boxplot(
        [values for _, values in groups],
        patch_artist=True,
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": FAINT},
        medianprops={"color": INK},
    )
    for number, box in enumerate(boxes["boxes"]):
        box.set(facecolor=SECOND if number == 0 else ACCENT, alpha=0.75, linewidth=0.6)
    right.set_xticks(range(1, len(groups) + 1), [name for name, _ in groups], rotation=90, fontsize=7)
    right.set_ylabel("duration, s")
    return figure


def statistics_figure(statistics: Mapping[str, FloatArray]) -> Figure:
    """Return a small histogram of each statistic (n,)."""
    shown = [name for name in STATISTIC_WORDS if name in statistics]
    n_columns = 3
    n_rows = -(-len(shown) // n_columns)
    figure, _ = new_figure(10.0, 0.3 + 1.7 * n_rows, 0)
    for number, name in enumerate(shown):
        ax = figure.add_subplot(n_rows, n_columns, number + 1)
        values = statistics[name]
        ax.hist(values, bins=min(40, max(5, len(values) // 10)), color=ACCENT)
        ax.axvline(float(np.median(values)), color=SECOND, linewidth=1)
        ax.set_title(STATISTIC_WORDS[name], fontsize=8, color=INK)
        ax.set_yticks([])
        ax.tick_params(colors=INK, labelsize=7)
        ax.spines[["top", "right", "left"]].set_visible(False)
    return figure
