"""Songs per second of our loop under Ray Train against the bare torch loop, in one run; prints one JSON line last.

Both train the light encoder on the same random songs with the same batches, views, losses and threads. ``ratio`` is the time
of the bare loop's epochs against those under Ray Train, whose checkpoints and reports count while the bare loop makes none.
The two take turns, and the median of all rounds counts, so that a busy machine slows both. Starting Ray and its workers is
reported apart.

With ``--workers 2`` one worker and two, each of one thread, take turns instead, and ``workers_ratio`` is by how much two are
faster. ``apart_ratio`` is the most that the cores allow: by how much two bare loops at once, in processes that know nothing of
each other, are faster than one. ``--device cuda`` trains on a GPU, in bfloat16.

``…_of_cpu`` are the same ratios in processor time of the loop's process (of several workers the first): what they would be if
nothing else ran on the cores and workers never waited for each other.

``--recipe`` compares nothing: it simulates a season of ``--songs`` songs (preset hard), trains on it as `songstream train`
does, and prints the minutes from recordings to bundle, ``recipe_minutes``, stage by stage, and the scores.

Run as ``python bench/train.py --songs 600 --epochs 4``.
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from cores import at_once
from random_songs import random_songs

from songcore.features import FeatureConfig
from songcore.presets import PRESETS
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.songs import SongSet
from songtrain.loop.distributed import train_encoder
from songtrain.loop.learner import Learner
from songtrain.loop.schedule import plan_epochs
from songtrain.loop.world import World
from songtrain.pipeline import TrainJob, train_bundle
from songtrain.settings import TrainSettings
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate


@dataclass
class Epochs:
    """What an epoch took on average, run by run, the first of every run left out: it warms caches."""

    seconds: list[float] = field(default_factory=list)
    """With whatever lies between an epoch and the next, such as a checkpoint."""
    worked_s: list[float] = field(default_factory=list)
    """Processor time of the process."""
    start_s: list[float] = field(default_factory=list)
    """Time of a run beside its epochs."""

    def add(self, ended_at: list[float], worked_s: list[float]) -> None:
        """Take the clocks at the ends of all epochs of a run."""
        self.seconds.append(float(np.diff(ended_at).mean()))
        self.worked_s.append(float(np.diff(worked_s).mean()))


def main(
    songs: Annotated[int, typer.Option(help="Songs per epoch.")] = 600,
    frames: Annotated[int, typer.Option(help="Mean length of a song, frames of 16 ms.")] = 176,
    epochs: Annotated[int, typer.Option(help="Epochs of each loop.")] = 4,
    rounds: Annotated[int, typer.Option(help="How often the two loops take turns.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Compare so many workers with one, each of one thread.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    *,
    recipe: Annotated[bool, typer.Option("--recipe", help="Train the whole default recipe instead.")] = False,
) -> None:
    """Compare the two loops, or several workers with one; or train the default recipe."""
    if recipe:
        print(json.dumps(_whole_recipe(songs, device)))
        return
    threads = len(os.sched_getaffinity(0)) if workers == 1 else 1
    settings = TrainSettings.model_validate(
        {
            "warmup": {"n_epochs": epochs + 1, "neighbours_from_epoch": 1000},
            "rounds": {"n_rounds": 0},
            "run": {"precision": "bfloat16", "threads_per_worker": threads},
        }
    )
    stream = StreamConfig(*PRESETS["song"], FeatureConfig())
    data = random_songs(songs, frames, 0)
    torch.set_num_threads(threads)
    under_ray, other, alone, together = Epochs(), Epochs(), Epochs(), Epochs()
    with ray_session(), tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            chosen = settings.model_copy(update={"seed": number})
            _ray_epochs(data, chosen, stream, Path(folder) / "one", device, under_ray)
            if workers > 1:
                several = chosen.model_copy(update={"run": chosen.run.model_copy(update={"n_workers": workers})})
                _ray_epochs(data, several, stream, Path(folder) / "several", device, other)
                for epochs_of, n in ((alone, 1), (together, workers)):
                    for clocks in at_once(n, _clocks, data, chosen, stream, "cpu"):
                        epochs_of.add(*clocks)
            else:
                _bare_epochs(data, chosen, stream, device, other)
    ray_s, other_s = median(under_ray.seconds), median(other.seconds)
    # Of runs after one another, which a machine that slows down slows alike.
    times_faster = median(np.divide(under_ray.seconds, other.seconds))
    times_less_work = median(np.divide(under_ray.worked_s, other.worked_s))
    result = {"songs_per_s": songs / ray_s, "start_s": median(under_ray.start_s)}
    if workers > 1:
        result |= {"several_songs_per_s": songs / other_s, "workers_ratio": times_faster, "workers": workers}
        result |= {"workers_ratio_of_cpu": times_less_work}
        result |= {"apart_ratio": workers * median(alone.seconds) / median(together.seconds)}
    else:
        result |= {"bare_songs_per_s": songs / other_s, "ratio": 1 / times_faster}
        result |= {"ratio_of_cpu": 1 / times_less_work}
    result |= {"threads": threads, "load": os.getloadavg()[0]}
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


def _whole_recipe(n_songs: int, device: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(season_config("hard", n_songs=n_songs), folder / "season")
        job = TrainJob(
            *(folder / "season", folder / "bundle", TrainSettings(), folder / "work", "bench/train.py"),
            now=datetime.now(UTC).replace(microsecond=0),
            device=device,
        )
        begin = perf_counter()
        told = train_bundle(job, lambda *words: print(*words, file=sys.stderr))
        minutes = (perf_counter() - begin) / 60
    scores: dict[str, Any] = {name: round(told[name], 3) for name in ("nmi", "ari", "v_measure") if name in told}
    stages = {f"{stage}_minutes": round(seconds / 60, 2) for stage, seconds in told["seconds"].items()}
    facts = {name: told[name] for name in ("n_songs", "n_types")}
    return {"recipe_minutes": round(minutes, 2), **stages, **facts, **scores, "load": os.getloadavg()[0]}


def _ray_epochs(
    data: SongSet, settings: TrainSettings, stream: StreamConfig, work: Path, device: str, epochs: Epochs
) -> None:
    events: list[dict[str, Any]] = []
    begin = perf_counter()
    train_encoder(data, settings, stream, work, use_gpu=device == "cuda", on_event=events.append)
    # The worker's own clocks: both processes are on this machine, and posting takes a moment that is not training's.
    ended_at = [float(event["ended_at"]) for event in events]
    epochs.add(ended_at, [float(event["worked_s"]) for event in events])
    epochs.start_s.append(perf_counter() - begin - (ended_at[-1] - ended_at[0]))


def _bare_epochs(data: SongSet, settings: TrainSettings, stream: StreamConfig, device: str, epochs: Epochs) -> None:
    epochs.add(*_clocks(data, settings, stream, device))


def _clocks(
    data: SongSet, settings: TrainSettings, stream: StreamConfig, device: str
) -> tuple[list[float], list[float]]:
    """Run the bare loop; return the clock and the processor time at the end of every epoch."""
    learner = Learner(data, settings, stream, device=torch.device(device), world=World())
    ended_at, worked_s = [], []
    for epoch in plan_epochs(settings):
        learner.run_epoch(epoch)
        ended_at.append(perf_counter())
        worked_s.append(process_time())
    return ended_at, worked_s


if __name__ == "__main__":
    typer.run(main)
