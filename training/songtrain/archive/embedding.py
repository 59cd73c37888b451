"""Recordings to embedded songs, shard by shard: features are made, embedded and forgotten where the task runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from songcore.bundle import Bundle, load_bundle
from songcore.errors import BundleError, ConfigError, InputError, SongError
from songtrain.archive.shards import Shard, read_shard, write_shard
from songtrain.archive.tasks import on_cluster
from songtrain.datasets.distributed import Skipped
from songtrain.datasets.extract import extract_songs
from songtrain.datasets.folder import RecordingFile
from songtrain.datasets.songs import RecordingSongs

__all__ = ["embed_recordings"]


@dataclass(frozen=True)
class _Part:
    """Recordings of one shard, and the file it becomes."""

    path: Path
    files: tuple[RecordingFile, ...]


def embed_recordings(
    recordings: Sequence[RecordingFile],
    bundle: Path,
    out: Path,
    *,
    per_shard: int,
    channel: int | None = None,
    on_shard: Callable[[int, int], None] = lambda *_: None,
) -> list[Path]:
    """Return the shards of all recordings' songs as the bundle's encoder places them, in order; needs a Ray connection.

    Shards that are there and whole are kept. ``on_shard`` gets how many are done and of how many. Raises ConfigError for a
    folder that holds shards of other recordings or of another bundle, and for one that takes nothing; BundleError when another
    bundle takes the place of this one meanwhile.
    """
    digest = load_bundle(bundle, device="cpu").digest
    parts = [
        _Part(out / f"songs-{at // per_shard:05d}-{_digest(files, digest, channel)}.parquet", files)
        for at in range(0, len(recordings), per_shard)
        for files in [tuple(recordings[at : at + per_shard])]
    ]
    foreign = {path.name for path in out.glob("songs-*.parquet")} - {part.path.name for part in parts}
    if foreign:
        raise ConfigError(
            f"{out} holds {len(foreign)} shards of other recordings or another bundle, such as {min(foreign)}; choose "
            "another folder, or delete them",
            reason="OUTPUT_EXISTS",
        )
    missing = [part for part in parts if not _is_whole(part.path)]
    on_shard(len(parts) - len(missing), len(parts))
    for n_done, _ in enumerate(on_cluster(_embed, missing, bundle, digest, channel), len(parts) - len(missing) + 1):
        on_shard(n_done, len(parts))
    return [part.path for part in parts]


def _digest(files: Sequence[RecordingFile], bundle: str, channel: int | None) -> str:
    """Name of what the shard holds. Recordings count by size and time of change: reading all would take an hour."""
    digest = blake2b(f"{bundle} {channel}".encode(), digest_size=8)
    for file in files:
        about = file.path.stat()
        digest.update(f"{file.name} {about.st_size} {about.st_mtime_ns} {file.annotations}".encode())
    return digest.hexdigest()


def _is_whole(path: Path) -> bool:
    try:
        read_shard(path)
    except (InputError, KeyError):
        return False
    return True


def _embed(part: _Part, bundle_path: Path, digest: str, channel: int | None) -> int:
    bundle = load_bundle(bundle_path, device="auto")
    if bundle.digest != digest:
        raise BundleError(
            f"another bundle took the place of {bundle_path} meanwhile; give the same command again, with another --out",
            reason="HASH_MISMATCH",
        )
    found: list[RecordingSongs] = []
    skipped: list[Skipped] = []
    for file in part.files:
        try:
            found.append(extract_songs(file.path, file.name, file.annotations, bundle.stream_config, channel))
        except SongError as error:
            skipped.append(Skipped(file.name, error.reason, str(error)))
        except OSError as error:
            skipped.append(Skipped(file.name, "NOT_READABLE", f"{file.path} cannot be read ({error.strerror})"))
    shard = _embedded(found, bundle, tuple(skipped))
    write_shard(part.path, shard)
    return len(shard.places)


def _embedded(found: Sequence[RecordingSongs], bundle: Bundle, skipped: tuple[Skipped, ...]) -> Shard:
    songs = [
        (place, features.astype(np.float32))
        for recording in found
        for place, features in zip(
            recording.places, np.split(recording.frames, np.cumsum(recording.lengths)[:-1]), strict=False
        )
        # A song without any sound above the noise is like every other.
        if features.any()
    ]
    if not songs:
        return Shard((), np.empty((0, bundle.embedder.dimension), np.float32), skipped)
    return Shard(tuple(place for place, _ in songs), bundle.embedder.embed([song for _, song in songs]), skipped)
