"""All systems and seeds as rows; every finished row is on disk before the next is waited for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from songcore.presets import STREAMS
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.distributed import extract_features
from songtrain.datasets.folder import scan_folder
from songtrain.datasets.screening import screen_songs
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource, sound_source
from songtrain.lab.keepsakes import keep_points
from songtrain.lab.ledger import Ledger, Trial, held_folder, plan_trial, song_digest
from songtrain.lab.options import with_clusters, with_minutes, with_sound
from songtrain.lab.parts import describe
from songtrain.lab.results import Row, read_rows
from songtrain.lab.systems import System
from songtrain.lab.tasks import Bench, note_songs

__all__ = ["LabJob", "LabRun", "LabSongs", "lab_songs", "run_laboratory", "run_systems"]

MIN_SONGS = 4
OnRow = Callable[[Row, int, int], None]
"""Gets each new row, how many are done and of how many."""


@dataclass(frozen=True)
class LabJob:
    """Which systems to compare, on what, and where the results go."""

    data: Path
    out: Path
    systems: Sequence[System]
    n_seeds: int
    n_clusters: int | None = None
    """For all systems that are given a number of clusters; None leaves each its own."""
    max_minutes: float | None = None
    """For every network; None lets each take its time."""
    segmenter: Literal["song", "syllable", "general"] = "song"
    segmentation: Literal["auto", "annotated", "automatic"] = "auto"
    channel: int | None = None
    address: str | None = None
    rows_per_gpu: int = 1

    @property
    def stream(self) -> StreamConfig:
        """What cuts and describes the songs."""
        return STREAMS[self.segmenter]


@dataclass(frozen=True)
class LabSongs:
    """The songs of a folder, and what was left out of it."""

    songs: SongSet
    sound: SoundSource
    n_silent: int
    n_skipped: int
    """Recordings that could not be used."""
    left_out: str
    """What of the folder was not used, in words; empty when all was."""


@dataclass(frozen=True)
class LabRun:
    """The rows asked for, and how many of them were there before."""

    rows: tuple[Row, ...]
    n_kept: int
    n_silent: int = 0
    n_skipped: int = 0
    left_out: str = ""


@contextmanager
def lab_songs(job: LabJob) -> Iterator[LabSongs]:
    """Hold the job's folder and a Ray connection, and give the songs; InputError when there are none to compare on."""
    # What cannot work is said before an hour is spent on features.
    for system in job.systems:
        describe(system, job.stream)
    folder = scan_folder(job.data, job.segmentation)
    with held_folder(job.out), ray_session(job.address):
        read_rows(job.out)
        features = extract_features(folder.recordings, job.stream, job.out / "features", channel=job.channel)
        songs, n_silent = screen_songs(features.songs, min_songs=MIN_SONGS, left_out=features.left_out)
        silent = [f"{n_silent} songs are silent"] if n_silent else []
        left_out = "; ".join(filter(None, [features.left_out, *silent]))
        sound = sound_source(folder.recordings, job.stream.frontend.sample_rate_hz, job.channel)
        yield LabSongs(songs, sound, n_silent, len(features.skipped), left_out)


def run_laboratory(job: LabJob, on_row: OnRow = lambda *_: None) -> LabRun:
    """Run what has not been run yet.

    Raises InputError when there are no songs to compare anything on, ConfigError for what cannot be written. A system that
    fails is a row with its error, tried again by the next run.
    """
    with lab_songs(job) as found:
        run = run_systems(found.songs, job.stream, job, on_row, found.sound)
    return LabRun(run.rows, run.n_kept, found.n_silent, found.n_skipped, found.left_out)


def run_systems(
    songs: SongSet,
    stream: StreamConfig,
    job: LabJob,
    on_row: OnRow = lambda *_: None,
    sound: SoundSource | None = None,
) -> LabRun:
    """Run the job's systems on these songs; needs a Ray connection, and ``sound`` where a part hears the songs."""
    digest = song_digest(songs)
    trials = _trials(songs, stream, job, digest)
    ledger = Ledger(job.out, digest)
    missing = ledger.missing(trials)
    bench = Bench(songs, stream, sound, missing, job.rows_per_gpu)
    n_kept = len(trials) - len(missing)
    for n_done, (trial, row, points) in enumerate(bench.run(missing), n_kept + 1):
        # Before the row: one that is there is not made again, and its points would never be.
        if points is not None:
            keep_points(job.out, trial.system.name, points)
        ledger.add(row)
        on_row(row, n_done, len(trials))
    note_songs(job.out, songs, stream, sound, digest)
    return LabRun(tuple(ledger[trial.blank.key] for trial in trials), n_kept)


def _trials(songs: SongSet, stream: StreamConfig, job: LabJob, digest: str) -> list[Trial]:
    systems = [with_sound(s, stream) for s in job.systems]
    systems = [s if job.n_clusters is None else with_clusters(s, job.n_clusters) for s in systems]
    systems = [s if job.max_minutes is None else with_minutes(s, job.max_minutes) for s in systems]
    return [plan_trial(system, seed, songs, digest, stream) for system in systems for seed in range(job.n_seeds)]
