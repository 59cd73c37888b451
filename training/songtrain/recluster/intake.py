"""The first two stages of a run: a snapshot of the store in the run's folder, and every song placed by the encoder."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.bundle import read_manifest
from songcore.decisions import Decision, View, fold, read_action, type_ids, write_action
from songcore.embed import Embedder
from songcore.errors import BundleError
from songcore.lineage import next_number
from songcore.manifest import Manifest
from songtrain.archive.tasks import on_cluster
from songtrain.cluster import ray_session
from songtrain.recluster.run_folder import RunFolder, write_whole_file
from songtrain.recluster.snapshot import Snapshot, StoreSong
from songtrain.recluster.songs import RunSongs

__all__ = ["KeptFeatures", "StoredFacts", "known_manifests", "place_songs", "read_facts", "take_snapshot"]

SONGS_PER_TASK = 1000


@dataclass(frozen=True)
class KeptFeatures:
    """Features of some of the run's songs, one after the other, half precision."""

    index: IntArray
    """(m,) numbers of the songs."""
    lengths: IntArray
    frames: np.ndarray[Any, np.dtype[np.float16]]

    def songs(self) -> list[FloatArray]:
        """Return the features of each, (n_frames, n_mels) float32."""
        return [part.astype(np.float32) for part in np.split(self.frames, np.cumsum(self.lengths)[:-1])]

    def of(self, songs: Iterable[int]) -> dict[int, FloatArray]:
        """Return the features of those of the songs that have any."""
        place = {int(song): at for at, song in enumerate(self.index)}
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        return {
            song: self.frames[starts[place[song]] : starts[place[song] + 1]].astype(np.float32)
            for song in songs
            if song in place
        }

    @classmethod
    def read(cls, path: Path) -> "KeptFeatures":
        """Return what a snapshot kept."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["index"], arrays["lengths"], arrays["frames"])


@dataclass(frozen=True)
class StoredFacts:
    """What a snapshot says beside the songs."""

    decisions: tuple[Decision, ...]
    first_number: int
    facts: Mapping[str, int]

    @property
    def view(self) -> View:
        """How things stand after people's decisions."""
        return fold(self.decisions)


def known_manifests(models: Path, *bundles: Path) -> dict[str, Manifest]:
    """Return the manifests of the bundles and of all in the folder of models, by digest; what is none there is passed over."""
    found = [read_manifest(bundle) for bundle in bundles]
    for path in sorted(models.glob("*/manifest.json")):
        try:
            found.append(read_manifest(path.parent))
        except BundleError:
            continue
    return {manifest.digest: manifest for manifest in found}


def take_snapshot(
    folder: RunFolder, snapshot: Snapshot, bundle: Manifest, known: Mapping[str, Manifest], types: Iterable[str]
) -> None:
    """Write the snapshot into the run's folder; songs that can neither be compared nor embedded anew are left out.

    Comparable are vectors of the very same encoder. Features are of use when they were made by the bundle's front end. With
    mode *full* all features are kept, else those of songs that are embedded anew. ``types`` are ids in use elsewhere.
    """
    same_encoder = {digest for digest, m in known.items() if m.sha256["encoder.onnx"] == bundle.sha256["encoder.onnx"]}
    same_features = {digest for digest, m in known.items() if _features_of(m) == _features_of(bundle)}
    kept, rows, features = list[StoreSong](), list[FloatArray | None](), dict[int, FloatArray]()
    for song in snapshot.songs:
        vector = song.vector if song.bundle in same_encoder else None
        is_full = folder.order.mode == "full"
        found = song.read_features() if (is_full or vector is None) and song.bundle in same_features else None
        if found is None and (is_full or vector is None):
            continue
        if found is not None:
            features[len(kept)] = found
        kept.append(song)
        rows.append(vector)
    _write_songs(folder, kept, rows, features, bundle.encoder.dimension, bundle.frontend.n_mels)
    used = {*types, *snapshot.type_ids, *(name for one in snapshot.decisions for name in type_ids(one.action))}
    used |= {name for m in known.values() for entry in m.lineage for name in (entry.id, *entry.others)}
    folder.write_json(
        "snapshot.json",
        {
            "decisions": [[d.seq, d.time_ms, d.who, write_action(d.action)] for d in snapshot.decisions],
            "first_number": next_number(used),
            "facts": {
                "n_songs": len(kept),
                "n_left_out": len(snapshot.songs) - len(kept),
                "n_features": len(features),
                "n_decisions": len(snapshot.decisions),
                "revision": snapshot.revision,
            },
        },
    )


def read_facts(folder: RunFolder) -> StoredFacts | None:
    """Return what the snapshot of a run said; None before it was taken."""
    found = folder.read_json("snapshot.json")
    if found is None:
        return None
    decisions = tuple(Decision(seq, at, who, read_action(action)) for seq, at, who, action in found["decisions"])
    return StoredFacts(decisions, found["first_number"], found["facts"])


def place_songs(folder: RunFolder, encoder: bytes, address: str | None) -> RunSongs:
    """Return the songs of the snapshot, those without a comparable vector placed anew; raises what the encoder raises."""
    file = folder.file("placed.npz")
    if not file.exists():
        songs = RunSongs.read(folder.file("songs.npz"))
        missing = np.flatnonzero(~np.isfinite(songs.embeddings[:, 0])) if len(songs) else np.empty(0, np.int64)
        if len(missing):
            features = KeptFeatures.read(folder.file("features.npz")).of(missing.tolist())
            songs.embeddings[missing] = _embedded([features[int(i)] for i in missing], encoder, address)
        write_whole_file(file, songs.pack())
    return RunSongs.read(file)


def _features_of(manifest: Manifest) -> tuple[object, ...]:
    return manifest.frontend, manifest.features


def _write_songs(
    folder: RunFolder,
    kept: Sequence[StoreSong],
    rows: Sequence[FloatArray | None],
    features: Mapping[int, FloatArray],
    dimension: int,
    n_mels: int,
) -> None:
    embeddings = np.full((len(kept), dimension), np.nan, np.float32)
    for number, row in enumerate(rows):
        if row is not None and len(row) == dimension:
            embeddings[number] = row
    songs = RunSongs(
        tuple(song.uid for song in kept),
        tuple((song.session, song.day) for song in kept),
        tuple(song.quality == "good" for song in kept),
        tuple(str(song.features or "") for song in kept),
        tuple(song.placed_in or "" for song in kept),
        embeddings,
    )
    packed = BytesIO()
    frames = [np.empty((0, n_mels), np.float16), *(one.astype(np.float16) for one in features.values())]
    np.savez(
        packed,
        index=np.asarray(list(features), np.int64),
        lengths=np.asarray([len(one) for one in features.values()], np.int64),
        frames=np.concatenate(frames),
    )
    write_whole_file(folder.file("features.npz"), packed.getvalue())
    write_whole_file(folder.file("songs.npz"), songs.pack())


def _embedded(features: Sequence[FloatArray], encoder: bytes, address: str | None) -> FloatArray:
    parts = [features[at : at + SONGS_PER_TASK] for at in range(0, len(features), SONGS_PER_TASK)]
    if len(parts) == 1 and address is None:
        return _embed(parts[0], encoder)
    with ray_session(address):
        found = dict(on_cluster(_embed, parts, encoder))
    return np.concatenate([found[number] for number in range(len(parts))])


def _embed(features: Sequence[FloatArray], encoder: bytes) -> FloatArray:
    return Embedder(encoder, device="auto").embed(features)
