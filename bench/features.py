"""Recordings to songs and features by Ray Data, in seconds of sound per second; prints one JSON line last.

Reads every recording below --data (songs by songs.csv, or by the segmenter), cold: nothing is cached. Starting Ray is
reported apart. Run as ``python bench/features.py --data season``.
"""

import json
import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from songcore.features import FeatureConfig
from songcore.presets import PRESETS
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.distributed import extract_features
from songtrain.datasets.folder import scan_folder


def main(
    data: Annotated[Path, typer.Option(help="Folder with recordings.")],
    repeat: Annotated[int, typer.Option(min=1, help="Times to read them; the first warms Ray's workers.")] = 2,
) -> None:
    """Measure the way from files to features."""
    stream = StreamConfig(*PRESETS["song"], FeatureConfig())
    folder = scan_folder(data)
    begin = perf_counter()
    with ray_session():
        start_s = perf_counter() - begin
        times = []
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as cache:
                begin = perf_counter()
                run = extract_features(folder.recordings, stream, Path(cache))
                times.append(perf_counter() - begin)
    result = {
        "x_real_time": round(run.songs.duration_s / times[-1], 1),
        "first_x_real_time": round(run.songs.duration_s / times[0], 1),
        "recorded_s": round(run.songs.duration_s, 1),
        "n_songs": len(run.songs),
        "n_skipped": len(run.skipped),
        "start_s": round(start_s, 2),
        "cores": len(os.sched_getaffinity(0)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
