"""The catalogue after retrainings: what a type became, and what its songs still count under."""

from dataclasses import replace
from pathlib import Path

import pytest

from bundles import bundle_parts
from songcore.bundle import load_bundle, write_bundle
from songcore.decisions import Decision, Merge, Split, View, fold
from songcore.lineage import TypeChange
from songserve.catalogue import entries, entry
from songserve.tally import Tally


def tally(**songs: int) -> Tally:
    """Return counts of songs by type."""
    return replace(Tally(), songs=songs)


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose ancestors had two more types: T0098 is in T0001 now, T0099 in T0001 and T0002."""
    lineage = (
        TypeChange(id="T0001", change="merged", others=("T0098",), since="a"),
        TypeChange(id="T0098", change="retired", others=("T0001",), since="a"),
        TypeChange(id="T0099", change="retired", others=("T0001", "T0002"), since="a"),
        TypeChange(id="P0001", change="retired", others=("T0002",), since="a"),
    )
    folder = tmp_path_factory.mktemp("retrained") / "bundle"
    write_bundle(folder, replace(bundle_parts(), lineage=lineage, parent_digest="a" * 64))
    return folder


def test_retired_types_are_shown_with_their_heirs(retrained: Path) -> None:
    """While songs count under a retired id it is listed, and it says where such songs go now; asked for by name, always."""
    bundle = load_bundle(retrained, device="cpu")
    known = [one.id for one in bundle.types]
    listed = {one.type_id: one for one in entries(bundle, View(), tally(T0001=3, T0099=2))}
    assert list(listed) == sorted([*known, "T0099"])
    assert (listed["T0099"].retired, listed["T0099"].heirs, listed["T0099"].n_songs) == (True, ("T0001", "T0002"), 2)
    assert (listed["T0001"].retired, listed["T0001"].heirs) == (False, ())
    assert entry("T0098", bundle, View(), tally()).heirs == ("T0001",)


def test_types_that_people_made_or_merged_retire_like_others(retrained: Path) -> None:
    """What people split off is no type once a retraining retired it; songs of a merged type count where people put them."""
    bundle = load_bundle(retrained, device="cpu")
    made = Split(type_id="T0002", new_id="P0001", songs=("a",), sound="song")
    merged = Merge(type_id="T0098", into="T0003", sound="song")
    view = fold([Decision(1, 0, "anna", made), Decision(2, 0, "anna", merged)])
    assert {one.type_id for one in entries(bundle, view, tally(T0003=5))} == {one.id for one in bundle.types}
    assert [one.type_id for one in entries(bundle, view, tally(P0001=1)) if one.retired] == ["P0001"]
