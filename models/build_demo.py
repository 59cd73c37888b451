# ruff: noqa: INP001 - a program, not a package
"""Build models/demo-v1: simulate a season of nightingales and train on it. Nothing recorded in the field is used.

Run as ``python models/build_demo.py``; about ten minutes on two cores. The same settings give the same songs.
"""

import json
import os
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from songtrain.pipeline import TrainJob, train_bundle
from songtrain.settings import load_settings
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate

MODELS = Path(__file__).parent

SEASON = season_config(
    "easy",
    seed=11,
    type_seed=11,
    n_types=40,
    n_songs=1600,
    n_singers=8,
    n_stations=6,
    n_sites=2,
    pitch_sd_octaves=0.02,
    tempo_sd=0.05,
    snr_db=(0.0, 30.0),
)
"""More singers, places and noise than the demo season has, so that the encoder learns what does not matter."""


def build_demo(
    out: Annotated[Path, typer.Option(help="The bundle to write.")] = MODELS / "demo-v1",
    work: Annotated[Path | None, typer.Option(help="Folder for the season, features and checkpoints; kept.")] = None,
) -> None:
    """Simulate, train, and print the scores as one JSON line."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        season = folder / "simulated-season"
        if not (season / "season.json").exists():
            console.print("simulating a season")
            simulate(SEASON, season, len(os.sched_getaffinity(0)))
        job = TrainJob(
            data=season,
            out=out,
            settings=load_settings(MODELS / "demo-v1.toml"),
            work=folder / "training",
            created_by=f"songstream {version('songstream')}, models/build_demo.py",
            now=datetime.now(UTC).replace(microsecond=0),
            overwrite=True,
        )
        result = train_bundle(job, lambda stage, done, total, words: console.print(f"{stage} {done}/{total} {words}"))
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(build_demo)
