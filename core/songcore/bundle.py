"""The bundle: the directory that training hands to serving. Read here, verified here, written here.

::

    manifest.json   parameters, hashes, digest (songcore.manifest.Manifest)
    encoder.onnx    features -> unit embedding
    types.npz       prototypes, type_index, bank, calibration and, where types have their own, calibration_type
    types.json      the song types (songcore.manifest.SongType)
    golden.npz      recordings with their expected songs, features, embeddings and types
    training.npz    not always: weights and songs that a retraining goes on with; serving never reads it

Nothing is pickled and no index file is read. A bundle that does not give its golden songs exactly is not served.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar
from zipfile import ZipFile

import numpy as np
from pydantic import TypeAdapter, ValidationError

from songcore.arrays import FloatArray, IntArray
from songcore.assign import Assignment, Catalogue
from songcore.durable import sync
from songcore.embed import Device, Embedder
from songcore.errors import BundleError, ConfigError
from songcore.frontend import FrontendConfig
from songcore.golden import check_golden, expected_results, golden_audio
from songcore.lineage import TypeChange
from songcore.manifest import SCHEMA_VERSION, EncoderInfo, GateCheck, Manifest, SongType, manifest_digest
from songcore.novelty import NoveltyConfig
from songcore.stream import Song, SongStream, StreamConfig

__all__ = [
    "Bundle",
    "BundleParts",
    "check_output",
    "load_bundle",
    "read_manifest",
    "read_parts",
    "read_training",
    "read_types",
    "write_bundle",
]

FILES = ("encoder.onnx", "types.npz", "types.json", "golden.npz")
TRAINING = "training.npz"
MAX_FILE_BYTES = 512 * 2**20
MAX_ARRAY_BYTES = 1024 * 2**20
"""Of an npz file, unpacked: a thousandth of that packs into a bomb."""
_TYPES: TypeAdapter[tuple[SongType, ...]] = TypeAdapter(tuple[SongType, ...])


T = TypeVar("T")


class Bundle:
    """A verified model, ready to serve."""

    def __init__(self, manifest: Manifest, types: Sequence[SongType], embedder: Embedder, catalogue: Catalogue) -> None:
        self.manifest, self.types = manifest, tuple(types)
        self.embedder, self.catalogue = embedder, catalogue
        self.type_by_id = {song_type.id: song_type for song_type in types}
        self.songs_version = self.stream_config.fingerprint().hex()
        """Bundles with the same one hear the same songs, bit for bit."""

    @property
    def digest(self) -> str:
        """SHA-256 that names this model on every result."""
        return self.manifest.digest

    @property
    def sample_rate_hz(self) -> int:
        """At which it hears, and counts samples."""
        return self.manifest.frontend.sample_rate_hz

    @property
    def stream_config(self) -> StreamConfig:
        """What decides which songs a stream holds."""
        return self.manifest.stream

    def new_stream(self, rate_in: int) -> SongStream:
        """Return a stream that takes samples at ``rate_in`` Hz from their beginning."""
        return SongStream(self.stream_config, rate_in)

    def resume_stream(self, rate_in: int, state: bytes) -> SongStream:
        """Return a stream taken up at a checkpoint's state."""
        return SongStream.resume(self.stream_config, rate_in, state)

    def classify(self, songs: Sequence[Song]) -> list[Assignment]:
        """Embed and name songs."""
        return self.catalogue.assign(self.embedder.embed([song.features for song in songs]))


@dataclass(frozen=True)
class BundleParts:
    """What training hands over; hashes, digest and golden results are made when it is written."""

    name: str
    created_by: str
    created_at: datetime
    stream: StreamConfig
    encoder: bytes
    encoder_info: EncoderInfo
    types: Sequence[SongType]
    prototypes: FloatArray
    """(p, d) float32 unit vectors."""
    type_index: IntArray
    """(p,) int64 into ``types``."""
    bank: FloatArray
    """(r, d) float32 unit vectors: the songs that novelty is measured against."""
    calibration: FloatArray
    """(c,) float32 novelty scores of held-out songs of known types."""
    novelty: NoveltyConfig
    golden_recordings: Sequence[FloatArray]
    """Mono float32 at the bundle's rate, each with at least one song."""
    calibration_type: IntArray | None = None
    """(c,) int64 into ``types``: what those songs are named; None calibrates all types together."""
    parent_digest: str | None = None
    lineage: Sequence[TypeChange] = ()
    gate: Sequence[GateCheck] = ()
    report: Mapping[str, float | int | str | None] = field(default_factory=dict)
    training: bytes | None = None
    """``training.npz``: weights and songs that a retraining goes on with; None where they are not kept."""

    def catalogue(self) -> Catalogue:
        """Return the types ready to name embeddings; raises BundleError when the arrays do not fit together."""
        return Catalogue(
            prototypes=self.prototypes,
            type_index=self.type_index,
            type_ids=[t.id for t in self.types],
            kinds=[t.kind for t in self.types],
            bank=self.bank,
            calibration=self.calibration,
            calibration_type=self.calibration_type,
            novelty=self.novelty,
        )


def load_bundle(path: Path | str, *, device: Device = "auto") -> Bundle:
    """Return the bundle at ``path`` after checking its schema, hashes, arrays and golden songs.

    Raises BundleError for anything wrong with it, ConfigError when the asked-for device is missing.
    """
    path = Path(path)
    manifest = read_manifest(path)
    content = {name: _read_verified(path, name, manifest) for name in FILES}
    types = _types(content["types.json"])
    if revived := sorted(manifest.retired.intersection(t.id for t in types)):
        raise BundleError(f"types.json has the types {', '.join(revived)} that are retired", reason="TYPES_INVALID")
    catalogue = _catalogue(manifest, types, _load_arrays(content["types.npz"], "types.npz"))
    embedder = Embedder(content["encoder.onnx"], device=device)
    _check_dimensions(manifest.frontend, manifest.encoder, embedder, catalogue)
    check_golden(_load_arrays(content["golden.npz"], "golden.npz"), manifest.stream, embedder, catalogue)
    return Bundle(manifest, types, embedder, catalogue)


def read_training(path: Path | str) -> bytes | None:
    """Return what a retraining of the bundle at ``path`` goes on with, None where the bundle was written without it.

    Raises BundleError when it was altered or is missing although the manifest names it.
    """
    path = Path(path)
    manifest = read_manifest(path)
    return _read_verified(path, TRAINING, manifest) if TRAINING in manifest.sha256 else None


def read_parts(path: Path | str) -> BundleParts:
    """Return what the bundle at ``path`` was written from, for another to be made of it; raises BundleError as `load_bundle`.

    What a retraining goes on with is left out, see `read_training`.
    """
    path = Path(path)
    bundle = load_bundle(path, device="cpu")
    manifest = bundle.manifest
    arrays = _load_arrays(_read_verified(path, "types.npz", manifest), "types.npz")
    return BundleParts(
        **{
            name: getattr(manifest, name)
            for name in ("name", "created_by", "created_at", "stream", "novelty", "report")
        },
        **{name: getattr(manifest, name) for name in ("parent_digest", "lineage", "gate")},
        **arrays,
        encoder=_read_verified(path, "encoder.onnx", manifest),
        encoder_info=manifest.encoder,
        types=bundle.types,
        golden_recordings=golden_audio(_load_arrays(_read_verified(path, "golden.npz", manifest), "golden.npz")),
    )


def check_output(path: Path | str, *, overwrite: bool = False) -> None:
    """Return when `write_bundle` can put a bundle at ``path``, to be asked before there is one; the folder above it is made.

    Raises ConfigError OUTPUT_EXISTS or OUTPUT_NOT_WRITABLE.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists; choose another directory, or overwrite on purpose", reason="OUTPUT_EXISTS")
    if path.exists() and not (path / "manifest.json").is_file():
        raise ConfigError(f"{path} is no bundle, so it is not overwritten; choose another", reason="OUTPUT_EXISTS")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write_bundle(
    path: Path | str,
    parts: BundleParts,
    *,
    overwrite: bool = False,
    add: Callable[[Path, Bundle], None] = lambda *_: None,
) -> Bundle:
    """Write a bundle to the directory ``path``, whole or not at all, and return it loaded back.

    With ``overwrite`` it takes the place of another bundle, which stays as it is until then. ``add`` gets the directory
    before it is in place, and the bundle, for what else shall be in it. Raises ConfigError when ``path`` exists and may not
    be overwritten or nothing can be written there, BundleError when the parts do not fit together.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    with _writing(path):
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            _write_files(partial, parts)
            add(partial, load_bundle(partial, device="cpu"))
            partial.chmod(0o755)
            _put_in_place(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return load_bundle(path, device="cpu")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell of a disk that takes no bundle at ``path`` as a ConfigError OUTPUT_NOT_WRITABLE."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot write the bundle {path} ({error.strerror or error}); make room, or choose another folder",
            reason="OUTPUT_NOT_WRITABLE",
        ) from error


def _put_in_place(partial: Path, path: Path) -> None:
    if not path.exists():
        partial.rename(path)
        return
    old = partial.with_name(f"{partial.name}-old")
    path.rename(old)
    try:
        partial.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_dimensions(frontend: FrontendConfig, info: EncoderInfo, embedder: Embedder, catalogue: Catalogue) -> None:
    dimensions = {embedder.dimension, info.dimension, catalogue.dimension}
    if embedder.n_mels != frontend.n_mels or len(dimensions) > 1:
        raise BundleError(
            f"the encoder takes {embedder.n_mels} bands and gives {embedder.dimension} dimensions, the manifest says "
            f"{frontend.n_mels} and {info.dimension}, the song types have {catalogue.dimension} dimensions",
            reason="ENCODER_INTERFACE",
        )


def _write_files(path: Path, parts: BundleParts) -> None:
    embedder = Embedder(parts.encoder, device="cpu")
    catalogue = parts.catalogue()
    _check_dimensions(parts.stream.frontend, parts.encoder_info, embedder, catalogue)
    (path / "encoder.onnx").write_bytes(parts.encoder)
    (path / "types.json").write_text(json.dumps([t.model_dump(mode="json") for t in parts.types], indent=1) + "\n")
    arrays: dict[str, Any] = {
        "prototypes": parts.prototypes.astype(np.float32),
        "type_index": parts.type_index.astype(np.int64),
        "bank": parts.bank.astype(np.float32),
        "calibration": parts.calibration.astype(np.float32),
    }
    if parts.calibration_type is not None:
        arrays["calibration_type"] = parts.calibration_type.astype(np.int64)
    np.savez_compressed(path / "types.npz", **arrays)
    np.savez_compressed(
        path / "golden.npz", **expected_results(parts.golden_recordings, parts.stream, embedder, catalogue)
    )
    names = [*FILES]
    if parts.training is not None:
        (path / TRAINING).write_bytes(parts.training)
        names.append(TRAINING)
    fields = {
        "name": parts.name,
        "created_by": parts.created_by,
        "created_at": parts.created_at,
        "parent_digest": parts.parent_digest,
        "frontend": parts.stream.frontend,
        "segmenter": parts.stream.segmenter,
        "features": parts.stream.features,
        "encoder": parts.encoder_info,
        "novelty": parts.novelty,
        "lineage": parts.lineage,
        "gate": parts.gate,
        "quality": parts.stream.quality,
        "report": dict(parts.report),
        "sha256": {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names},
    }
    manifest = _parse(Manifest.model_validate, fields, "manifest.json")
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (path / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for name in (*names, "manifest.json"):
        sync(path / name)


def read_types(path: Path) -> tuple[SongType, ...]:
    """Return the song types of the bundle at ``path``, unaltered. Raises BundleError."""
    return _types(_read_verified(path, "types.json", read_manifest(path)))


def _types(content: bytes) -> tuple[SongType, ...]:
    return _parse(_TYPES.validate_json, content, "types.json")


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the bundle at ``path``, unaltered; nothing else is looked at. Raises BundleError."""
    if not path.is_dir():
        raise BundleError(
            f"{path} is not a directory; expected a bundle written by `songstream train`", reason="BUNDLE_MISSING"
        )
    try:
        raw = json.loads(_read(path, "manifest.json"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest.json is not JSON ({error})", reason="MANIFEST_INVALID") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"the bundle has schema {version}, this songstream reads {SCHEMA_VERSION}; "
            "upgrade songstream, or take a bundle of that schema",
            reason="SCHEMA_UNKNOWN",
        )
    manifest = _parse(Manifest.model_validate, raw, "manifest.json")
    if manifest.digest != manifest_digest(raw):
        raise BundleError("manifest.json was altered: its digest does not match its content", reason="HASH_MISMATCH")
    return manifest


def _read(path: Path, name: str) -> bytes:
    file = path / name
    try:
        status = file.stat()
        if not S_ISREG(status.st_mode):  # a pipe would block, a device never end
            raise BundleError(f"{name} of the bundle {path} is not a regular file", reason="FILE_UNREADABLE")
        if status.st_size > MAX_FILE_BYTES:
            raise BundleError(f"{name} has {status.st_size} bytes, more than {MAX_FILE_BYTES}", reason="FILE_TOO_LARGE")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{name} is missing from the bundle {path}", reason="FILE_MISSING") from error
    except OSError as error:
        raise BundleError(f"{name} of the bundle {path} cannot be read ({error})", reason="FILE_UNREADABLE") from error


def _read_verified(path: Path, name: str, manifest: Manifest) -> bytes:
    content = _read(path, name)
    found, expected = hashlib.sha256(content).hexdigest(), manifest.sha256.get(name)
    if found != expected:
        raise BundleError(
            f"{name} has SHA-256 {found[:12]}…, the manifest says {str(expected)[:12]}…; copy the bundle again",
            reason="HASH_MISMATCH",
        )
    return content


def _parse(validate: Callable[[Any], T], content: object, name: str) -> T:
    try:
        return validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{name}: {where}: {first['msg']}", reason="MANIFEST_INVALID") from error


def _load_arrays(content: bytes, name: str) -> dict[str, Any]:
    try:
        with ZipFile(BytesIO(content)) as archive:
            n_bytes = sum(member.file_size for member in archive.infolist())
        if n_bytes <= MAX_ARRAY_BYTES:
            with np.load(BytesIO(content), allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib have no common class of errors
        raise BundleError(f"{name} cannot be read ({error})", reason="FILE_UNREADABLE") from error
    raise BundleError(f"{name} unpacks to {n_bytes} bytes, more than {MAX_ARRAY_BYTES}", reason="FILE_TOO_LARGE")


def _catalogue(manifest: Manifest, types: Sequence[SongType], arrays: Mapping[str, Any]) -> Catalogue:
    names = {"prototypes", "type_index", "bank", "calibration"}
    if set(arrays) - {"calibration_type"} != names:
        raise BundleError(f"types.npz holds {sorted(arrays)}, expected {sorted(names)}", reason="TYPES_INVALID")
    if len({t.id for t in types}) != len(types):
        raise BundleError("types.json gives one id to two types", reason="TYPES_INVALID")
    return Catalogue(**arrays, type_ids=[t.id for t in types], kinds=[t.kind for t in types], novelty=manifest.novelty)
