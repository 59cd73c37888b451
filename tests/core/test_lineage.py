"""Lineage: where the songs of a type are found now, and ids that are never given twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from songcore.bundle import TRAINING, BundleParts, load_bundle, read_training, write_bundle
from songcore.errors import BundleError
from songcore.lineage import TypeChange, current_ids, next_number, retired_ids
from songcore.manifest import GateCheck, SongType

PARENT = "0" * 64


def change(type_id: str, what: str, *others: str) -> TypeChange:
    """Return an entry of a lineage."""
    return TypeChange.model_validate({"id": type_id, "change": what, "others": others, "since": PARENT})


def test_songs_of_a_type_are_followed() -> None:
    """A merged type is found under its survivor, a dissolved one under both its heirs, a living one under itself."""
    lineage = (
        change("T0001", "merged", "T0002"),
        change("T0002", "retired", "T0001"),
        change("T0007", "split", "T0003"),
        change("T0003", "retired", "T0002", "T0007"),
        change("T0004", "retired"),
    )
    assert retired_ids(lineage) == {"T0002", "T0003", "T0004"}
    assert current_ids("T0002", lineage) == ("T0001",)
    assert current_ids("T0003", lineage) == ("T0007", "T0001") or current_ids("T0003", lineage) == ("T0001", "T0007")
    assert current_ids("T0004", lineage) == ()
    assert current_ids("T0009", lineage) == ("T0009",)


numbers = st.integers(1, 30)


@given(st.lists(st.tuples(numbers, st.lists(numbers, max_size=3)), max_size=20), numbers)
def test_following_ends(entries: list[tuple[int, list[int]]], asked: int) -> None:
    """However the heirs refer to each other, also in a circle, what is found is alive and found once."""
    lineage = [change(f"T{a:04d}", "retired", *(f"T{b:04d}" for b in others)) for a, others in entries]
    found = current_ids(f"T{asked:04d}", lineage)
    assert len(set(found)) == len(found)
    assert retired_ids(lineage).isdisjoint(found)


def test_numbers_go_on() -> None:
    """The next number is above all that training gave, and ids that people gave do not count."""
    assert next_number([]) == 1
    assert next_number(["T0009", "T0041", "P0100", "T12345"]) == 12346


def test_a_bundle_keeps_its_lineage_gate_and_training(parts: BundleParts, tmp_path: Path) -> None:
    """What was written is read back, and what a retraining goes on with is for training alone: serving loads without it."""
    lineage = (change("T0009", "retired", "T0001"),)
    gate = (GateCheck(name="id_stability", passed=True, value=0.99, bound="at least 0.85"),)
    made = replace(parts, parent_digest=PARENT, lineage=lineage, gate=gate, training=b"weights")
    bundle = write_bundle(tmp_path / "bundle", made)
    assert (bundle.manifest.lineage, bundle.manifest.gate) == (lineage, gate)
    assert bundle.manifest.retired == {"T0009"}
    assert read_training(tmp_path / "bundle") == b"weights"
    (tmp_path / "bundle" / TRAINING).write_bytes(b"altered")
    with pytest.raises(BundleError) as caught:
        read_training(tmp_path / "bundle")
    assert caught.value.reason == "HASH_MISMATCH"
    (tmp_path / "bundle" / TRAINING).unlink()
    assert load_bundle(tmp_path / "bundle").digest == bundle.digest


def test_a_bundle_from_before_has_no_lineage(pristine: Path) -> None:
    """Nothing is retired in a bundle that was not retrained, and a retraining has nothing to go on with."""
    manifest = load_bundle(pristine).manifest
    assert (manifest.lineage, manifest.gate, manifest.retired) == ((), (), frozenset())
    assert read_training(pristine) is None


def test_a_retired_id_is_not_given_again(parts: BundleParts, tmp_path: Path) -> None:
    """A bundle in which a retired id names a type is refused when it is written, and so when it is read."""
    types: list[Any] = [SongType(id=t.id) for t in parts.types]
    with pytest.raises(BundleError) as caught:
        write_bundle(tmp_path / "bundle", replace(parts, types=types, lineage=(change(types[0].id, "retired"),)))
    assert caught.value.reason == "TYPES_INVALID"
