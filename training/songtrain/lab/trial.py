"""One system on one set of songs: first the points that stand for the songs, then the clusters among them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.errors import InputError
from songcore.freed_memory import give_back
from songcore.stream import StreamConfig
from songtrain.clusterers.density import by_size
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.evaluation.collapse import differ
from songtrain.evaluation.scores import label_numbers
from songtrain.evaluation.types import TypeScore, type_scores
from songtrain.lab.chain import Chain
from songtrain.lab.copies import agreement_with_copies
from songtrain.lab.parts import build, n_clusters_asked
from songtrain.lab.results import without_distances
from songtrain.lab.scoring import label_free_scores, score_labels
from songtrain.lab.systems import System
from songtrain.stopwatch import Stopwatch

__all__ = ["Clustering", "Described", "Points", "cluster_points", "make_features", "place_songs"]

N_RECONSTRUCTIONS = 6


@dataclass(frozen=True)
class Described:
    """The features of all songs, the same for every seed and every system that begins with them."""

    values: FloatArray
    seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class Points:
    """The songs after features or encoder, and reducer; systems that differ in the clusterer alone share them."""

    values: FloatArray
    """(n, d)"""
    names: tuple[str, ...]
    """(n,) annotated types, empty for none."""
    seconds: float
    peak_memory_mib: float
    history: tuple[dict[str, float], ...] = ()
    """What an encoder tells of each epoch that it finished."""
    n_epochs_asked: int | None = None
    """None where no network is trained."""
    reconstructions: FloatArray | None = None
    """(2, k, n_frames, d) a few songs as an autoencoder got them, and as it gave them back."""
    neighbour_agreement: float | None = None
    weights: str = ""
    """Of a frozen encoder, "random" or "pretrained"; empty for all others."""


@dataclass(frozen=True)
class Clustering:
    """What a system found, with all that went into it."""

    labels: IntArray
    """(n,) clusters numbered by size, -1 for none."""
    scores: dict[str, float]
    seconds: float
    """Of this system alone by a `Stopwatch`, shared work included; scoring is not."""
    peak_memory_mib: float
    history: tuple[dict[str, float], ...] = ()
    """The encoder's epochs, then those of a clusterer that is a network."""
    n_epochs_asked: int | None = None
    types: tuple[TypeScore, ...] = ()
    weights: str = ""
    """As in `Points`."""


def make_features(songs: SongSet, system: System, stream: StreamConfig, sound: SoundSource | None = None) -> Described:
    """Return the features that the system begins with, of all songs."""
    watch = Stopwatch()
    _forget_peak()
    values = Chain(system, 0, stream, sound).describe(songs)
    return Described(values, watch.seconds(), _peak_memory_mib())


def place_songs(
    songs: SongSet,
    system: System,
    seed: int,
    stream: StreamConfig,
    sound: SoundSource | None = None,
    described: Described | None = None,
) -> Points:
    """Return the songs as points, from their features where these are ``described`` already.

    InputError when the features of all songs are the same or not finite.
    """
    watch = Stopwatch()
    _forget_peak()
    chain = Chain(system, seed, stream, sound)
    values = chain.fit(songs, None if described is None else described.values)
    seconds, peak = watch.seconds(), _peak_memory_mib()
    if described is not None:
        seconds, peak = seconds + described.seconds, max(peak, described.peak_memory_mib)
    return Points(
        values=values,
        names=tuple(songs.labels),
        seconds=seconds,
        peak_memory_mib=peak,
        history=_history(chain.encoder),
        n_epochs_asked=_n_epochs_asked(chain.encoder),
        reconstructions=_reconstructions(chain, songs),
        neighbour_agreement=agreement_with_copies(chain, songs, values, np.random.default_rng([seed, 6]))
        if differ(values)
        else None,
        weights=getattr(chain.encoder, "weights_", ""),
    )


def cluster_points(points: Points, system: System, seed: int) -> Clustering:
    """Return the clusters, one where all points are the same; InputError when more are asked for than there are songs."""
    watch = Stopwatch()
    _forget_peak()
    clusterer = build("clusterer", system.clusterer, seed=seed)
    asked, n = n_clusters_asked(clusterer), len(points.values)
    if asked is not None and asked > n:
        raise InputError(
            f"{asked} clusters are asked of {n} songs; give more songs or ask for fewer", reason="TOO_FEW_SONGS"
        )
    if differ(points.values):
        labels = by_size(np.asarray(clusterer.fit_predict(points.values), np.int64))
    else:
        labels = np.zeros(n, np.int64)
    seconds, peak = watch.seconds() + points.seconds, max(points.peak_memory_mib, _peak_memory_mib())
    scores = score_labels(points.values, labels, label_numbers(points.names), seed)
    scores |= label_free_scores(points.values, labels, system, seed)
    if points.neighbour_agreement is not None:
        scores["neighbour_agreement"] = points.neighbour_agreement
    scores = without_distances(scores, system.clusterer.name)
    history, n_epochs = points.history + _history(clusterer), [points.n_epochs_asked, _n_epochs_asked(clusterer)]
    n_epochs_asked = sum(n or 0 for n in n_epochs) if any(n is not None for n in n_epochs) else None
    types = tuple(type_scores(list(points.names), labels))
    return Clustering(labels, scores, seconds, peak, history, n_epochs_asked, types, points.weights)


def _n_epochs_asked(estimator: Any) -> int | None:
    """Return for how many epochs a fitted encoder or clusterer was to be trained, None when it is no network."""
    if estimator is None:
        return None
    n_epochs: int | None = getattr(estimator, "n_epochs_", estimator.get_params(deep=False).get("n_epochs"))
    return n_epochs


def _history(estimator: Any) -> tuple[dict[str, float], ...]:
    """Return what a fitted encoder or clusterer tells of its epochs, numbers only."""
    told: list[Mapping[str, Any]] = [
        asdict(epoch) if is_dataclass(epoch) and not isinstance(epoch, type) else epoch
        for epoch in getattr(estimator, "history_", [])
    ]
    numbers = (int, float, np.integer, np.floating)
    return tuple({name: float(value) for name, value in epoch.items() if isinstance(value, numbers)} for epoch in told)


def _reconstructions(chain: Chain, songs: SongSet) -> FloatArray | None:
    """Return a few songs, spread over the set, beside what an autoencoder makes of them; None for other encoders."""
    if not hasattr(chain.encoder, "reconstruct"):
        return None
    chosen = np.unique(np.linspace(0, len(songs) - 1, N_RECONSTRUCTIONS).round().astype(np.int64))
    images = chain.encoder_input(songs.subset(chosen))
    return np.stack([np.asarray(images, np.float32), np.asarray(chain.encoder.reconstruct(images), np.float32)])


def _forget_peak() -> None:
    """Let the kernel measure this process's peak anew: workers are used again and again, and keep what they once held."""
    give_back()
    # Where the kernel refuses, the peak is that of the process so far.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
