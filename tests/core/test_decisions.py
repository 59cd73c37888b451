"""People's decisions: what they fold into, what is refused, and what undoing leaves behind."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from songcore.deciding import changes_nothing, check_action, completed, display_name, kind_of
from songcore.decisions import Action, Decision, Mark, Merge, Name, Split, Undo, View, fold, read_action, write_action
from songcore.errors import InputError
from songcore.manifest import SongType

CATALOGUE = {
    **{f"T{n:04d}": SongType(id=f"T{n:04d}", name=f"type {n}") for n in range(1, 6)},
    "T0009": SongType(id="T0009", kind="noise"),
}
RETIRED = {"T0008"}


def decided(*actions: Action) -> list[Decision]:
    """Return a list of decisions, each checked as it is made."""
    made: list[Decision] = []
    for seq, action in enumerate(actions, 1):
        check_action(made, action, CATALOGUE)
        made.append(Decision(seq, 1_000 * seq, "ada", action))
    return made


def refused(decisions: Sequence[Decision], action: Action) -> str:
    """Return why an action is refused."""
    with pytest.raises(InputError) as error:
        check_action(decisions, action, CATALOGUE, RETIRED)
    return error.value.reason


def merge(type_id: str, into: str) -> Merge:
    """Return a merge of songs."""
    return Merge(type_id=type_id, into=into, sound="song")


def split(type_id: str, new_id: str, *songs: str) -> Split:
    """Return a split of songs."""
    return Split(type_id=type_id, new_id=new_id, songs=songs, sound="song")


def substance(view: View) -> tuple[object, ...]:
    """Return how things stand, without numbers."""
    return view.names, view.kinds, view.merged, view.made, view.placed


def test_merges_chain_and_splits_hold_against_them() -> None:
    """A merged type counts where its target went, and a song that was split off stays where people put it."""
    view = fold(decided(split("T0001", "P0001", "a"), merge("T0001", "T0002"), merge("T0002", "T0003")))
    assert [view.type_of(uid, "T0001") for uid in "ab"] == ["P0001", "T0003"]
    assert view.members("T0003") == ["T0003", "T0001", "T0002"]
    assert view.next_id(CATALOGUE) == "P0002"


def test_what_a_split_makes_has_an_id_of_its_own() -> None:
    """Also beside types that a bundle knows from another store, and after splits that were undone."""
    theirs = {"P0003": SongType(id="P0003"), "T0001": SongType(id="T0001")}
    first = completed(split("P0003", "", "a"), View(), theirs)
    assert isinstance(first, Split)
    assert first.new_id == "P0004"
    assert completed(first, View(), theirs, {"P0007"}) == first.model_copy(update={"new_id": "P0008"})
    check_action([], first, theirs)
    view = fold([Decision(1, 0, "ada", first), Decision(2, 0, "ada", Undo(seq=1))])
    assert view.resolve("P0004") == "P0003"
    assert view.next_id(theirs) == view.next_id([]) == "P0005"


def test_a_type_that_is_to_be_made_cannot_be_split() -> None:
    """The id that the split itself would make is as unknown as any other."""
    assert refused([], split("P0001", "P0001", "a")) == "TYPE_UNKNOWN"


def test_names_and_kinds_are_peoples_before_the_bundles() -> None:
    """A name that is taken back, and types without a decision, are the bundle's."""
    names = [
        Name(type_id="T0001", name="long whistle"),
        Name(type_id="T0002", name="x"),
        Name(type_id="T0002", name=""),
    ]
    view = fold(decided(*names, Mark(kind="noise", type_id="T0003")))
    assert [display_name(one, view, CATALOGUE) for one in ("T0001", "T0002")] == ["long whistle", "type 2"]
    assert [kind_of(one, view, CATALOGUE) for one in ("T0001", "T0003", "T0009")] == ["song", "noise", "noise"]


def test_only_decisions_about_a_type_change_its_etag() -> None:
    """Both sides of a merge have another etag after it and after its undoing; a third type never."""
    before, merged, undone = (fold(decided(merge("T0001", "T0002"), Undo(seq=1))[:n]) for n in range(3))
    for type_id, n_etags in (("T0001", 3), ("T0002", 3), ("T0003", 1)):
        assert len({view.etag(type_id) for view in (before, merged, undone)}) == n_etags


MERGED = decided(merge("T0001", "T0002"))
MADE = decided(split("T0001", "P0001", "a"), Name(type_id="P0001", name="soft"))


@pytest.mark.parametrize(
    ("before", "action", "reason"),
    [
        ([], merge("T0001", "T0001"), "MERGE_WITH_ITSELF"),
        ([], Merge(type_id="T0009", into="T0001", sound="song"), "KIND_MISMATCH"),
        ([], Merge(type_id="T0001", into="T0009", sound="song"), "KIND_MISMATCH"),
        (MERGED, merge("T0001", "T0003"), "TYPE_MERGED"),
        (MERGED, merge("T0003", "T0001"), "TYPE_MERGED"),
        (MERGED, Name(type_id="T0001", name="x"), "TYPE_MERGED"),
        ([], Mark(kind="noise", type_id="T0008"), "TYPE_RETIRED"),
        (decided(split("T0001", "P0001", "a"), Undo(seq=1)), merge("P0001", "T0001"), "TYPE_RETIRED"),
        ([], Mark(kind="noise", type_id="T0077"), "TYPE_UNKNOWN"),
        ([], merge("P0001", "T0001"), "TYPE_UNKNOWN"),
        ([], Name(type_id="T0001", name="type 2"), "TYPE_NAME_TAKEN"),
        (MADE, Name(type_id="T0001", name="soft"), "TYPE_NAME_TAKEN"),
        ([], Name(type_id="T0001", name="two\nlines"), "TYPE_NAME_INVALID"),
        ([], Name(type_id="T0001", name="x" * 81), "TYPE_NAME_INVALID"),
        ([], Undo(seq=1), "DECISION_UNKNOWN"),
        (decided(merge("T0001", "T0002"), Undo(seq=1)), Undo(seq=1), "DECISION_UNDONE"),
        (decided(merge("T0001", "T0002"), Undo(seq=1)), Undo(seq=2), "UNDO_INVALID"),
        (MADE, Undo(seq=1), "DECISION_NEEDED"),
        (
            decided(Mark(kind="song", type_id="T0009"), Merge(type_id="T0009", into="T0001", sound="song")),
            Undo(seq=1),
            "DECISION_NEEDED",
        ),
    ],
)
def test_nonsense_is_refused_with_its_reason(before: list[Decision], action: Action, reason: str) -> None:
    """Whatever makes no sense after the decisions before has a reason of its own."""
    assert refused(before, action) == reason


@pytest.mark.parametrize(
    ("before", "seq", "learned"),
    [
        (decided(merge("T0001", "T0002")), 1, True),
        (decided(Name(type_id="T0002", name="whistle")), 1, True),
        (decided(Mark(kind="noise", type_id="T0003")), 1, True),
        (decided(merge("T0004", "T0002")), 1, False),
        (decided(Name(type_id="T0002", name="trill"), Name(type_id="T0002", name="whistle")), 1, False),
        (decided(Name(type_id="T0002", name="trill"), Name(type_id="T0002", name="whistle")), 2, False),
        (decided(Mark(kind="noise", type_id="T0004")), 1, False),
        (decided(split("T0002", "P0001", "a")), 1, False),
    ],
)
def test_what_was_learned_is_not_undone_by_half(before: list[Decision], seq: int, *, learned: bool) -> None:
    """A bundle that learned a merge, a name or a mark goes on naming by it: deciding anew does what an undo would not."""
    bundle = {
        "T0004": CATALOGUE["T0004"],
        "T0002": SongType(id="T0002", name="whistle"),
        "T0003": SongType(id="T0003", kind="noise"),
        "P0001": SongType(id="P0001"),
    }
    if not learned:
        check_action(before, Undo(seq=seq), bundle, {"T0001"})
        return
    with pytest.raises(InputError, match="has learned it") as error:
        check_action(before, Undo(seq=seq), bundle, {"T0001"})
    assert error.value.reason == "DECISION_LEARNED"


IDS = st.sampled_from([*CATALOGUE, "P0001", "P0002"])
ACTIONS = st.one_of(
    st.builds(Name, type_id=IDS, name=st.sampled_from(["", "whistle", "trill"])),
    st.builds(Merge, type_id=IDS, into=IDS, sound=st.sampled_from(["song", "noise"])),
    st.builds(Mark, kind=st.sampled_from(["song", "noise"]), type_id=IDS),
    st.builds(split, IDS, st.just(""), st.sampled_from("abc")),
    st.builds(Undo, seq=st.integers(1, 12)),
)


def as_made(actions: Sequence[Action]) -> list[Decision]:
    """Return the decisions that are taken, in the order they are tried; splits get their id."""
    made: list[Decision] = []
    for tried in actions:
        action = (
            tried.model_copy(update={"new_id": fold(made).next_id(CATALOGUE)}) if isinstance(tried, Split) else tried
        )
        try:
            check_action(made, action, CATALOGUE)
        except InputError:
            continue
        if changes_nothing(action, fold(made), CATALOGUE):
            continue
        made.append(Decision(len(made) + 1, 0, "ada", action))
    return made


@settings(max_examples=200)
@given(st.lists(ACTIONS, max_size=25))
def test_what_was_undone_might_never_have_been(actions: list[Action]) -> None:
    """Things stand as if undone decisions had never been made; every id leads to a type that stands, and none comes twice."""
    made = as_made(actions)
    view = fold(made)
    kept = [one for one in made if one.seq not in view.undone and not isinstance(one.action, Undo)]
    assert substance(fold(kept)) == substance(view)
    for type_id in (*CATALOGUE, *view.made, *view.withdrawn):
        end = view.resolve(type_id)
        assert end in view.made or end in CATALOGUE
        assert type_id in view.members(end)
        assert end not in view.merged
    given_ids = [one.action.new_id for one in made if isinstance(one.action, Split)]
    assert len(set(given_ids)) == len(given_ids)
    assert [read_action(write_action(one.action)) for one in made] == [one.action for one in made]


@settings(max_examples=100)
@given(st.lists(ACTIONS, max_size=20))
def test_everything_can_be_undone_from_the_end(actions: list[Action]) -> None:
    """Whoever undoes all decisions, the last one first, is never refused and ends where nothing was decided."""
    made = as_made(actions)
    for one in reversed(made.copy()):
        if one.seq not in fold(made).undone and not isinstance(one.action, Undo):
            undo = Undo(seq=one.seq)
            check_action(made, undo, CATALOGUE)
            made.append(Decision(len(made) + 1, 0, "ada", undo))
    assert substance(fold(made)) == substance(View())
