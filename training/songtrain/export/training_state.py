"""What a retraining goes on with, as one file of the bundle: the encoder's weights, its settings, and songs of every type.

ONNX cannot be trained on: normalisation is folded into convolutions there, and the heads are gone. And the recordings that a
type was found in may be far away or deleted by the time it is retrained: a dozen songs of each type, as features, keep the
encoder from forgetting it and carry its id over, where nobody sang it since. Arrays in an npz file: nothing is pickled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from songcore.arrays import FloatArray, IntArray
from songcore.errors import BundleError
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.settings import TrainSettings

__all__ = [
    "MAX_BACKGROUND",
    "SONGS_PER_TYPE",
    "TrainingState",
    "chosen_songs",
    "pack_training",
    "stored_name",
    "unpack_training",
    "with_songs",
]

SONGS_PER_TYPE = 12
MAX_BACKGROUND = 4000
"""Frames of sound from between songs, about a minute: views lay it over songs."""
_WEIGHT = "encoder/"


@dataclass(frozen=True)
class TrainingState:
    """Where training left off."""

    settings: TrainSettings
    weights: Mapping[str, Tensor]
    songs: SongSet
    """A few songs of every type, and background."""
    type_ids: tuple[str, ...]
    """Of those songs."""


def chosen_songs(labels: IntArray, seed: int, per_type: int = SONGS_PER_TYPE) -> IntArray:
    """Return up to ``per_type`` songs of every type of labels (n,), drawn at random: typical ones alone would narrow it."""
    rng = np.random.default_rng([seed, 8])
    parts = [np.sort(rng.permutation(np.flatnonzero(labels == k))[:per_type]) for k in np.unique(labels[labels >= 0])]
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)


def stored_name(uid: str) -> str:
    """Return what a song of a service's store has for a recording here, so that it is known again."""
    return f"songs/{uid}"


def with_songs(
    state: TrainingState, recordings: Sequence[str], features: Sequence[FloatArray], type_ids: Sequence[str]
) -> TrainingState:
    """Return the state with songs added: the recording, features (n_frames, n_mels) and type id of each."""
    songs = state.songs
    grown = replace(
        songs,
        places=(*songs.places, *(SongPlace(recording, 0, 1) for recording in recordings)),
        lengths=np.concatenate([songs.lengths, np.asarray([len(one) for one in features], np.int64)]),
        frames=np.concatenate([songs.frames, *(one.astype(np.float16) for one in features)]),
    )
    return replace(state, songs=grown, type_ids=(*state.type_ids, *type_ids))


def pack_training(state: TrainingState) -> bytes:
    """Return the content of ``training.npz``."""
    file, songs = BytesIO(), _with_less_background(state.songs)
    weights: dict[str, Any] = {_WEIGHT + name: tensor.detach().cpu().numpy() for name, tensor in state.weights.items()}
    np.savez_compressed(
        file,
        settings=np.frombuffer(state.settings.model_dump_json().encode(), np.uint8),
        type_id=np.asarray(state.type_ids, np.str_),
        recording=np.asarray(songs.recordings, np.str_),
        place=np.asarray([[p.onset, p.offset] for p in songs.places], np.int64).reshape(-1, 2),
        lengths=songs.lengths,
        frames=songs.frames,
        background=songs.background,
        background_of=np.asarray([name for name, _ in songs.background_of], np.str_),
        background_rows=np.asarray([n for _, n in songs.background_of], np.int64),
        **weights,
    )
    return file.getvalue()


def _with_less_background(songs: SongSet) -> SongSet:
    ends = np.minimum(np.cumsum([n for _, n in songs.background_of], dtype=np.int64), MAX_BACKGROUND)
    rows = np.diff(ends, prepend=0).tolist()
    of = tuple((name, n) for (name, _), n in zip(songs.background_of, rows, strict=True) if n)
    return replace(songs, background=songs.background[:MAX_BACKGROUND], background_of=of)


def unpack_training(content: bytes) -> TrainingState:
    """Return what was packed; BundleError when it is something else."""
    try:
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            places = zip(arrays["recording"].tolist(), arrays["place"].tolist(), strict=True)
            songs = SongSet(
                tuple(SongPlace(recording, onset, offset) for recording, (onset, offset) in places),
                arrays["lengths"],
                arrays["frames"],
                arrays["background"],
                0.0,
                # Bundles of earlier versions do not say.
                tuple(zip(arrays["background_of"].tolist(), arrays["background_rows"].tolist(), strict=True))
                if "background_of" in arrays
                else (),
            )
            weights = {
                name.removeprefix(_WEIGHT): torch.from_numpy(arrays[name])
                for name in arrays.files
                if name.startswith(_WEIGHT)
            }
            settings = TrainSettings.model_validate_json(arrays["settings"].tobytes())
            return TrainingState(settings, weights, songs, tuple(arrays["type_id"].tolist()))
    except Exception as error:  # numpy, zipfile, zlib and pydantic have no common class of errors
        raise BundleError(
            f"training.npz cannot be read ({error}); train the bundle anew", reason="TRAINING_INVALID"
        ) from error
