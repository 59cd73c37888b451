"""The laboratory's report: one HTML page that needs nothing beside it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from songcore.errors import InputError
from songcore.zipf import fit_zipf
from songtrain.lab.results import FILE_NAME, SCORES, Row, read_rows
from songtrain.lab.scoring import RankAgreement, agreement_with_labels, stability
from songtrain.lab.systems import SYSTEMS
from songtrain.report.figures import sizes_figure, svg
from songtrain.report.leaderboard import Spread, agreement_figure, leaderboard_figure

__all__ = ["Line", "leaderboard", "write_lab_report"]


@dataclass(frozen=True)
class Line:
    """One system in the leaderboard, its numbers as they are printed."""

    name: str
    chain: str
    n_runs: int
    n_worked: int
    n_clusters_given: str
    n_clusters: str
    scores: dict[str, Spread | None]
    stability: str
    unclustered: str
    seconds: str
    peak_memory_mib: str


def leaderboard(rows: Sequence[Row]) -> list[Line]:
    """Return a line per system, best mean ARI first; those without a score last, by name."""
    of: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of[row.system].append(row)
    stable = stability(rows)
    lines = [_line(name, own, stable.get((name, ""))) for name, own in of.items()]

    def place(line: Line) -> tuple[float, str]:
        ari = line.scores["ari"]
        return (-ari.mean if ari else np.inf, line.name)

    return sorted(lines, key=place)


def write_lab_report(folder: Path, now: datetime) -> Path:
    """Write report.html into the folder of a run and return its path; InputError when nothing was run there."""
    rows = read_rows(folder)
    if not rows:
        raise InputError(
            f"{folder / FILE_NAME} does not exist or is empty; `songstream lab run` first", reason="NOT_FOUND"
        )
    lines = leaderboard(rows)
    worked = [row for row in rows if not row.error]
    first = next((row for line in lines for row in worked if row.system == line.name), None)
    agreements = agreement_with_labels(rows)
    environment = Environment(loader=PackageLoader("songtrain.report", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("laboratory.html").render(
        lines=lines,
        columns=[name for name in SCORES if any(line.scores[name] for line in lines)],
        n_songs=rows[0].n_songs,
        n_runs=len(rows),
        created_at=now.isoformat(sep=" "),
        failures=[row for row in rows if row.error],
        agreements=agreements,
        first=first,
        pictures=_pictures(lines, worked, first, agreements),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _line(name: str, rows: Sequence[Row], stable: float | None) -> Line:
    worked = [row for row in rows if not row.error]
    scores = {score: _spread([row.scores[score] for row in worked if score in row.scores]) for score in SCORES}
    given = sorted({row.n_clusters_given for row in rows if row.n_clusters_given is not None})
    return Line(
        name=name,
        chain=SYSTEMS[name].chain if name in SYSTEMS else "–",
        n_runs=len(rows),
        n_worked=len(worked),
        n_clusters_given=", ".join(map(str, given)) or "–",
        n_clusters=_mean([row.n_clusters for row in worked], "{:.0f}"),
        scores=scores,
        stability="–" if stable is None else f"{stable:.3f}",
        unclustered=_mean([row.unclustered_share for row in worked], "{:.0%}"),
        seconds=_mean([row.seconds for row in worked], "{:.1f}"),
        peak_memory_mib=_mean([row.peak_memory_mib for row in worked], "{:.0f}"),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(float(np.mean(known))) if known else "–"


def _pictures(
    lines: Sequence[Line], worked: Sequence[Row], first: Row | None, agreements: Sequence[RankAgreement]
) -> dict[str, str]:
    pictures = {"leaderboard": "", "agreement": "", "sizes": ""}
    scored = [(line.name, line.scores["ari"], line.scores["nmi"]) for line in lines]
    known = [(name, ari, nmi) for name, ari, nmi in scored if ari and nmi]
    if known:
        names, ari, nmi = zip(*known, strict=True)
        pictures["leaderboard"] = svg(leaderboard_figure(names, ari, nmi))
    both = [row for row in worked if {"silhouette", "ari"} <= row.scores.keys()]
    if both and agreements:
        silhouettes, aris = ([row.scores[name] for row in both] for name in ("silhouette", "ari"))
        pictures["agreement"] = svg(agreement_figure(silhouettes, aris, [row.system for row in both]))
    if first is not None and first.n_clusters is not None and first.n_clusters > 1:
        counts = np.bincount([label for label in first.labels if label >= 0]).tolist()
        zipf = fit_zipf(counts, rng=np.random.default_rng(first.seed))
        pictures["sizes"] = svg(sizes_figure(counts, zipf.exponent, zipf.p_value))
    return pictures
