"""One system on one set of songs: first the points that stand for the songs, then the clusters among them."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.errors import InputError
from songcore.stream import StreamConfig
from songtrain.clusterers.density import by_size
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.evaluation.scores import label_numbers
from songtrain.lab.parts import build, n_clusters_asked
from songtrain.lab.scoring import score_labels
from songtrain.lab.systems import System

__all__ = ["Clustering", "Points", "cluster_points", "place_songs"]


@dataclass(frozen=True)
class Points:
    """The songs after features or encoder, and reducer; systems that differ in the clusterer alone share them."""

    values: FloatArray
    """(n, d)"""
    truth: IntArray
    """(n,) annotated types as numbers, -1 for none."""
    seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class Clustering:
    """What a system found, with all that went into it."""

    labels: IntArray
    """(n,) clusters numbered by size, -1 for none."""
    scores: dict[str, float]
    seconds: float
    """Of this system alone, shared work included; scoring is not."""
    peak_memory_mib: float


def place_songs(
    songs: SongSet, system: System, seed: int, stream: StreamConfig, sound: SoundSource | None = None
) -> Points:
    """Return the songs as points; InputError when the features of all songs are the same or not finite."""
    begin = perf_counter()
    _forget_peak()
    if system.features is not None:
        values = build("features", system.features, seed=seed, stream=stream, sound=sound).fit_transform(
            songs.all_features()
        )
    else:
        values = songs
    if system.encoder is not None:
        values = build("encoder", system.encoder, seed=seed, stream=stream, sound=sound).fit_transform(values)
    values = values.reshape(len(values), -1)
    _check_differ(values)
    values = np.asarray(build("reducer", system.reducer, seed=seed).fit_transform(values), np.float32)
    _check_differ(values)
    return Points(values, label_numbers(songs.labels), perf_counter() - begin, _peak_memory_mib())


def cluster_points(points: Points, system: System, seed: int) -> Clustering:
    """Return the clusters; InputError when more are asked for than there are songs."""
    begin = perf_counter()
    _forget_peak()
    clusterer = build("clusterer", system.clusterer, seed=seed)
    asked, n = n_clusters_asked(clusterer), len(points.values)
    if asked is not None and asked > n:
        raise InputError(
            f"{asked} clusters are asked of {n} songs; give more songs or ask for fewer", reason="TOO_FEW_SONGS"
        )
    labels = by_size(np.asarray(clusterer.fit_predict(points.values), np.int64))
    seconds = perf_counter() - begin + points.seconds
    scores = score_labels(points.values, labels, points.truth, seed)
    return Clustering(labels, scores, seconds, max(points.peak_memory_mib, _peak_memory_mib()))


def _check_differ(values: FloatArray) -> None:
    if not np.isfinite(values).all():
        raise InputError("features hold NaN or infinity; check the recordings", reason="NOT_FINITE")
    if not np.ptp(values, axis=0).any():
        raise InputError("all songs have the same features; there is nothing to tell apart", reason="SONGS_EQUAL")


def _forget_peak() -> None:
    """Let the kernel measure this process's peak anew: workers are used again and again."""
    # Where the kernel refuses, the peak is that of the process so far.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
