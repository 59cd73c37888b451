"""All systems and seeds as Ray tasks; every finished row is on disk before the next is waited for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from songcore.errors import ConfigError, SongError
from songcore.features import FeatureConfig
from songcore.presets import PRESETS
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.distributed import extract_features
from songtrain.datasets.folder import scan_folder
from songtrain.datasets.screening import screen_songs
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource, sound_source
from songtrain.lab.parts import build, describe, n_clusters_asked, with_clusters
from songtrain.lab.results import Key, Row, read_rows, write_rows
from songtrain.lab.systems import System
from songtrain.lab.trial import Clustering, cluster_points, place_songs

__all__ = ["LabJob", "LabRun", "run_laboratory", "run_systems"]

MIN_SONGS = 4


@dataclass(frozen=True)
class LabJob:
    """Which systems to compare, on what, and where the results go."""

    data: Path
    out: Path
    systems: Sequence[System]
    n_seeds: int
    n_clusters: int | None = None
    """For all systems that are given a number of clusters; None leaves each its own."""
    segmenter: Literal["song", "syllable"] = "song"
    channel: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class LabRun:
    """The rows asked for, and how many of them were there before."""

    rows: tuple[Row, ...]
    n_kept: int
    n_silent: int = 0
    n_skipped: int = 0
    """Recordings that could not be used."""


def run_laboratory(job: LabJob, on_row: Callable[[Row, int, int], None] = lambda *_: None) -> LabRun:
    """Run what has not been run yet; ``on_row`` gets each new row, how many are done and of how many.

    Raises InputError when there are no songs to compare anything on, ConfigError for what cannot be written. A system that
    fails is a row with its error, tried again by the next run.
    """
    frontend, segmenter = PRESETS[job.segmenter]
    stream = StreamConfig(frontend, segmenter, FeatureConfig())
    # What cannot work is said before an hour is spent on features.
    for system in job.systems:
        describe(system, stream)
    read_rows(job.out)
    folder = scan_folder(job.data)
    with ray_session(job.address):
        features = extract_features(folder.recordings, stream, job.out / "features", channel=job.channel)
        songs, n_silent = screen_songs(features.songs, min_songs=MIN_SONGS)
        sound = sound_source(folder.recordings, stream.frontend.sample_rate_hz, job.channel)
        run = run_systems(songs, stream, job, on_row, sound)
    return LabRun(run.rows, run.n_kept, n_silent, len(features.skipped))


def run_systems(
    songs: SongSet,
    stream: StreamConfig,
    job: LabJob,
    on_row: Callable[[Row, int, int], None] = lambda *_: None,
    sound: SoundSource | None = None,
) -> LabRun:
    """Run the job's systems on these songs; needs a Ray connection, and ``sound`` where a part hears the songs."""
    systems = [s if job.n_clusters is None else with_clusters(s, job.n_clusters) for s in job.systems]
    digest = _digest(songs)
    blank = {
        (system.name, seed): Row(
            system.name,
            seed,
            describe(system, stream),
            digest,
            len(songs),
            n_clusters_given=n_clusters_asked(build("clusterer", system.clusterer)),
        )
        for system in systems
        for seed in range(job.n_seeds)
    }
    rows = {row.key: row for row in read_rows(job.out)}
    if any(row.songs != digest for row in rows.values()):
        raise ConfigError(
            f"{job.out} holds results of other songs; choose another folder, or delete it", reason="OUTPUT_EXISTS"
        )
    kept = {key for key, row in blank.items() if key in rows and _is_done(rows[key], row)}
    running = _start(systems, songs, stream, sound, [key for key in blank if key not in kept])
    n_done = len(kept)
    while running:
        (task,), _ = ray.wait(list(running), num_returns=1)
        row = _finished(blank[running.pop(task)], task)
        rows[row.key] = row
        write_rows(job.out, rows.values())
        n_done += 1
        on_row(row, n_done, len(blank))
    return LabRun(tuple(rows[key] for key in blank), len(kept))


def _is_done(row: Row, wanted: Row) -> bool:
    return not row.error and row.description == wanted.description


def _start(
    systems: Sequence[System], songs: SongSet, stream: StreamConfig, sound: SoundSource | None, keys: Sequence[Key]
) -> dict[Any, Key]:
    """Start two tasks per row, the first shared by all rows that need the same points."""
    by_name = {system.name: system for system in systems}
    stored = ray.put(songs)
    n_gpus = min(1.0, ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]  # Ray has none here
    points: dict[Any, Any] = {}
    running: dict[Any, Key] = {}
    for name, seed in keys:
        system = by_name[name]
        shared = (system.features, system.encoder, system.reducer, seed)
        if shared not in points:
            place = _place.options(num_gpus=n_gpus if system.encoder is not None else 0)
            points[shared] = place.remote(stored, system, seed, stream, sound)
        running[_cluster.remote(points[shared], system, seed)] = (name, seed)
    return running


# Any: of a function with an optional argument Ray's types know the shorter form alone.
_place: Any = ray.remote(num_cpus=1)(place_songs)
_cluster = ray.remote(num_cpus=1)(cluster_points)


def _finished(blank: Row, task: Any) -> Row:
    try:
        found: Clustering = ray.get(task)
    except RayError as error:
        return replace(blank, error=_words(error))
    return replace(
        blank,
        n_clusters=int(found.labels.max(initial=-1)) + 1,
        unclustered_share=float((found.labels < 0).mean()),
        seconds=found.seconds,
        peak_memory_mib=found.peak_memory_mib,
        scores=found.scores,
        labels=tuple(found.labels.tolist()),
    )


def _words(error: RayError) -> str:
    """Return what went wrong in one line."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    # Of an error in the first task the second one's is only the envelope.
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    name = cause.reason if isinstance(cause, SongError) else type(cause).__name__
    return f"{' '.join(str(cause).split())} [{name}]"


def _digest(songs: SongSet) -> str:
    digest = blake2b(digest_size=16)
    digest.update(songs.lengths.tobytes() + np.ascontiguousarray(songs.frames).tobytes())
    digest.update("\n".join(songs.labels).encode())
    return digest.hexdigest()
