"""The laboratory's report: one HTML page that needs nothing beside it, made of the files of a run alone."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from songcore.durable import replace_file
from songcore.errors import ConfigError, InputError
from songcore.figures import svg
from songtrain.evaluation.collapse import differ
from songtrain.lab.keepsakes import read_points, read_songs
from songtrain.lab.leaderboard import Line, leaderboard
from songtrain.lab.results import FILE_NAME, Row, n_codes, newest, read_rows
from songtrain.lab.scoring import RankAgreement, agreement_with_labels
from songtrain.lab.sections import SystemSection, networks, reconstructions, song_section, sweeps, system_section
from songtrain.report.leaderboard import agreement_figure, leaderboard_figure

__all__ = ["write_lab_report"]

HEADINGS = {
    "ari": "ARI",
    "nmi": "NMI",
    "nmi_geometric": "geometric",
    "ami": "AMI",
    "accuracy": "accuracy",
    "random_nmi": "random",
}
"""Scores of the leaderboard, in the order of its columns."""


def write_lab_report(folder: Path, now: datetime, system: str | None = None) -> Path:
    """Write report.html into the folder of a run and return its path.

    ``system`` is shown in detail; the first of the leaderboard if not given. InputError when nothing was run there, or
    not this system; ConfigError when the disk does not take the page.
    """
    rows = newest(read_rows(folder))
    if not rows:
        raise InputError(
            f"{folder / FILE_NAME} does not exist or is empty; `songstream lab run` first", reason="NOT_FOUND"
        )
    lines = leaderboard(rows)
    first, songs = _shown(rows, lines, system), read_songs(folder)
    agreements = agreement_with_labels(rows)
    environment = Environment(loader=PackageLoader("songtrain.report", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("laboratory.html").render(
        lines=lines,
        columns=[name for name in HEADINGS if any(line.scores[name] for line in lines)],
        headings=HEADINGS,
        n_songs=rows[0].n_songs,
        n_runs=len(rows),
        n_codes=n_codes(rows),
        created_at=now.isoformat(sep=" "),
        failures=[row for row in rows if row.error],
        agreements=agreements,
        pictures=_pictures(lines, rows, agreements),
        has_labels=any(songs.labels if songs is not None else ()) or any("ari" in row.scores for row in rows),
        songs=song_section(songs),
        shown=_section(folder, first),
        networks=networks(rows),
        reconstructions=reconstructions(folder, [line.name for line in lines]),
        sweeps=sweeps(rows),
    )
    path = folder / "report.html"
    try:
        replace_file(path, page.encode(), mode=0o644)  # what the disk does not take leaves the former page
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}); make room", reason="OUTPUT_NOT_WRITABLE") from error
    return path


def _shown(rows: Sequence[Row], lines: Sequence[Line], system: str | None) -> Row | None:
    """Return the row shown in detail: the first seed that worked of the system asked for, or of the best one."""
    names = [line.name for line in lines] if system is None else [system]
    # Later ones replace earlier ones: the first seed stays.
    of = {row.system: row for row in sorted(rows, key=lambda r: -r.seed) if not row.error and not row.parameters}
    found = next((of[name] for name in names if name in of), None)
    if system is not None and found is None:
        raise InputError(
            f"no run of {system!r} worked here; choose among {', '.join(of) or 'none'}", reason="SYSTEM_UNKNOWN"
        )
    return found


def _section(folder: Path, row: Row | None) -> SystemSection | None:
    if row is None:
        return None
    songs = read_songs(folder)
    labels = songs.labels if songs is not None and len(songs.labels) == len(row.labels) else ("",) * len(row.labels)
    kept = read_points(folder, row.system) if row.seed == 0 else None
    return system_section(row, labels, kept if kept is not None and differ(kept.values) else None)


def _pictures(lines: Sequence[Line], rows: Sequence[Row], agreements: Sequence[RankAgreement]) -> dict[str, Any]:
    pictures = {"leaderboard": "", "agreement": ""}
    scored = [(line.name, line.scores["ari"], line.scores["nmi"]) for line in lines]
    known = [(name, ari, nmi) for name, ari, nmi in scored if ari and nmi]
    if known:
        names, ari, nmi = zip(*known, strict=True)
        pictures["leaderboard"] = svg(leaderboard_figure(names, ari, nmi))
    both = [row for row in rows if not row.error and {"silhouette", "ari"} <= row.scores.keys()]
    if both and agreements:
        silhouettes, aris = ([row.scores[name] for row in both] for name in ("silhouette", "ari"))
        pictures["agreement"] = svg(agreement_figure(silhouettes, aris, [row.system for row in both]))
    return pictures
