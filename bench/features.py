"""Recordings to songs and features by Ray Data, in seconds of sound per second; prints one JSON line last.

Reads every recording below --data (songs by songs.csv, or by the segmenter), cold: nothing is cached. Starting Ray is
reported apart. ``cpu_s`` is the processor time of the last reading, of this process and all that Ray started, and
``x_real_time_of_cpu`` what it would give if nothing else ran on the cores.

Beside it some recordings are read without Ray: ``alone_x_real_time`` by one process, ``apart_x_real_time`` by as many as there
are cores, at once. That is the most that Ray can reach here. Run as ``python bench/features.py --data season``.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from cores import at_once

from songcore.features import FeatureConfig
from songcore.presets import PRESETS
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.distributed import extract_features
from songtrain.datasets.extract import extract_songs
from songtrain.datasets.folder import RecordingFile, scan_folder

N_BARE = 16
"""Recordings that each process without Ray reads."""


def family_cpu_s() -> float:
    """Return the processor time in seconds that this process and all its living descendants have used."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    family, found = {os.getpid()}, {os.getpid()}
    while found:
        found = {pid for pid, parent in parents.items() if parent in found} - family
        family |= found
    return sum(ticks[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


def bare_x_real_time(recordings: Sequence[RecordingFile], stream: StreamConfig, n_processes: int) -> float:
    """Return how many times faster than real time so many processes read recordings at once, each all of them."""
    return sum(at_once(n_processes, _read, recordings, stream))


def _read(recordings: Sequence[RecordingFile], stream: StreamConfig) -> float:
    warm = recordings[0]  # what is made once for all recordings is made here
    extract_songs(warm.path, warm.name, warm.annotations, stream)
    begin = perf_counter()
    songs = [extract_songs(file.path, file.name, file.annotations, stream) for file in recordings]
    return sum(part.duration_s for part in songs) / (perf_counter() - begin)


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
        times, cpu_s = [], 0.0
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as cache:
                begin, before = perf_counter(), family_cpu_s()
                run = extract_features(folder.recordings, stream, Path(cache))
                times.append(perf_counter() - begin)
                cpu_s = family_cpu_s() - before
    n_cores = len(os.sched_getaffinity(0))
    some = folder.recordings[:N_BARE]
    result = {
        "x_real_time": round(run.songs.duration_s / times[-1], 1),
        "first_x_real_time": round(run.songs.duration_s / times[0], 1),
        "recorded_s": round(run.songs.duration_s, 1),
        "n_songs": len(run.songs),
        "n_skipped": len(run.skipped),
        "start_s": round(start_s, 2),
        "cpu_s": round(cpu_s, 1),
        "x_real_time_of_cpu": round(run.songs.duration_s / cpu_s * n_cores, 1),
        "alone_x_real_time": round(bare_x_real_time(some, stream, 1), 1),
        "apart_x_real_time": round(bare_x_real_time(some, stream, n_cores), 1),
        "load": round(os.getloadavg()[0], 1),
        "cores": n_cores,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
