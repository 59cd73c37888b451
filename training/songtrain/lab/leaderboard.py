"""Rows of one system and its seeds as one line, best first."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from songtrain.evaluation.collapse import CollapseError
from songtrain.lab.parts import chain_of
from songtrain.lab.results import LABEL_FREE, LABEL_SCORES, SCORES, Row
from songtrain.lab.scoring import stability
from songtrain.report.leaderboard import Spread

__all__ = ["Line", "is_collapsed", "leaderboard"]

MAX_SHARE, MIN_RANK, MIN_DISTINCT = 0.6, 2.0, 0.25


@dataclass(frozen=True)
class Line:
    """One system in the leaderboard, its numbers as they are printed."""

    name: str
    chain: str
    weights: str
    """Of a frozen encoder, as in `Row`."""
    n_runs: int
    n_worked: int
    n_clusters_given: str
    n_clusters: str
    n_epochs: str
    scores: dict[str, Spread | None]
    label_free: dict[str, str]
    stability: str
    unclustered: str
    seconds: str
    peak_memory_mib: str
    n_collapsed: int
    """Runs with a sign of collapse: their label-free scores mean nothing."""


def leaderboard(rows: Sequence[Row]) -> list[Line]:
    """Return a line per system, best mean ARI first; those without a score last, by name. Rows of sweeps are left out."""
    of: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not row.parameters:
            of[row.system].append(row)
    stable = stability(rows)
    lines = [_line(name, own, stable.get((name, ""))) for name, own in of.items()]

    def place(line: Line) -> tuple[float, str]:
        ari = line.scores["ari"]
        return (-ari.mean if ari else np.inf, line.name)

    return sorted(lines, key=place)


def is_collapsed(row: Row) -> bool:
    """Whether the encoder lost what tells songs apart.

    It gave the same for all, most songs are in one cluster or in none, points lie on a line, or most are copies of others:
    60 % of the songs, effective rank 2 (`_least_rank`) and a quarter of the songs are the limits.
    """
    scores = row.scores
    return (
        row.error.endswith(f"[{CollapseError.default_reason}]")
        or scores.get("largest_share", 0) > MAX_SHARE
        or scores.get("effective_rank", np.inf) < _least_rank(row)
        or scores.get("n_distinct", row.n_songs) < MIN_DISTINCT * row.n_songs
    )


def _least_rank(row: Row) -> float:
    """Return the effective rank below which the points lie on a line.

    A map, or shares of three clusters, can span two directions and no more, and an effective rank of 2 would need both to be
    equally long: there the limit is halfway between a line and all that there is.
    """
    told = json.loads(row.description or "{}")
    spans = told.get("reducer", ["", {}])[1].get("n_components")
    if told.get("clusterer", [""])[0] == "argmax" and row.n_clusters_given is not None:
        spans = row.n_clusters_given - 1
    return min(MIN_RANK, (1 + spans) / 2) if isinstance(spans, int) else MIN_RANK


def _line(name: str, rows: Sequence[Row], stable: float | None) -> Line:
    worked = [row for row in rows if not row.error]
    scores = {score: _spread([row.scores[score] for row in worked if score in row.scores]) for score in SCORES}
    given = sorted({row.n_clusters_given for row in rows if row.n_clusters_given is not None})
    return Line(
        name=name,
        chain=chain_of(rows[0].description),
        weights=", ".join(sorted({row.weights for row in worked} - {""})),
        n_runs=len(rows),
        n_worked=len(worked),
        n_clusters_given=", ".join(map(str, given)) or "–",
        n_clusters=_mean([row.n_clusters for row in worked], "{:.0f}"),
        n_epochs=_epochs(worked),
        scores={score: scores[score] for score in LABEL_SCORES},
        label_free={score: _short(scores[score]) for score in LABEL_FREE},
        stability="–" if stable is None else f"{stable:.3f}",
        unclustered=_mean([row.unclustered_share for row in worked], "{:.0%}"),
        seconds=_mean([row.seconds for row in worked], "{:.1f}"),
        peak_memory_mib=_mean([row.peak_memory_mib for row in worked], "{:.0f}"),
        n_collapsed=sum(map(is_collapsed, rows)),
    )


def _epochs(rows: Sequence[Row]) -> str:
    """Epochs done of epochs asked, least and most over seeds."""
    done = sorted({row.n_epochs for row in rows if row.n_epochs is not None})
    if not done:
        return "–"
    asked = {row.n_epochs_asked for row in rows if row.n_epochs_asked is not None}
    words = str(done[0]) if len(done) == 1 else f"{done[0]}–{done[-1]}"
    return f"{words}/{max(asked)}" if asked else words


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def _short(spread: Spread | None) -> str:
    """Return the mean in few digits: these numbers run from thousandths to millions."""
    return "–" if spread is None else f"{spread.mean:.3f}" if abs(spread.mean) < 10 else f"{spread.mean:,.0f}"


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(float(np.mean(known))) if known else "–"
