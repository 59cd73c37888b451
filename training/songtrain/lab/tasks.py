"""Trials as Ray tasks, up to three for each: features and points are shared by all trials that need the same.

A task whose process or node is lost is run once more, anywhere; lost points are placed again. What is lost twice is a
row with its reason.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from songcore.errors import SongError
from songcore.frontend import FrontendConfig
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.datasets.sound import SoundSource, song_sounds
from songtrain.evaluation.song_statistics import SongStatistics, describe_song
from songtrain.lab.keepsakes import has_songs, keep_songs
from songtrain.lab.ledger import Trial
from songtrain.lab.parts import SEEDS, takes
from songtrain.lab.results import Row
from songtrain.lab.systems import System
from songtrain.lab.trial import Clustering, Points, cluster_points, make_features, place_songs

__all__ = ["Bench", "describe_songs", "failed", "finished", "note_songs"]

N_TASKS = 64

# Any: of a function with an optional argument Ray's types know the shorter form alone.
_features: Any = ray.remote(num_cpus=1, max_retries=1)(make_features)
_place: Any = ray.remote(num_cpus=1, max_retries=1)(place_songs)
_cluster: Any = ray.remote(num_cpus=1, max_retries=1)(cluster_points)

LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)


class Bench:
    """Where trials on one set of songs are run; needs a Ray connection. Each GPU is shared by ``rows_per_gpu`` networks."""

    def __init__(
        self,
        songs: SongSet,
        stream: StreamConfig,
        sound: SoundSource | None,
        trials: Sequence[Trial],
        rows_per_gpu: int = 1,
    ) -> None:
        self._songs, self._stream, self._sound = ray.put(songs), stream, sound
        self._waiting = Counter(_shared(trial) for trial in trials)
        self._points: dict[str, Any] = {}
        self._features: dict[str, Any] = {}
        n_gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]  # Ray has none here
        self._n_gpus = min(1.0, n_gpus) / rows_per_gpu

    def points(self, trial: Trial) -> Any:
        """Return the reference of the trial's `Points`, whose task is started when first asked for."""
        shared = _shared(trial)
        if shared not in self._points:
            place = _place.options(num_gpus=self._n_gpus if trial.system.encoder is not None else 0)
            self._points[shared] = place.remote(
                self._songs, trial.system, trial.blank.seed, self._stream, self._sound, self._described(trial.system)
            )
        return self._points[shared]

    def _described(self, system: System) -> Any:
        """Return the reference of the features that the system begins with, None where it has none or each seed its own."""
        part = system.features
        if part is None or takes("features", part, SEEDS):
            return None
        name = repr(part)  # a parameter may be a list or a table
        if name not in self._features:
            self._features[name] = _features.remote(self._songs, system, self._stream, self._sound)
        return self._features[name]

    def clusters(self, trial: Trial) -> Any:
        """Start the trial and return the reference of its `Clustering`."""
        trained = takes("clusterer", trial.system.clusterer, ("n_epochs",))
        cluster = _cluster.options(num_gpus=self._n_gpus if trained else 0)
        return cluster.remote(self.points(trial), trial.system, trial.blank.seed)

    def release(self, trial: Trial) -> None:
        """Forget the trial's points when no other trial waits for them."""
        self._waiting[_shared(trial)] -= 1
        if not self._waiting[_shared(trial)]:
            self._points.pop(_shared(trial), None)

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, Row, Points | None]]:
        """Yield every trial as it ends, with its row and, of the first seed, the points it was made of."""
        # The first seed of all first: who stops early has compared all systems.
        running = {self.clusters(trial): trial for trial in sorted(trials, key=lambda trial: trial.blank.seed)}
        while running:
            (task,), _ = ray.wait(list(running), num_returns=1)
            trial = running.pop(task)
            row = finished(trial.blank, task)
            points = None
            if not row.error and not row.seed:
                try:
                    points = ray.get(self.points(trial))
                except RayError as error:
                    row = failed(trial.blank, error)
            self.release(trial)
            yield trial, row, points


def _shared(trial: Trial) -> str:
    """Return what trials with the same points have in common, as text: parameters may be nested."""
    system = trial.system
    return repr((system.features, system.encoder, system.reducer, trial.blank.seed))


def finished(blank: Row, task: Any) -> Row:
    """Return the row with what the task found, or with why it failed."""
    try:
        found: Clustering = ray.get(task)
    except RayError as error:
        return failed(blank, error)
    return replace(
        blank,
        n_clusters=int(found.labels.max(initial=-1)) + 1,
        unclustered_share=float((found.labels < 0).mean()),
        n_epochs_asked=found.n_epochs_asked,
        n_epochs=len(found.history) if found.history or found.n_epochs_asked is not None else None,
        seconds=found.seconds,
        peak_memory_mib=found.peak_memory_mib,
        scores=found.scores,
        history=found.history,
        types=tuple(asdict(score) for score in found.types),
        weights=found.weights,
        labels=tuple(found.labels.tolist()),
    )


def failed(blank: Row, error: BaseException) -> Row:
    """Return the row with what went wrong in one line."""
    cause: Any = error
    # Of an error in the first task the second one's is only the envelope.
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, LOST):
        words = "the process or node that worked on this row was lost twice; is there memory enough? [WORKER_LOST]"
        return replace(blank, error=words)
    name = cause.reason if isinstance(cause, SongError) else type(cause).__name__
    return replace(blank, error=f"{' '.join(str(cause).split())} [{name}]")


@ray.remote(num_cpus=1)
def _describe(sound: SoundSource, places: list[SongPlace], frontend: FrontendConfig) -> list[SongStatistics]:
    rate, limits = frontend.sample_rate_hz, {"f_min_hz": frontend.f_min_hz, "f_max_hz": frontend.f_max_hz}
    return [describe_song(samples, rate, **limits) for samples in song_sounds(sound, places, rate)]


def describe_songs(
    places: Sequence[SongPlace], frontend: FrontendConfig, sound: SoundSource | None
) -> list[SongStatistics] | None:
    """Return the statistics of the songs' sound, in their order, or none at all when it cannot be had.

    None when nothing is known of that, since a process or node was lost again and again.
    """
    if sound is None:
        return []
    recordings = [list(group) for _, group in groupby(places, key=lambda place: place.recording)]
    size = -(-len(recordings) // N_TASKS)
    chunks = [list(chain.from_iterable(recordings[i : i + size])) for i in range(0, len(recordings), size)]
    try:
        parts = ray.get([_describe.remote(sound, chunk, frontend) for chunk in chunks])
    except RayTaskError:
        # Recordings may be gone since their features were cached: the report then does without.
        return []
    except RayError:
        return None
    return list(chain.from_iterable(parts))


def note_songs(folder: Path, songs: SongSet, stream: StreamConfig, sound: SoundSource | None, digest: str) -> None:
    """Write the table of the songs unless the folder has it; ConfigError when the disk does not take it.

    A table whose statistics were lost with a worker is under no digest: the next command makes it anew.
    """
    if has_songs(folder, digest):
        return
    found = describe_songs(songs.places, stream.frontend, sound)
    keep_songs(folder, songs, stream.frontend.sample_rate_hz, found or [], "" if found is None else digest)
