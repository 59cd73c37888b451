"""The parts of a system before its clusterer, from songs to points."""

from typing import Any

import numpy as np

from songcore.arrays import FloatArray
from songcore.errors import InputError
from songcore.stream import StreamConfig
from songtrain.datasets.songs import Float16Array, SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.evaluation.collapse import CollapseError, differ
from songtrain.lab.parts import Kind, build, parts_of
from songtrain.lab.systems import System

__all__ = ["Chain"]


class Chain:
    """Features and encoder, as far as the system has them, and its reducer."""

    def __init__(self, system: System, seed: int, stream: StreamConfig, sound: SoundSource | None = None) -> None:
        self._parts: dict[Kind, Any] = {
            kind: build(kind, part, seed=seed, stream=stream, sound=sound)
            for kind, part in parts_of(system).items()
            if kind != "clusterer"
        }

    @property
    def encoder(self) -> Any:
        """The encoder, or None."""
        return self._parts.get("encoder")

    @property
    def hears(self) -> bool:
        """Whether a part takes the sound of the songs itself: songs made up by changing features are none for it."""
        return any("sound" in part.get_params(deep=False) for part in self._parts.values())

    @property
    def places_others(self) -> bool:
        """Whether songs that it was not fitted on can be placed; t-SNE places no others."""
        return all(hasattr(part, "transform") for part in self._parts.values())

    def describe(self, songs: SongSet) -> FloatArray:
        """Return the features of the songs, which `fit` takes."""
        features = self._parts["features"]
        return np.asarray(features.fit_transform(_as_taken("features", features, songs)))

    def fit(self, songs: SongSet, described: FloatArray | None = None) -> FloatArray:
        """Return the songs as points (n, d) float32; ``described`` are their features, if somebody has them already.

        Raises InputError SONGS_EQUAL or NOT_FINITE when songs or features tell no song from another, CollapseError when
        only what encoder or reducer give is no number. Where the encoder gives all songs the same, all are at 0.
        """
        if "features" not in self._parts and not self.hears:
            same_length = not np.ptp(songs.lengths)
            _check_heard(songs.frames.reshape(len(songs) if same_length else 1, -1), same_length=same_length)
        values: Any = songs
        for kind, estimator in self._parts.items():
            taken = _as_taken(kind, estimator, _flat(values) if kind == "reducer" else values)
            if kind == "features" and described is not None:
                estimator.fit(taken)
                # A copy: what tasks share cannot be written to, and torch wants to.
                values = described.copy()
            else:
                values = estimator.fit_transform(taken)
            if kind == "features":
                _check_heard(_flat(values))
            elif kind == "encoder":
                _check_finite(_flat(values))
                if not differ(_flat(values)):
                    # A reducer would find nothing to keep.
                    return np.zeros((len(songs), 1), np.float32)
        points = np.asarray(values, np.float32)
        _check_finite(points)
        return points

    def transform(self, songs: SongSet) -> FloatArray:
        """Return other songs as points (n, d) float32."""
        values = self.encoder_input(songs)
        for kind in ("encoder", "reducer"):
            if kind in self._parts:
                values = self._parts[kind].transform(_flat(values) if kind == "reducer" else values)
        return np.asarray(values, np.float32)

    def encoder_input(self, songs: SongSet) -> Any:
        """Return what the encoder gets of songs: images (n, n_frames, d), or the songs themselves."""
        features = self._parts.get("features")
        return songs if features is None else features.transform(_as_taken("features", features, songs))


def _as_taken(kind: Kind, estimator: Any, values: Any) -> Any:
    """Features are made from every song's frames, or from the songs where the part hears them itself."""
    if kind == "features" and "sound" not in estimator.get_params(deep=False):
        return values.all_features()
    return values


def _flat(values: Any) -> FloatArray:
    return np.asarray(values).reshape(len(values), -1)


def _check_heard(values: FloatArray | Float16Array, *, same_length: bool = True) -> None:
    """Raise InputError for features (n, d) that are broken or, if songs are of the ``same_length``, all the same."""
    if not np.isfinite(values).all():
        raise InputError("features hold NaN or infinity; check the recordings", reason="NOT_FINITE")
    if same_length and not differ(values):
        raise InputError("all songs have the same features; there is nothing to tell apart", reason="SONGS_EQUAL")


def _check_finite(points: FloatArray) -> None:
    if not np.isfinite(points).all():
        raise CollapseError("encoder or reducer give NaN or infinity for songs that have none; lower the learning rate")
