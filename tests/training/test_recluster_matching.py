"""Ids of a retraining: songs keep the name they had wherever clusters allow it, and no id is given twice."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from songcore.arrays import FloatArray, IntArray
from songcore.lineage import current_ids
from songtrain.recluster.decided import Decided, agree
from songtrain.recluster.matching import Matching, match_types

SINCE = "a" * 64


def match(*counts: tuple[str, int, int], first_number: int = 50) -> Matching:
    """Return the matching of so many songs of an old id ("" for none) in a new type."""
    ids = sorted({name for name, _, _ in counts if name})
    old = [ids.index(name) if name else -1 for name, _, n in counts for _ in range(n)]
    new = [number for _, number, n in counts for _ in range(n)]
    return match_types(np.asarray(old), ids, np.asarray(new), first_number=first_number, since=SINCE)


def told(matching: Matching) -> set[tuple[str, str, tuple[str, ...]]]:
    """Return the changes without counts."""
    return {(entry.id, entry.change, entry.others) for entry in matching.changes}


def test_renumbered_clusters_keep_their_ids() -> None:
    """Types whose numbers are dealt out anew, and that grow by songs that had no type, change nothing."""
    found = match(("T0001", 2, 30), ("T0002", 0, 20), ("T0003", 1, 10), ("", 1, 90), ("T0001", 1, 2))
    assert found.ids == ("T0002", "T0003", "T0001")
    assert told(found) == set()


def test_songs_without_a_type_found_a_new_one() -> None:
    """A cluster of unnamed songs is new, also when a few misnamed ones lie in it."""
    found = match(("T0001", 0, 30), ("T0002", 1, 10), ("", 2, 40), ("T0002", 2, 4))
    assert found.ids == ("T0001", "T0002", "T0050")
    assert told(found) == {("T0050", "new", ())}


def test_the_largest_part_of_a_split_keeps_the_id() -> None:
    """Parts of a quarter or more of the old type's songs come from it; a smaller one is new."""
    found = match(("T0001", 0, 30), ("T0001", 1, 45), ("T0001", 2, 20), ("T0002", 3, 9))
    assert found.ids == ("T0050", "T0001", "T0051", "T0002")
    assert told(found) == {("T0050", "split", ("T0001",)), ("T0051", "new", ())}


def test_the_larger_of_two_that_merge_keeps_its_id() -> None:
    """The other id is retired, and its songs are found under the one that took them in."""
    found = match(("T0001", 0, 20), ("T0002", 0, 30), ("T0003", 1, 5))
    assert found.ids == ("T0002", "T0003")
    assert told(found) == {("T0002", "merged", ("T0001",)), ("T0001", "retired", ("T0002",))}
    assert current_ids("T0001", found.changes) == ("T0002",)


def test_most_songs_keep_their_id_when_types_exchange_songs() -> None:
    """Where no pair is the same by half, ids go where they are of use to most songs, not to the largest share first."""
    found = match(("T0001", 0, 60), ("T0001", 1, 40), ("T0002", 0, 50))
    assert found.ids == ("T0002", "T0001")
    assert told(found) == set()


def test_a_dissolved_type_is_retired_with_its_heirs() -> None:
    """Songs of a type that fell apart into others that have ids are found under those with a quarter of them."""
    found = match(("T0001", 0, 50), ("T0002", 1, 50), ("T0003", 0, 5), ("T0003", 1, 5), ("T0004", -1, 9))
    assert found.ids == ("T0001", "T0002")
    # Half of it is in the first, so that one took it in; types without songs in any cluster have no heirs.
    assert told(found) == {
        ("T0001", "merged", ("T0003",)),
        ("T0003", "retired", ("T0001", "T0002")),
        ("T0004", "retired", ()),
    }


def test_nothing_in_nothing_out() -> None:
    """No songs, no clusters or no old types are cases like any other."""
    assert match_types(np.empty(0, np.int64), [], np.empty(0, np.int64), first_number=1, since=SINCE).ids == ()
    assert told(match(("T0001", -1, 3))) == {("T0001", "retired", ())}
    assert match(("", 0, 3), ("", 1, 3), first_number=1).ids == ("T0001", "T0002")


labellings = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-1, 6), min_size=n, max_size=n), st.lists(st.integers(-1, 6), min_size=n, max_size=n)
    )
)


def packed(labels: Sequence[int]) -> IntArray:
    """Return labels without gaps."""
    names = sorted({label for label in labels if label >= 0})
    return np.asarray([names.index(label) if label >= 0 else -1 for label in labels], np.int64)


@given(labellings)
def test_ids_are_never_given_twice(songs: tuple[list[int], list[int]]) -> None:
    """Every new type has one id of its own, an old one or a number not used before; every old id lives on or is retired."""
    old, new = np.asarray(songs[0], np.int64), packed(songs[1])
    ids = [f"T{number:04d}" for number in range(1, 8)]
    found = match_types(old, ids, new, first_number=8, since=SINCE)
    assert len(set(found.ids)) == len(found.ids) == int(new.max(initial=-1)) + 1
    fresh = {entry.id for entry in found.changes if entry.change in {"new", "split"}}
    assert set(found.ids) == fresh | (set(ids) - {entry.id for entry in found.changed("retired")})
    assert fresh.isdisjoint(ids)
    for entry in found.changes:
        assert set(entry.others) <= (set(found.ids) if entry.change == "retired" else set(ids))


@given(labellings, st.permutations(range(8)))
def test_numbers_of_clusters_mean_nothing(songs: tuple[list[int], list[int]], order: list[int]) -> None:
    """New clusters numbered otherwise let as many songs keep their id."""
    old, new = np.asarray(songs[0], np.int64), packed(songs[1])
    ids = [f"T{number:04d}" for number in range(1, 8)]
    turned = packed(np.where(new >= 0, np.asarray([*order, -1])[new], -1).tolist())

    def n_kept(labels: IntArray) -> int:
        found = match_types(old, ids, labels, first_number=8, since=SINCE)
        return sum(found.ids[c] == ids[o] for o, c in zip(old, labels, strict=True) if o >= 0 and c >= 0)

    assert n_kept(new) == n_kept(turned)


@given(labellings)
def test_the_same_clusters_change_nothing(songs: tuple[list[int], list[int]]) -> None:
    """Songs clustered as they were named keep all ids, whatever else was clustered with them."""
    old = packed(songs[0])
    n = int(old.max(initial=-1)) + 1
    ids = [f"T{number:04d}" for number in range(1, n + 1)]
    found = match_types(old, ids, old, first_number=n + 1, since=SINCE)
    assert (found.ids, found.changes) == (tuple(ids), ())


def on_a_line(*places: float) -> FloatArray:
    """Return embeddings that lie on a line."""
    return np.asarray([[place, 0] for place in places], np.float32)


def test_merged_by_people_stays_merged() -> None:
    """Clusters that are mostly of a type merged by people are one; a cluster with a few of its songs is left alone."""
    new = np.asarray([0, 0, 0, 1, 1, 2, 2, 2])
    old = np.asarray([0, 0, 0, 0, 0, 1, 1, 0])
    assert agree(new, old, 2, Decided(whole=[0]), on_a_line(*range(8)))[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert agree(new, old, 2, Decided(), on_a_line(*range(8)))[0].tolist() == new.tolist()


def test_split_by_people_stays_split() -> None:
    """One cluster of two types that people keep apart is divided; songs without a type go where their nearest song is."""
    new = np.zeros(6, np.int64)
    old = np.asarray([0, 0, -1, -1, 1, 1])
    found = agree(new, old, 2, Decided(own=[1]), on_a_line(0, 1, 2, 8, 9, 10))
    assert (found[0].tolist(), found[1]) == ([0, 0, 0, 1, 1, 1], {1: 1})


def test_a_scattered_type_of_people_is_somewhere() -> None:
    """A type that people made and that clusters scatter over all others still has a cluster that is its own."""
    new = np.asarray([0] * 5 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5)
    old = np.asarray([0, 0, 0, 0, 5, 1, 1, 1, 1, 5, 2, 2, 2, 2, 5, 3, 3, 3, 3, 5, 4, 4, 4, 4, 5])
    found, fixed = agree(new, old, 6, Decided(own=[5]), on_a_line(*range(25)))
    ids = [f"T{number:04d}" for number in range(1, 6)] + ["P0001"]
    assert "P0001" in match_types(old, ids, found, first_number=9, since=SINCE, fixed=fixed).ids


def test_noise_and_song_are_not_one() -> None:
    """A cluster of a noise type and a song type is divided, one of two noise types is not."""
    new, old = np.zeros(4, np.int64), np.asarray([0, 0, 1, 1])
    assert agree(new, old, 2, Decided(noise=[1]), on_a_line(0, 1, 2, 3))[0].tolist() == [0, 0, 1, 1]
    assert agree(new, old, 2, Decided(noise=[0, 1]), on_a_line(0, 1, 2, 3))[0].tolist() == [0, 0, 0, 0]


@given(labellings, st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6)))
def test_what_people_decided_about_keeps_its_id(
    songs: tuple[list[int], list[int]], whole: set[int], own: set[int], noise: set[int]
) -> None:
    """However clusters fall, a type that people decided about and that has a clustered song is among the new types."""
    old, new = np.asarray(songs[0], np.int64), packed(songs[1])
    ids = [f"T{number:04d}" for number in range(1, 8)]
    places = on_a_line(*range(len(old)))
    found, fixed = agree(new, old, 7, Decided(whole, own, noise), places)
    assert ((found >= 0) == (new >= 0)).all()
    named = match_types(old, ids, found, first_number=8, since=SINCE, fixed=fixed).ids
    for number in own:
        if ((old == number) & (new >= 0)).any():
            assert ids[number] in named


@pytest.mark.parametrize("n", [1, 400])
def test_untouched_where_nobody_decided(n: int) -> None:
    """Without decisions clusters stay what they are."""
    rng = np.random.default_rng(n)
    new, old = packed(rng.integers(-1, 9, n).tolist()), rng.integers(-1, 9, n)
    assert agree(new, old, 9, Decided(), rng.standard_normal((n, 3)).astype(np.float32))[0].tolist() == new.tolist()
