"""Reading a bundle: what was written is there, and every damage has its BundleError."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import N_TYPES, soundscape
from songcore.bundle import FILES, MAX_FILE_BYTES, BundleParts, load_bundle
from songcore.errors import BundleError


def refusal(path: Path) -> BundleError:
    """Return the BundleError of loading the bundle."""
    with pytest.raises(BundleError) as caught:
        load_bundle(path, device="cpu")
    return caught.value


def edit_manifest(path: Path, **changes: Any) -> None:
    """Change keys of the manifest, with its digest made to fit: what a forger can do."""
    content = json.loads((path / "manifest.json").read_text())
    content.update(changes)
    content["sha256"] = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in FILES}
    del content["digest"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    (path / "manifest.json").write_text(json.dumps({**content, "digest": hashlib.sha256(canonical).hexdigest()}))


def edit_arrays(path: Path, name: str, **changes: Any) -> None:
    """Replace arrays of an npz file, or leave out those that are None, and sign the bundle anew."""
    with np.load(path / name) as arrays:
        content = {**arrays, **changes}
    np.savez(path / name, **{key: array for key, array in content.items() if array is not None})
    edit_manifest(path)


def test_a_field_that_came_later_has_its_default(bundle_path: Path) -> None:
    """A bundle written before a parameter existed loads, unaltered, as if it named the default."""
    content = json.loads((bundle_path / "manifest.json").read_text())
    earlier = {name: value for name, value in content["features"].items() if name != "reference"}
    edit_manifest(bundle_path, features=earlier)
    assert load_bundle(bundle_path, device="cpu").manifest.features.reference == "noise"


def test_round_trip(pristine: Path, parts: BundleParts) -> None:
    """A written bundle is read back with its parameters, types and encoder, and names the songs it knows."""
    bundle = load_bundle(pristine, device="cpu")
    assert bundle.stream_config == parts.stream
    assert bundle.types == tuple(parts.types)
    assert bundle.type_by_id["T0002"] is bundle.types[1]
    assert (bundle.manifest.name, bundle.manifest.novelty) == (parts.name, parts.novelty)
    assert bundle.digest == bundle.manifest.computed_digest()
    samples, truth = soundscape(list(range(N_TYPES - 1)), 77)
    stream = bundle.new_stream(24_000)
    songs = stream.push(samples) + stream.finish()
    names = [assignment.type_id for assignment in bundle.classify(songs)]
    assert names == [f"T{number + 1:04d}" for _, _, number in truth]
    assert bundle.classify([]) == []


def test_streams_resume_through_the_bundle(pristine: Path) -> None:
    """A stream of the bundle is taken up at its checkpoint by the bundle loaded again."""
    samples, _ = soundscape([0, 1], 3)
    stream = load_bundle(pristine, device="cpu").new_stream(24_000)
    first = stream.push(samples[:90_000])
    checkpoint = stream.checkpoint()
    resumed = load_bundle(pristine, device="cpu").resume_stream(24_000, checkpoint.state)
    rest = resumed.push(samples[checkpoint.input_sample :]) + resumed.finish()
    assert len({(song.onset, song.offset) for song in first + rest}) == 2


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_missing_file(bundle_path: Path, name: str) -> None:
    """A bundle without one of its files says which."""
    (bundle_path / name).unlink()
    error = refusal(bundle_path)
    assert error.reason == "FILE_MISSING"
    assert name in str(error)


@pytest.mark.parametrize("name", FILES)
def test_changed_file(bundle_path: Path, name: str) -> None:
    """One flipped bit in any file is noticed before the file is used."""
    content = bytearray((bundle_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle_path / name).write_bytes(content)
    error = refusal(bundle_path)
    assert error.reason == "HASH_MISMATCH"
    assert name in str(error)


@pytest.mark.parametrize("key", ["name", "novelty", "segmenter", "sha256", "digest"])
def test_altered_manifest(bundle_path: Path, key: str) -> None:
    """A manifest edited by hand no longer has its digest."""
    text = (bundle_path / "manifest.json").read_text()
    content = json.loads(text)
    match key:
        case "name" | "digest":
            content[key] = "other"
        case "novelty":
            content["novelty"]["alpha"] = 0.5
        case "segmenter":
            content["segmenter"]["min_gap_s"] = 0.3
        case _:
            content["sha256"]["encoder.onnx"] = "0" * 64
    (bundle_path / "manifest.json").write_text(json.dumps(content))
    assert refusal(bundle_path).reason == "HASH_MISMATCH"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "MANIFEST_INVALID"),
        ("{", "MANIFEST_INVALID"),
        ("[" * 100_000, "MANIFEST_INVALID"),
        ("[]", "SCHEMA_UNKNOWN"),
        ("{}", "SCHEMA_UNKNOWN"),
        ('{"schema_version": 1}', "MANIFEST_INVALID"),
    ],
    ids=["empty", "half", "deep", "list", "object", "bare"],
)
def test_not_a_manifest(bundle_path: Path, text: str, reason: str) -> None:
    """Text that is no manifest is refused without looking further."""
    (bundle_path / "manifest.json").write_text(text)
    assert refusal(bundle_path).reason == reason


def test_newer_schema(bundle_path: Path) -> None:
    """A bundle of a newer schema says which it has and which is read."""
    edit_manifest(bundle_path, schema_version=2, something="new")
    error = refusal(bundle_path)
    assert error.reason == "SCHEMA_UNKNOWN"
    assert "schema 2, this songstream reads 1" in str(error)


def test_unknown_key(bundle_path: Path) -> None:
    """A key that this version does not know is refused by name, though the digest fits."""
    edit_manifest(bundle_path, threshold=0.5)
    error = refusal(bundle_path)
    assert error.reason == "MANIFEST_INVALID"
    assert "threshold" in str(error)


@pytest.mark.parametrize("content", ["nothing", "[{}]", '[{"id": "x"}]', '[{"id": "T0001", "colour": 1}]', "\x00"])
def test_bad_types(bundle_path: Path, content: str) -> None:
    """A list of types that is not one is refused."""
    (bundle_path / "types.json").write_text(content)
    edit_manifest(bundle_path)
    assert refusal(bundle_path).reason == "MANIFEST_INVALID"


def pickled() -> bytes:
    """Return an npz file with an object array, which only a pickle can hold."""
    file = io.BytesIO()
    np.savez(file, prototypes=np.asarray([{"a": 1}], object))
    return file.getvalue()


def plain_array() -> bytes:
    """Return a single array where a file of arrays belongs."""
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("name", ["types.npz", "golden.npz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"rubbish" * 100,
        lambda content: content[:-200],
        lambda content: content[:300] + bytes(255 - byte for byte in content[300:360]) + content[360:],
        lambda _: pickled(),
        lambda _: plain_array(),
    ],
    ids=["empty", "rubbish", "cut", "changed inside", "pickled", "one array"],
)
def test_unreadable_arrays(bundle_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    """Array files that are no archives of plain arrays are refused; what is pickled is never run."""
    (bundle_path / name).write_bytes(damage((bundle_path / name).read_bytes()))
    edit_manifest(bundle_path)
    error = refusal(bundle_path)
    assert error.reason == "FILE_UNREADABLE"
    assert name in str(error)


@pytest.mark.parametrize(
    "changes",
    [{"bank": None}, {"extra": np.zeros(3)}, {"bank": np.zeros((5, 16), np.float32)}, {"calibration": np.array(["a"])}],
    ids=["missing", "extra", "zeros", "words"],
)
def test_bad_type_arrays(bundle_path: Path, changes: dict[str, Any]) -> None:
    """Missing, additional and impossible arrays are refused though every hash fits."""
    edit_arrays(bundle_path, "types.npz", **changes)
    assert refusal(bundle_path).reason == "TYPES_INVALID"


def test_text_in_the_archive(bundle_path: Path) -> None:
    """An archive of other files is not taken for arrays."""
    with zipfile.ZipFile(bundle_path / "types.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    edit_manifest(bundle_path)
    assert refusal(bundle_path).reason == "TYPES_INVALID"


def test_not_a_directory(bundle_path: Path, tmp_path: Path) -> None:
    """A path to nothing, to a file and to an empty directory are no bundles."""
    assert refusal(tmp_path / "nothing").reason == "BUNDLE_MISSING"
    assert refusal(bundle_path / "manifest.json").reason == "BUNDLE_MISSING"
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").reason == "FILE_MISSING"


def test_links_and_pipes(bundle_path: Path, tmp_path: Path) -> None:
    """A link to the file is followed; a pipe, a device and a directory are refused at once instead of read for ever."""
    target = tmp_path / "elsewhere"
    (bundle_path / "encoder.onnx").rename(target)
    (bundle_path / "encoder.onnx").symlink_to(target)
    load_bundle(bundle_path, device="cpu")
    file = bundle_path / "golden.npz"
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir):
        file.unlink()
        make(file)
        assert refusal(bundle_path).reason == "FILE_UNREADABLE"


def test_oversized_file(bundle_path: Path) -> None:
    """A file larger than any encoder is refused before it is read into memory."""
    with (bundle_path / "encoder.onnx").open("r+b") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: it takes no room
    assert refusal(bundle_path).reason == "FILE_TOO_LARGE"
