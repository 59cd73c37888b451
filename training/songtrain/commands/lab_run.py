"""``songstream lab run``: several systems on the same songs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from songtrain.lab.results import Row
    from songtrain.lab.run import LabRun

__all__ = ["check_choices", "run", "warn_of_codes"]


def run(  # noqa: PLR0913, PLR0917 - one parameter per option
    data: Annotated[Path, typer.Option(help="Folder with recordings, and songs.csv where songs are annotated.")],
    out: Annotated[Path, typer.Option(help="Folder for results.parquet, report.html and the features.")],
    systems: Annotated[
        str, typer.Option(help="Names, with commas between; all, or those of --file, if not given.")
    ] = "",
    file: Annotated[
        Path | None, typer.Option(help="TOML file that declares systems of your own, as `lab list --toml` shows them.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of every system.")] = 3,
    clusters: Annotated[
        int | None, typer.Option(min=1, help="Clusters for the systems that are given a number; else their own number.")
    ] = None,
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
    rows_per_gpu: Annotated[
        int,
        typer.Option(
            min=1, help="Networks that share a GPU: small ones leave most of it idle. They share its time, too."
        ),
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line about the run.")] = False,
) -> None:
    """Run systems on the songs of a folder and print who is best.

    Labels in songs.csv only score the results. Finished runs are kept: the same command goes on where it was stopped, and
    tries failed runs again.

        songstream lab run --data season --systems classical-floor,basenet-kmeans --out lab
    """
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.progress import Progress

    from songtrain.lab.report import write_lab_report
    from songtrain.lab.results import Row
    from songtrain.lab.run import LabJob, run_laboratory
    from songtrain.lab.systems import choose_systems

    check_choices(segmenter, segmentation)
    job = LabJob(
        data=data,
        out=out,
        systems=choose_systems([name.strip() for name in systems.split(",") if name.strip()], file),
        n_seeds=seeds,
        n_clusters=clusters,
        max_minutes=max_minutes,
        segmenter=segmenter,  # type: ignore[arg-type]  # checked above
        segmentation=segmentation,  # type: ignore[arg-type]  # checked above
        channel=channel,
        address=address,
        rows_per_gpu=rows_per_gpu,
    )
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("runs", total=None)

        def show(row: Row, n_done: int, n_all: int) -> None:
            progress.update(task, completed=n_done, total=n_all)
            told = row.error or in_words(row)
            progress.console.print(
                f"{n_done}/{n_all} {row.system}, seed {row.seed}: {told}", markup=False, soft_wrap=True
            )

        done = run_laboratory(job, show)
    warn_of_left_out(done.left_out)
    _tell(done, write_lab_report(out, datetime.now(UTC).replace(microsecond=0)), as_json=as_json)


def check_choices(segmenter: str, segmentation: str) -> None:
    """Raise ConfigError unless both are among the choices."""
    from songcore.errors import ConfigError

    if segmenter not in {"song", "syllable", "general"}:
        raise ConfigError(f"--segmenter {segmenter}: expected song, syllable or general")
    if segmentation not in {"auto", "annotated", "automatic"}:
        raise ConfigError(f"--segmentation {segmentation}: expected auto, annotated or automatic")


def in_words(row: "Row") -> str:
    """Return what a run that has just ended has given."""
    scores = [f"{name.upper()} {row.scores[name]:.3f}" for name in ("nmi", "ari") if name in row.scores]
    return ", ".join([f"{row.n_clusters} clusters", *scores, f"{row.seconds:.0f} s"])


def warn_of_left_out(left_out: str) -> None:
    """Say on standard error what of the folder was not used."""
    if left_out:
        print(f"warning: {left_out}", file=sys.stderr)


def warn_of_codes(rows: "Sequence[Row]") -> int:
    """Say on standard error when the rows were made by several states of the code; return how many these are."""
    from songtrain.lab.results import n_codes

    n = n_codes(rows)
    if n > 1:
        words = f"made by {n} states of songstream's code: what differs may be the code; another --out makes all anew"
        print(f"warning: these rows were {words}", file=sys.stderr)
    return n


def _tell(done: "LabRun", report: Path, *, as_json: bool) -> None:
    """Print the leaderboard."""
    from songtrain.lab.leaderboard import leaderboard

    n_codes = warn_of_codes(done.rows)
    n_failed = sum(bool(row.error) for row in done.rows)
    lines = leaderboard(done.rows)
    if as_json:
        scores = {line.name: {k: round(v.mean, 4) for k, v in line.scores.items() if v is not None} for line in lines}
        facts = {"n_runs": len(done.rows), "n_kept": done.n_kept, "n_failed": n_failed}
        facts |= {
            "n_songs": done.rows[0].n_songs,
            "n_silent": done.n_silent,
            "n_skipped": done.n_skipped,
            "n_codes": n_codes,
        }
        print(json.dumps({**facts, "scores": scores, "report": str(report)}))
        return
    for line in lines:
        ari, nmi = line.scores["ari"], line.scores["nmi"]
        words = f"ARI {ari}, NMI {nmi}" if ari else f"{line.n_worked} of {line.n_runs} runs worked"
        print(f"{line.name:18} {words}, {line.n_clusters} clusters, {line.seconds} s")
    print(f"{len(done.rows)} runs, {done.n_kept} of them from before, {n_failed} failed: {report}")
