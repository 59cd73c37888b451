"""Features on disk, keyed by what was recorded and by every parameter that shaped them."""

import json
import os
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from songcore.annotations import Annotation
from songcore.stream import StreamConfig
from songtrain.datasets.extract import BACKGROUND_FRAMES, MAX_BACKGROUNDS
from songtrain.datasets.songs import RecordingSongs, SongPlace

__all__ = ["cache_key", "load_cached", "store_cached"]

LAYOUT = 1
"""Raise when `extract_songs` would give something else for the same input."""


def cache_key(path: Path, annotations: Sequence[Annotation] | None, config: StreamConfig, channel: int | None) -> str:
    """Return a name that changes whenever recording, annotations or parameters do."""
    digest = blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    songs = None if annotations is None else [(a.onset_s, a.offset_s, a.label) for a in annotations]
    shape = [LAYOUT, BACKGROUND_FRAMES, MAX_BACKGROUNDS, channel, songs]
    digest.update(config.fingerprint() + json.dumps(shape).encode())
    return digest.hexdigest()


def store_cached(folder: Path, key: str, songs: RecordingSongs) -> None:
    """Write the songs under ``key``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".partial-", delete=False) as file:
        np.savez(
            file,
            onset=np.asarray([p.onset for p in songs.places], np.int64),
            offset=np.asarray([p.offset for p in songs.places], np.int64),
            label=np.asarray([p.label for p in songs.places], np.str_),
            lengths=songs.lengths,
            frames=songs.frames,
            background=songs.background,
            duration_s=songs.duration_s,
        )
    os.replace(file.name, folder / f"{key}.npz")  # noqa: PTH105 - the name is a string


def load_cached(folder: Path, key: str, recording: str) -> RecordingSongs | None:
    """Return what was stored under ``key``, or None; a damaged file counts as absent."""
    try:
        with np.load(folder / f"{key}.npz", allow_pickle=False) as arrays:
            rows = zip(arrays["onset"].tolist(), arrays["offset"].tolist(), arrays["label"].tolist(), strict=True)
            return RecordingSongs(
                places=tuple(SongPlace(recording, *row) for row in rows),
                lengths=arrays["lengths"],
                frames=arrays["frames"],
                background=arrays["background"],
                duration_s=float(arrays["duration_s"]),
            )
    except (OSError, ValueError, KeyError, EOFError):
        return None
