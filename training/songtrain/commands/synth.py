"""``songstream synth``: write a season of simulated nightingales, with the whole truth."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["synth"]


def synth(  # noqa: PLR0913, PLR0917 - every option of a command is an argument of its function
    out: Annotated[Path, typer.Option(help="Folder for recordings/, songs.csv and season.json; empty or new.")],
    preset: Annotated[str, typer.Option(help="demo, easy, hard, or default, which is easy.")] = "easy",
    seed: Annotated[int | None, typer.Option(min=0, help="Season: singers, renditions, weather.")] = None,
    type_seed: Annotated[
        int | None, typer.Option(min=0, help="Song types; share it to get the same types again.")
    ] = None,
    songs: Annotated[int | None, typer.Option(min=1, help="Number of songs.")] = None,
    types: Annotated[int | None, typer.Option(min=1, help="Number of song types.")] = None,
    withhold: Annotated[str, typer.Option(help="Types nobody sings, by index: 3,7.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other field, as field=value; repeatable.")
    ] = None,
    audio_format: Annotated[str, typer.Option("--format", help="flac or wav, 16 bit.")] = "flac",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as cores if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line about what was written.")] = False,
) -> None:
    """Simulate a season of singing nightingales.

    Writes 16-bit recordings, songs.csv (every song's onset, offset, type, singer, station, signal-to-noise ratio, overlap)
    and season.json (settings, types in words, singers, versions). The same settings give the same files, whatever the
    number of workers.

        songstream synth --preset demo --seed 1 --out season
    """
    from rich.console import Console
    from rich.progress import Progress

    from songcore.errors import ConfigError
    from songtrain.synth.config import season_config
    from songtrain.synth.write import simulate

    if audio_format not in ("flac", "wav"):
        raise ConfigError(f"--format {audio_format}: expected flac or wav")
    named = {"seed": seed, "type_seed": type_seed, "n_songs": songs, "n_types": types}
    changes: dict[str, object] = {key: value for key, value in named.items() if value is not None}
    if withhold:
        changes["withheld"] = _indices(withhold)
    for pair in set_ or []:
        field, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: expected field=value")
        changes[field] = tuple(value.split(",")) if "," in value else value
    config = season_config(preset, **changes)
    n_workers = workers or os.cpu_count() or 1
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("recordings", total=None)
        truth = simulate(
            config,
            out,
            n_workers,
            audio_format=audio_format,  # type: ignore[arg-type]  # checked above
            on_recording=lambda n_done, n_all: progress.update(task, completed=n_done, total=n_all),
        )
    n_recordings, n_types = len({s.recording for s in truth}), len({s.label for s in truth})
    if as_json:
        print(json.dumps({"out": str(out), "songs": len(truth), "recordings": n_recordings, "types": n_types}))
    else:
        print(f"{len(truth)} songs of {n_types} types in {n_recordings} recordings: {out}")


def _indices(text: str) -> tuple[int, ...]:
    from songcore.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--withhold {text}: expected type indices such as 3,7") from error
