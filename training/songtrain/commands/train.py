"""``songstream train``: recordings in, a bundle and a report out."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["train"]


def train(  # noqa: PLR0913, PLR0917 - one parameter per option
    data: Annotated[Path, typer.Option(help="Folder with recordings, and songs.csv where songs are annotated.")],
    out: Annotated[Path, typer.Option(help="The bundle to write; the report is in it.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with run parameters.")] = None,
    preset: Annotated[
        str, typer.Option(help="Parameters to start from: default, syllable, general or demo.")
    ] = "default",
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for features and checkpoints; kept.  [default: .OUT.work beside --out, removed when done]"
        ),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; this machine alone if not given.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's facts and scores as one JSON line.")] = False,
) -> None:
    """Find the song types in recordings and learn to recognise them.

    Songs are those of songs.csv, or what the segmenter cuts where there is none. The number of types is found. Labels in
    songs.csv are only ever used to score the result. The bundle is what `songstream serve` and
    `songstream classify` take; look at its report.html.

        songstream train --data season --out bundle

    A bad recording is reported and skipped. A run that was killed goes on where it was when the same command is started
    again.
    """
    from datetime import UTC, datetime
    from importlib.metadata import version

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from songtrain.pipeline import TrainJob, train_bundle
    from songtrain.settings import load_settings

    folder = work or out.parent / f".{out.name}.work"
    job = TrainJob(
        data=data,
        out=out,
        settings=load_settings(config, preset),
        work=folder,
        created_by=f"songstream {version('songstream')}",
        now=datetime.now(UTC).replace(microsecond=0),
        address=address,
        device=_device(device),
        overwrite=overwrite,
    )
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, words: str) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, words="")
            progress.update(tasks[stage], completed=done, total=total, words=words)
            if not progress.console.is_terminal and (stage == "training" or done in {0, total}):
                # In a log there are no bars.
                progress.console.print(f"{stage} {done}/{total} {words}".rstrip(), markup=False)

        result = train_bundle(job, show)
    if work is None:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result) if as_json else _summary(result))


def _device(name: str) -> Any:
    import torch

    from songcore.errors import ConfigError

    if name not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: torch finds no GPU; install its CUDA build, or use auto or cpu", reason="DEVICE_MISSING"
        )
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def _summary(result: dict[str, Any]) -> str:
    songs = f"{result['n_songs']} songs of {result['n_recordings']} recordings ({result['n_skipped']} skipped)"
    behind = (
        [f"{result['n_behind']} annotations begin behind the end of their recordings"] if result["n_behind"] else []
    )
    lines = [
        *behind,
        f"{result['n_types']} song types in {songs}: {result['bundle']}",
        f"novelty: {result['novelty_auroc']:.3f} AUROC on types left out in turn",
    ]
    if "nmi" in result:
        lines.append(
            f"against the labels: NMI {result['nmi']:.3f}, ARI {result['ari']:.3f}, accuracy {result['accuracy']:.3f}"
        )
    return "\n".join([*lines, f"report: {result['bundle']}/report.html"])
