"""``songstream classify``: recordings to tables, without a server."""

import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from songcore.errors import ConfigError

if TYPE_CHECKING:
    from songserve.archive.recordings import FoundRecording
    from songserve.archive.run import RunSummary
    from songserve.archive.worker import Job, Outcome

__all__ = ["classify"]

EXIT_SOME_FAILED = 3
DEFAULT_FORMATS = "csv,parquet,raven,audacity"
MAX_TYPES_SHOWN = 25


class Device(StrEnum):
    """Where the encoder runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def classify(  # noqa: PLR0913, PLR0917 - one argument per option of the command
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="Recordings, and folders that are searched for them.")
    ],
    bundle: Annotated[Path, typer.Option(help="The model bundle, a directory.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables; made when missing.")],
    channel: Annotated[
        int | None, typer.Option(min=1, help="Listen to this channel, from 1.  [default: their mean]")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.  [default: one per core]")] = None,
    formats: Annotated[str, typer.Option("--format", help="Any of csv,parquet,raven,audacity.")] = DEFAULT_FORMATS,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = Device.auto,
    resume: Annotated[bool, typer.Option(help="Skip what an earlier run into --out has finished.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one line of JSON.")] = False,
) -> None:
    """Find and name the songs of recordings, without a server.

    Writes to --out: songs.csv and songs.parquet (every song with type, similarity, p-value, novelty, quality and the
    bundle's digest),
    raven/ and audacity/ (one table per recording), recordings.csv (seconds listened to, the effort) and failed.csv.

    Stop it and start it again as you like: recordings that are finished are skipped while file, bundle and channel
    are the same. A recording that cannot be read is listed in failed.csv and the others go on; of one that breaks off,
    the songs before the break are kept. AudioMoth's file names (YYYYMMDD_HHMMSS.WAV) give each song its UTC time.

    Exit status: 0 all recordings were classified; 1 the run could not be done (bundle, output folder); 2 wrong
    usage; 3 done, but some recordings failed.
    """
    from songserve.archive.recordings import find_recordings
    from songserve.archive.worker import Job

    began = time.monotonic()
    chosen = _formats(formats)
    recordings = find_recordings(paths)
    job = Job(bundle, out, channel, device.value)
    console = Console(stderr=True)
    summary = _run(job, recordings, workers or len(os.sched_getaffinity(0)), chosen, resume=resume, console=console)
    wall_s = time.monotonic() - began
    if as_json:
        print(json.dumps(_as_json(summary, out, wall_s)))
    else:
        _print(summary, out, wall_s)
    for outcome in summary.failed:
        if outcome.problem is not None:
            console.print(
                f"[red]failed[/] {outcome.recording.name}: {outcome.problem.message} [{outcome.problem.reason}]"
            )
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _formats(text: str) -> list[str]:
    from songserve.archive.tables import FORMATS

    chosen = [name.strip().lower() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise typer.BadParameter(f"unknown format {', '.join(unknown)}; expected any of {', '.join(FORMATS)}")
    if not chosen:
        raise typer.BadParameter(f"no format is named; expected any of {', '.join(FORMATS)}")
    return list(dict.fromkeys(chosen))


def _run(
    job: "Job",
    recordings: "list[FoundRecording]",
    n_workers: int,
    formats: list[str],
    *,
    resume: bool,
    console: Console,
) -> "RunSummary":
    from songserve.archive.run import classify_archive

    # The workers are the parallelism; threads of numeric libraries inside each would only fight over the cores.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    columns = ("{task.description}", "{task.fields[speed]}", "{task.fields[failed]}")
    bar = Progress(
        TextColumn(columns[0]),
        BarColumn(),
        MofNCompleteColumn(),
        *map(TextColumn, columns[1:]),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("recordings", total=len(recordings), speed="", failed="")
        began, heard_s, n_failed = time.monotonic(), 0.0, 0

        def report(outcome: "Outcome") -> None:
            nonlocal heard_s, n_failed
            heard_s += outcome.duration_s
            n_failed += outcome.problem is not None
            speed = f"{heard_s / max(1e-3, time.monotonic() - began):,.0f} × real time"
            bar.update(task, advance=1, speed=speed, failed=f"[red]{n_failed} failed[/]" if n_failed else "")

        try:
            return classify_archive(job, recordings, n_workers=n_workers, formats=formats, resume=resume, report=report)
        except KeyboardInterrupt:
            raise ConfigError(
                f"stopped; what was finished is kept in {job.out}, the same command goes on from there",
                reason="INTERRUPTED",
            ) from None


def _as_json(summary: "RunSummary", out: Path, wall_s: float) -> dict[str, object]:
    return {
        "out": str(out),
        "bundle": summary.facts.digest,
        "provider": summary.facts.provider,
        "n_recordings": summary.n_recordings,
        "n_resumed": summary.n_resumed,
        "n_failed": len(summary.failed),
        "audio_s": round(summary.audio_s, 3),
        "heard_s": round(summary.heard_s, 3),
        "wall_s": round(wall_s, 3),
        "x_real_time": round(summary.heard_s / wall_s, 1),
        "n_songs": summary.n_songs,
        "n_novel": summary.n_novel,
        "n_uncertain": summary.n_uncertain,
        "n_noise": summary.n_noise,
        "qualities": dict(summary.qualities.most_common()),
        "types": dict(summary.types.most_common()),
    }


def _print(summary: "RunSummary", out: Path, wall_s: float) -> None:
    console = Console()
    table = Table(title=f"Song types by {summary.facts.name}")
    for heading in ("type", "songs", "share", "mean similarity"):
        table.add_column(heading, justify="left" if heading == "type" else "right")
    n_named = sum(summary.types.values())
    for type_id, n_songs in summary.types.most_common(MAX_TYPES_SHOWN):
        name = summary.facts.type_names[type_id]
        shown = type_id if name == type_id else f"{type_id} {name}"
        similarity = summary.similarity_sums[type_id] / n_songs
        table.add_row(shown, f"{n_songs:,}", f"{n_songs / n_named:.1%}", f"{similarity:.3f}")
    if len(summary.types) > MAX_TYPES_SHOWN:
        rest = len(summary.types) - MAX_TYPES_SHOWN
        table.caption = f"and {rest} rarer types, in the tables"
    console.print(table)
    console.print(
        f"{summary.n_songs:,} songs in {summary.audio_s / 3600:,.2f} h of {summary.n_recordings:,} recordings: "
        f"{n_named:,} of {len(summary.types):,} known types, {summary.n_uncertain:,} of them uncertain, "
        f"{summary.n_novel:,} novel, {summary.n_noise:,} known noise; {summary.qualities['good']:,} of good quality."
    )
    resumed = f", {summary.n_resumed:,} recordings taken from an earlier run" if summary.n_resumed else ""
    console.print(
        f"{wall_s:.1f} s, {summary.heard_s / wall_s:,.0f} × real time on {summary.facts.provider}{resumed}. Tables in {out}"
    )
