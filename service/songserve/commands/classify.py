"""``songstream classify``: recordings to tables, without a server."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from songcore.errors import ConfigError
from songcore.printed_tables import add_number_columns, print_table
from songserve.cells import chosen_formats

if TYPE_CHECKING:
    from datetime import tzinfo

    from songserve.archive.recordings import FoundRecording
    from songserve.archive.run import RunSummary
    from songserve.archive.worker import Job, Outcome

__all__ = ["classify"]

EXIT_SOME_FAILED = 3
DEFAULT_FORMATS = "csv, parquet, raven, audacity"
MAX_TYPES_SHOWN = 25
MAX_NAMES_SHOWN = 3


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
    formats: Annotated[str, typer.Option("--format", help="Any of these, with commas between.")] = DEFAULT_FORMATS,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = Device.auto,
    timezone: Annotated[
        str | None,
        typer.Option(
            help="What times in names mean that tell no zone: Europe/Berlin or +02:00, say.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Skip what an earlier run into --out has finished.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one line of JSON.")] = False,
) -> None:
    """Find and name the songs of recordings, without a server.

    Writes to --out: songs.csv and songs.parquet (every song with type, similarity, p-value, novelty, quality and the
    bundle's digest),
    raven/ and audacity/ (one table per recording), recordings.csv (seconds listened to, the effort) and failed.csv.

    Stop it and start it again as you like: recordings that are finished are skipped while file, bundle and channel
    are the same. A recording that cannot be read is listed in failed.csv and the others go on; of one that breaks off,
    the songs before the break are kept.

    Where a recording says when it began, each song has its UTC time: by AudioMoth's comment, by GUANO metadata, or by the
    file's name (YYYYMMDD_HHMMSS.WAV of an AudioMoth, PREFIX_YYYYMMDD_HHMMSS.wav of a Song Meter, whose zone is --timezone).
    docs/classify.md describes the tables.

    Exit status: 0 all recordings were classified; 1 the run could not be done (bundle, output folder); 2 wrong
    usage; 3 done, but some recordings failed.
    """
    from songserve.archive.recordings import find_recordings
    from songserve.archive.worker import Job

    began = time.monotonic()
    chosen, zone = _formats(formats), _zone(timezone)
    recordings = find_recordings(paths)
    job = Job(bundle, out, channel, device.value)
    console = Console(stderr=True)
    n_workers = workers or len(os.sched_getaffinity(0))
    summary = _run(job, recordings, n_workers, chosen, zone, resume=resume, console=console)
    wall_s = time.monotonic() - began
    if as_json:
        print(json.dumps(_as_json(summary, out, wall_s)))
    else:
        _print(summary, out, wall_s)
    for style, lines in (("yellow", _remarks(summary)), ("red", _failures(summary))):
        for line in lines:
            console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _formats(text: str) -> list[str]:
    from songserve.archive.tables import FORMATS

    try:
        return chosen_formats([text], FORMATS)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--format") from error


def _zone(text: str | None) -> "tzinfo | None":
    from songcore.recorders import read_timezone

    try:
        return None if text is None else read_timezone(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timezone") from error


def _run(
    job: "Job",
    recordings: "list[FoundRecording]",
    n_workers: int,
    formats: list[str],
    zone: "tzinfo | None",
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
            return classify_archive(
                job, recordings, n_workers=n_workers, formats=formats, resume=resume, report=report, zone=zone
            )
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
        "n_zone_unknown": summary.n_zone_unknown,
        "n_zone_impossible": len(summary.zone_impossible),
        "older_tables": summary.older_tables,
    }


def _remarks(summary: "RunSummary") -> list[str]:
    """Return what else there is to say."""
    remarks = []
    if summary.n_zone_unknown:
        remarks.append(
            f"recordings with a time of unknown zone: {summary.n_zone_unknown:,}, without UTC times of songs. Say which "
            "it is with --timezone Europe/Berlin or --timezone +02:00, for example; nothing is classified again for it"
        )
    if names := summary.zone_impossible:
        remarks.append(
            f"recordings with a time that --timezone does not have, as clocks there go forward: {len(names):,}; "
            f"{_some(names)}. Their recorder does not follow that zone: in summer its UTC times are off, mostly by an hour. "
            "Give the offset that it keeps, such as --timezone +01:00; nothing is classified again for it"
        )
    if older := summary.older_tables:
        remarks.append(f"tables of earlier runs that are not of these results: {len(older):,}; {_some(older)}")
    return remarks


def _failures(summary: "RunSummary") -> list[str]:
    """Return a line for each problem, which may be that of many recordings."""
    by_problem: defaultdict[str, list[str]] = defaultdict(list)
    # By name: two are read at a time, and either may be done first.
    for outcome in sorted(summary.failed, key=lambda outcome: outcome.recording.name):
        if outcome.problem is not None:
            by_problem[f"{outcome.problem.message} [{outcome.problem.reason}]"].append(outcome.recording.name)
    return [
        f"failed {f'{len(names):,} recordings, ' if len(names) > 1 else ''}{_some(names)}: {problem}"
        for problem, names in by_problem.items()
    ]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES_SHOWN]) + (", …" if len(names) > MAX_NAMES_SHOWN else "")
    # File names may hold bytes that no terminal takes.
    return os.fsencode(shown).decode("utf-8", "replace")


def _print(summary: "RunSummary", out: Path, wall_s: float) -> None:
    console = Console()
    if not summary.n_recordings:
        console.print("Nothing could be read.")
        return
    if summary.types:
        print_table(_types_table(summary))
    songs = f"{summary.n_songs:,} songs in {summary.audio_s / 3600:,.2f} h of {summary.n_recordings:,} recordings"
    console.print(f"{songs}: {_kinds(summary)}." if summary.n_songs else f"{songs}.")
    speed = f", {summary.heard_s / wall_s:,.0f} × real time on {summary.facts.provider}" if summary.heard_s else ""
    resumed = f", {summary.n_resumed:,} recordings taken from an earlier run" if summary.n_resumed else ""
    console.print(f"{wall_s:.1f} s{speed}{resumed}. Tables in {out}")


def _types_table(summary: "RunSummary") -> Table:
    table = Table("type", title=f"Song types by {summary.facts.name}")
    add_number_columns(table, "songs", "share", "mean similarity")
    n_named = sum(summary.types.values())
    for type_id, n_songs in summary.types.most_common(MAX_TYPES_SHOWN):
        shown = f"{type_id} {summary.facts.type_names[type_id]}".rstrip()
        similarity = summary.similarity_sums[type_id] / n_songs
        table.add_row(escape(shown), f"{n_songs:,}", f"{n_songs / n_named:.1%}", f"{similarity:.3f}")
    if len(summary.types) > MAX_TYPES_SHOWN:
        rest = len(summary.types) - MAX_TYPES_SHOWN
        table.caption = f"and {rest} rarer types, in the tables"
    return table


def _kinds(summary: "RunSummary") -> str:
    n_named, n_types = sum(summary.types.values()), len(summary.types)
    known = f"{n_named:,} of {n_types:,} known types" if n_named else "none of a known type"
    return (
        f"{known}, {summary.n_uncertain:,} of them uncertain, {summary.n_novel:,} novel, {summary.n_noise:,} known noise; "
        f"{summary.qualities['good']:,} of good quality"
    )
