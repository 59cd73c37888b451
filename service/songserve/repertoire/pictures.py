"""The pictures of a repertoire, as matplotlib figures."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from numpy.typing import NDArray

from songcore.figures import ACCENT, FAINT, INK, SECOND, new_figure
from songcore.repertoire import chao1, good_turing_coverage
from songserve.repertoire.measures import Repertoire
from songserve.repertoire.season import Day

__all__ = ["accumulation_figure", "days_figure", "knowledge_figure", "transitions_figure"]

MAX_MATRIX_TYPES = 40
MAX_STACKED_TYPES = 9
FEWEST_DATES, MAX_DATES = 4, 10
_SHADES = LinearSegmentedColormap.from_list("shades", ["white", ACCENT, INK])


def accumulation_figure(whole: Repertoire, periods: Sequence[Repertoire]) -> Figure:
    """Return types against songs heard, with Chao1; thin lines are the periods."""
    figure, (ax,) = new_figure(5.6, 3.6)
    curve, size = whole.curve, whole.size
    for one in periods:
        ax.plot(one.curve.n_songs, one.curve.types, color=FAINT, linewidth=1)
        if one.n_songs:
            # Below the end of its line, as the curve of the whole runs above.
            end = (one.n_songs, one.size.n_heard)
            ax.annotate(one.period, end, (0, -9), textcoords="offset points", fontsize=6.5, color=INK, ha="right")
    ax.axhspan(size.low, size.high, color=SECOND, alpha=0.12, linewidth=0)
    label = f"Chao1 {size.estimate:.1f} ({size.low:.1f} to {size.high:.1f})"
    ax.axhline(size.estimate, color=SECOND, linewidth=1.2, linestyle="--", label=label)
    ax.fill_between(curve.n_songs, curve.low, curve.high, color=ACCENT, alpha=0.2, linewidth=0)
    ax.plot(curve.n_songs, curve.types, color=ACCENT, linewidth=1.8, label=f"heard: {size.n_heard} types")
    ax.set_xlim(0, max(whole.n_songs, 1) * 1.02)
    ax.set_ylim(0, max(size.estimate, min(size.high, 2 * size.estimate)) * 1.1)
    ax.set_xlabel("songs")
    ax.set_ylabel("types")
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def knowledge_figure(days: Sequence[Day]) -> Figure:
    """Return, day by day, coverage of all that was heard so far, and types heard beside Chao1."""
    figure, (left, right) = new_figure(9.0, 3.2, 2)
    by_day: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for day in days:
        by_day[day.day].update(day.counts)
    so_far: Counter[str] = Counter()
    names, coverage, sizes = sorted(by_day), [], []
    for name in names:
        so_far.update(by_day[name])
        counts = list(so_far.values())
        coverage.append(good_turing_coverage(counts))
        sizes.append(chao1(counts))
    places = _places(names)
    marker = "o" if len(names) < 3 * MAX_DATES else ""
    left.plot(places, coverage, color=ACCENT, marker=marker, markersize=3)
    left.set_ylim(0, 1.03)
    left.set_ylabel("coverage so far")
    right.fill_between(places, [s.low for s in sizes], [s.high for s in sizes], color=SECOND, alpha=0.15, linewidth=0)
    right.plot(places, [s.estimate for s in sizes], color=SECOND, linewidth=1.2, linestyle="--", label="Chao1 so far")
    right.plot(
        places, [s.n_heard for s in sizes], color=ACCENT, marker=marker, markersize=3, label="types heard so far"
    )
    right.set_ylim(0, 1.6 * max([s.estimate for s in sizes], default=1.0))
    right.legend(frameon=False, fontsize=8, loc="lower right")
    for ax in (left, right):
        _date_axis(ax, places)
    return figure


def transitions_figure(one: Repertoire, names: Mapping[str, str]) -> Figure:
    """Return the probabilities of what follows what, of the most frequent types."""
    matrix = one.transitions
    shown = [matrix.types.index(type_id) for type_id in list(one.counts)[:MAX_MATRIX_TYPES]]
    labels = [names.get(matrix.types[index]) or matrix.types[index] for index in shown]
    inches = 1.6 + 0.16 * max(len(shown), 12)
    figure, (ax,) = new_figure(inches + 0.9, inches)
    values = matrix.probabilities[np.ix_(shown, shown)]
    image = ax.imshow(values, cmap=_SHADES, vmin=0, vmax=max(float(values.max(initial=0.0)), 0.01))
    ax.set_xticks(range(len(shown)), labels, rotation=90, fontsize=6.5)
    ax.set_yticks(range(len(shown)), labels, fontsize=6.5)
    ax.spines[["top", "right"]].set_visible(True)
    ax.set_xlabel("followed by")
    bar = figure.colorbar(image, ax=ax, shrink=0.7)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)
    return figure


def days_figure(days: Sequence[Day], names: Mapping[str, str]) -> Figure:
    """Return songs by day, the most frequent types each in a colour, and the hours recorded."""
    figure, (ax,) = new_figure(9.0, 3.4)
    total: Counter[str] = Counter()
    by_day: defaultdict[str, Counter[str]] = defaultdict(Counter)
    hours: Counter[str] = Counter()
    for day in days:
        total.update(day.counts)
        by_day[day.day].update(day.counts)
        hours[day.day] += day.recorded_s / 3600  # type: ignore[assignment] # a counter adds up floats as well
    order = sorted(by_day)
    places = _places(order)
    shown = [type_id for type_id, _ in total.most_common(MAX_STACKED_TYPES)]
    bottom = np.zeros(len(order))
    colours = colormaps["tab10"](np.arange(len(shown)))
    for type_id, colour in zip(shown, colours, strict=True):
        height = np.asarray([by_day[day][type_id] for day in order], np.float64)
        ax.bar(places, height, 0.85, bottom, color=colour, label=names.get(type_id) or type_id)
        bottom += height
    if len(total) > len(shown):
        rest = np.asarray([by_day[day].total() for day in order]) - bottom
        ax.bar(places, rest, 0.85, bottom, color=FAINT, label=f"{len(total) - len(shown)} more")
    ax.set_ylabel("songs")
    effort = ax.twinx()
    # Days between that have no row have no hours either.
    first, last = (order[0], order[-1]) if order else ("2000-01-01", "1999-12-31")
    all_days = [str(day) for day in np.arange(first, np.datetime64(last) + 1, dtype="datetime64[D]")]
    effort.plot(_places(all_days), [hours[day] for day in all_days], color=INK, linewidth=1, drawstyle="steps-mid")
    effort.set_ylim(bottom=0)
    effort.set_ylabel("hours recorded (line)", fontsize=8)
    effort.tick_params(colors=INK, labelsize=8)
    effort.spines[["top", "left", "right"]].set_visible(False)
    _date_axis(ax, places)
    ax.legend(frameon=False, fontsize=7, ncols=5, loc="upper left", bbox_to_anchor=(0, 1.22))
    return figure


def _places(days: Sequence[str]) -> NDArray[np.float64]:
    """Return days as places on matplotlib's axis of dates."""
    places = date2num(np.asarray(days, "datetime64[D]"))  # type: ignore[no-untyped-call]  # matplotlib has no types here
    return np.asarray(places, np.float64)


def _date_axis(ax: Any, places: NDArray[np.float64]) -> None:
    """Let the axis show days to scale, with the year where it begins or is the only one."""
    if len(places):
        # So wide that no hours are told.
        margin = max(0.6, (FEWEST_DATES - (places[-1] - places[0])) / 2)
        ax.set_xlim(places[0] - margin, places[-1] + margin)
    locator = AutoDateLocator(minticks=4, maxticks=MAX_DATES)  # type: ignore[no-untyped-call]  # matplotlib has no types here
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]  # matplotlib has no types here
    ax.tick_params(axis="x", labelsize=7.5)
    ax.xaxis.get_offset_text().set_fontsize(7.5)
