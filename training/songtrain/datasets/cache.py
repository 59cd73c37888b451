"""Features on disk, keyed by what was recorded and by every parameter that shaped them."""

import json
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from songcore import annotations, audio, features, frontend, noise, resample, segment
from songcore.annotations import Annotation
from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.datasets import extract
from songtrain.datasets.songs import RecordingSongs, SongPlace

__all__ = ["cache_key", "load_cached", "pack", "store_cached", "unpack"]

_STAGES = (annotations, audio, features, frontend, noise, resample, segment, extract)
"""Modules whose code decides what the features of a recording are."""


@lru_cache(maxsize=1)
def _code_digest() -> bytes:
    """Features made by other code are other features, whatever the parameters say."""
    digest = blake2b(digest_size=16)
    for module in _STAGES:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.digest()


def cache_key(
    path: Path,
    songs: Sequence[Annotation] | None,
    config: StreamConfig,
    channel: int | None,
    *,
    keep_borders: bool = False,
) -> str:
    """Return a name that changes whenever recording, annotated songs, parameters or code do."""
    digest = blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    cuts = None if songs is None else [(a.onset_s, a.offset_s, a.label) for a in songs]
    digest.update(_code_digest() + config.fingerprint() + json.dumps([channel, cuts, keep_borders]).encode())
    return digest.hexdigest()


def pack(songs: RecordingSongs) -> bytes:
    """Return the songs as the bytes of an .npz file."""
    buffer = BytesIO()
    np.savez(
        buffer,
        onset=np.asarray([p.onset for p in songs.places], np.int64),
        offset=np.asarray([p.offset for p in songs.places], np.int64),
        label=np.asarray([p.label for p in songs.places], np.str_),
        lengths=songs.lengths,
        frames=songs.frames,
        background=songs.background,
        duration_s=songs.duration_s,
    )
    return buffer.getvalue()


def unpack(content: bytes, recording: str) -> RecordingSongs:
    """Return what was packed, its songs placed in ``recording``; ValueError or KeyError when it is damaged."""
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        rows = zip(arrays["onset"].tolist(), arrays["offset"].tolist(), arrays["label"].tolist(), strict=True)
        return RecordingSongs(
            places=tuple(SongPlace(recording, *row) for row in rows),
            lengths=arrays["lengths"],
            frames=arrays["frames"],
            background=arrays["background"],
            duration_s=float(arrays["duration_s"]),
        )


def store_cached(folder: Path, key: str, content: bytes) -> None:
    """Write packed songs under ``key``, whole or not at all; ConfigError when the disk does not take them."""
    partial = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".partial-", delete=False) as file:
            partial = Path(file.name)
            file.write(content)
        partial.rename(folder / f"{key}.npz")
    except OSError as error:
        if partial is not None:
            # Half a file helps nobody, least of all on a full disk.
            partial.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write features to {folder} ({error.strerror}); make room, or choose another folder",
            reason="WORK_UNWRITABLE",
        ) from error


def load_cached(folder: Path, key: str) -> bytes | None:
    """Return what was stored under ``key``, or None; a damaged file counts as absent."""
    try:
        content = (folder / f"{key}.npz").read_bytes()
        unpack(content, "")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, RuntimeError):
        # RuntimeError: a flipped bit makes a file look encrypted, or packed by a method that does not exist.
        return None
    return content
