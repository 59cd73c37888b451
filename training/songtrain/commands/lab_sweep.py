"""``songstream lab sweep``: one system with many settings."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from songtrain.commands.lab_run import check_choices, in_words, warn_of_codes, warn_of_left_out

if TYPE_CHECKING:
    from songtrain.lab.results import Row

__all__ = ["sweep"]


def sweep(  # noqa: PLR0913, PLR0917 - one parameter per option
    data: Annotated[Path, typer.Option(help="Folder with recordings, and songs.csv where songs are annotated.")],
    out: Annotated[Path, typer.Option(help="Folder for results.parquet, report.html and the features.")],
    system: Annotated[str, typer.Option(help="System to change the parameters of.")],
    grid: Annotated[
        list[str],
        typer.Option(
            help="PART.PARAMETER=V,V,..., clusters=K,K, or reducer, clusterer or features=NAME,NAME for other parts; "
            "given several times, all combinations are tried."
        ),
    ] = [],  # noqa: B006 - typer's way to have an option several times; never changed
    search: Annotated[
        str | None,
        typer.Option(
            help="PART.PARAMETER=LOW:HIGH or clusters=LOW:HIGH: look for the number with the best silhouette by halving."
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="TOML file that declares systems of your own.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of every setting.")] = 1,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Training time of every network; each its own if not given.")
    ] = None,
    segmenter: Annotated[str, typer.Option(help="Front end and segmenter: song, syllable or general.")] = "song",
    segmentation: Annotated[
        str,
        typer.Option(help="auto, annotated (songs.csv, its borders as they are) or automatic (all that is found)."),
    ] = "auto",
    channel: Annotated[int | None, typer.Option(min=1, help="Channel to listen to; the mean of all else.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; this machine alone if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line about the sweep.")] = False,
) -> None:
    """Try settings of one system's parts, and print which one every score prefers.

    Settings are rows beside those of `lab run`, kept and resumed like them, and curves in the report. --search does as one
    of the sources does and asks the silhouette; what labels say is printed beside it, since the silhouette is often wrong.

        songstream lab sweep --data season --out lab --system basenet-kmeans
        --grid reducer.n_components=32,64,128 --search clusterer.n_clusters=16:256

        songstream lab sweep --data season --out lab --system byol-a-kmeans
        --grid reducer=none,pca,tsne --grid clusterer=kmeans,dbscan,meanshift,agglomerative
    """
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.progress import Progress

    from songcore.errors import ConfigError
    from songtrain.lab.grid import grid_settings, parse_grid, parse_search
    from songtrain.lab.report import write_lab_report
    from songtrain.lab.run import LabJob, lab_songs
    from songtrain.lab.sweep import Sweep, run_sweep
    from songtrain.lab.systems import choose_systems

    check_choices(segmenter, segmentation)
    if not grid and search is None:
        raise ConfigError("nothing to try; give --grid or --search", reason="GRID_INVALID")
    (chosen,) = choose_systems([system], file)
    looked_for = None if search is None else parse_search(search)
    tried = Sweep(chosen, grid_settings(parse_grid(grid)), seeds, looked_for, max_minutes)
    job = LabJob(
        data=data,
        out=out,
        systems=tried.systems(),
        n_seeds=seeds,
        segmenter=segmenter,  # type: ignore[arg-type]  # checked above
        segmentation=segmentation,  # type: ignore[arg-type]  # checked above
        channel=channel,
        address=address,
    )
    with Progress(console=Console(stderr=True)) as progress, lab_songs(job) as found:
        task = progress.add_task("settings", total=None)

        def show(row: "Row", n_done: int, n_all: int | None) -> None:
            progress.update(task, completed=n_done, total=n_all)
            told = row.error or in_words(row)
            number = f"{n_done}/{n_all}" if n_all else f"{n_done}"
            progress.console.print(f"{number} {row.key[1]}, seed {row.seed}: {told}", markup=False, soft_wrap=True)

        done = run_sweep(found.songs, job.stream, tried, out, show, found.sound)
        n_types = len({label for label in found.songs.labels if label})
    warn_of_left_out(found.left_out)
    report = write_lab_report(out, datetime.now(UTC).replace(microsecond=0))
    _tell(done.rows, done.n_kept, n_types, report, as_json=as_json)


def _tell(rows: "tuple[Row, ...]", n_kept: int, n_types: int, report: Path, *, as_json: bool) -> None:
    """Print which setting every score prefers, those with labels apart from those without."""
    from songtrain.lab.results import parameters_text
    from songtrain.lab.sweep_table import PREFERS, sweep_tables

    n_codes = warn_of_codes(rows)
    (table,) = sweep_tables(rows)
    best = {score: point for score in PREFERS if (point := table.best(score)) is not None}
    if as_json:
        facts: dict[str, Any] = {
            "n_runs": len(rows),
            "n_kept": n_kept,
            "n_failed": table.n_failed,
            "n_types": n_types,
            "n_codes": n_codes,
        }
        facts["settings"] = [{"parameters": p.parameters, "scores": p.scores} for p in table.points]
        facts["best"] = {score: point.parameters for score, point in best.items()}
        print(json.dumps(facts | {"report": str(report)}))
        return
    for point in table.points:
        words = ", ".join(
            f"{name} {point.scores[name]:.3f}" for name in ("ari", "nmi", "silhouette") if name in point.scores
        )
        print(f"{parameters_text(point.parameters.items())}: {point.scores['n_clusters']:.0f} clusters, {words}")
    for score, point in best.items():
        kind = "labels" if score in {"ari", "nmi", "ami", "v_measure", "accuracy"} else "no labels"
        print(f"{score} ({kind}) prefers {parameters_text(point.parameters.items())}")
    if n_types:
        print(f"annotated: {n_types} types")
    print(f"{len(rows)} runs, {n_kept} of them from before, {table.n_failed} failed: {report}")
