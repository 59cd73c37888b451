"""Writing a bundle: all or nothing, nothing lost, the same parts the same model."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import make_test_bundle, random_encoder
from songcore.bundle import FILES, Bundle, BundleParts, check_output, load_bundle, read_parts, write_bundle
from songcore.errors import BundleError, ConfigError, SongError
from songcore.manifest import SongType


def test_digest_names_the_model(pristine: Path, parts: BundleParts, tmp_path: Path) -> None:
    """The same parts have the same digest wherever they are written, other weights another."""
    assert write_bundle(tmp_path / "again", parts).digest == load_bundle(pristine).digest
    assert make_test_bundle(tmp_path / "other", seed=1).digest != load_bundle(pristine).digest


def test_files_are_readable_by_others(pristine: Path) -> None:
    """The directory holds the five files of a bundle and nothing else, and a service under another user can enter it."""
    assert {file.name for file in pristine.iterdir()} == {*FILES, "manifest.json"}
    assert pristine.stat().st_mode & 0o777 == 0o755
    assert not [file for file in pristine.parent.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize(
    "report", [{"score": float("nan")}, {"score": float("inf"), "n": 3}, {"mean": np.float64(0.5)}]
)
def test_odd_scores_do_not_spoil_a_bundle(parts: BundleParts, report: dict[str, Any], tmp_path: Path) -> None:
    """A score that is not a number is kept as null, and numpy's numbers as numbers."""
    bundle = write_bundle(tmp_path / "bundle", replace(parts, report=report))
    expected = {key: value if np.isfinite(value) else None for key, value in report.items()}
    assert bundle.manifest.report == expected


def test_a_bundle_gives_back_what_it_was_written_from(pristine: Path, tmp_path: Path) -> None:
    """Written again from its own parts a bundle is the same model, to the digest."""
    assert write_bundle(tmp_path / "again", read_parts(pristine)).digest == load_bundle(pristine).digest


def entries(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


Change = Callable[[BundleParts], BundleParts]
MISFITS: dict[str, tuple[Change, str]] = {
    "encoder": (lambda p: replace(p, encoder=b"x"), "ENCODER_UNREADABLE"),
    "bands": (lambda p: replace(p, encoder=random_encoder(n_mels=48)), "ENCODER_INTERFACE"),
    "dimension": (lambda p: replace(p, encoder=random_encoder(dimension=8)), "ENCODER_INTERFACE"),
    "info": (
        lambda p: replace(p, encoder_info=p.encoder_info.model_copy(update={"dimension": 8})),
        "ENCODER_INTERFACE",
    ),
    "name": (lambda p: replace(p, name="My Bundle"), "MANIFEST_INVALID"),
    "duplicate ids": (lambda p: replace(p, types=[SongType(id="T0001")] * len(p.types)), "TYPES_INVALID"),
    "types": (lambda p: replace(p, types=p.types[:-1]), "TYPES_INVALID"),
    "calibration_type": (
        lambda p: replace(p, calibration_type=np.full(len(p.calibration), 9)),
        "TYPES_INVALID",
    ),
    "calibration": (lambda p: replace(p, calibration=p.calibration[:, None]), "TYPES_INVALID"),
    "no golden": (lambda p: replace(p, golden_recordings=[]), "GOLDEN_EMPTY"),
    "silent golden": (lambda p: replace(p, golden_recordings=[np.zeros(48_000, np.float32)]), "GOLDEN_EMPTY"),
}


@pytest.mark.parametrize(("change", "reason"), MISFITS.values(), ids=MISFITS)
def test_parts_that_do_not_fit(parts: BundleParts, change: Change, reason: str, bundle_path: Path) -> None:
    """Parts that do not fit together leave neither a bundle nor a trace, and the bundle to be overwritten as it was."""
    before = entries(bundle_path.parent)
    for path in (bundle_path, bundle_path.parent / "new"):
        with pytest.raises(BundleError) as caught:
            write_bundle(path, change(parts), overwrite=True)
        assert caught.value.reason == reason
    assert entries(bundle_path.parent) == before
    assert {entry.name for entry in bundle_path.parent.iterdir()} == {"bundle"}


def test_existing_output(parts: BundleParts, bundle_path: Path) -> None:
    """An existing bundle is kept unless overwriting is asked for, and then replaced whole."""
    before = entries(bundle_path)
    with pytest.raises(ConfigError, match="overwrite on purpose") as caught:
        write_bundle(bundle_path, parts)
    assert caught.value.reason == "OUTPUT_EXISTS"
    assert entries(bundle_path) == before
    (bundle_path / "notes.txt").write_text("of the old bundle")
    assert write_bundle(bundle_path, replace(parts, name="next"), overwrite=True).manifest.name == "next"
    assert {entry.name for entry in bundle_path.iterdir()} == {*FILES, "manifest.json"}
    assert {entry.name for entry in bundle_path.parent.iterdir()} == {"bundle"}


def other_outputs(directory: Path) -> Iterator[Path]:
    """Yield an empty directory, one with somebody's work, and a file."""
    (directory / "empty").mkdir()
    (directory / "home").mkdir()
    (directory / "home" / "thesis.txt").write_text("years of work")
    (directory / "file").write_text("a file")
    yield from (directory / name for name in ("empty", "home", "file"))


def test_only_bundles_are_overwritten(parts: BundleParts, tmp_path: Path) -> None:
    """A mistyped output directory is not deleted, overwrite or not."""
    for path in other_outputs(tmp_path):
        before = entries(tmp_path)
        with pytest.raises(SongError, match="no bundle") as caught:
            write_bundle(path, parts, overwrite=True)
        assert caught.value.reason == "OUTPUT_EXISTS"
        assert entries(tmp_path) == before


def test_what_is_added_comes_with_the_bundle_or_there_is_none(parts: BundleParts, tmp_path: Path) -> None:
    """More files appear together with the bundle; where they cannot be made nothing does, and the old one stays."""
    path = tmp_path / "bundle"

    def add(folder: Path, bundle: Bundle) -> None:
        assert not path.exists()
        (folder / "report.html").write_text(bundle.digest)

    digest = write_bundle(path, parts, add=add).digest
    assert (path / "report.html").read_text() == digest
    before = entries(tmp_path)

    def fail(folder: Path, _: Bundle) -> None:
        (folder / "report.html").mkdir()
        raise OSError(ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match="No space left on device") as caught:
        write_bundle(path, replace(parts, name="next"), overwrite=True, add=fail)
    assert caught.value.reason == "OUTPUT_NOT_WRITABLE"
    assert entries(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_takes_nothing_is_told(parts: BundleParts, tmp_path: Path) -> None:
    """Before there is a bundle to write, and when there is."""
    (tmp_path / "file").write_text("in the way")
    for write in (check_output, lambda path: write_bundle(path, parts)):
        with pytest.raises(ConfigError) as caught:
            write(tmp_path / "file" / "bundle")
        assert caught.value.reason == "OUTPUT_NOT_WRITABLE"
    check_output(tmp_path / "new" / "bundle")
    assert [*(tmp_path / "new").iterdir()] == []


def test_parent_directories_are_made(parts: BundleParts, tmp_path: Path) -> None:
    """The directories above a new bundle are created."""
    assert write_bundle(tmp_path / "a" / "b" / "bundle", parts).manifest.name == "test"
