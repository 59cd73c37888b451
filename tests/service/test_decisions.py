"""Decisions in a store: counts, lists and checks follow at once, refused ones leave nothing, undone ones leave no trace."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pytest

from postgres import PostgresServer
from songcore.decisions import Action, Decision, Mark, Merge, Name, Split, Undo
from songcore.errors import SongError
from songcore.manifest import SongType
from songserve.checking import check_store
from songserve.decision_writing import MAX_SPLIT, Intent
from songserve.frequencies import FrequencyFilter
from songserve.queries import SongFilter
from songserve.records import StoredSong
from songserve.verdicts import verdict
from stores import HOUR_MS, Opened, commit, opening, song

CATALOGUE = {
    **{f"T{n:04d}": SongType(id=f"T{n:04d}") for n in range(1, 5)},
    "T0009": SongType(id="T0009", kind="noise"),
}


@dataclass
class Season:
    """A store with the songs of two hours: by seconds, T0001 0-5, T0002 10-12, T0009 20, novel and nearest to T0001 30, 31."""

    opened: Opened
    songs: dict[int, StoredSong]

    def decide(self, action: Action, **etags: str) -> "Future[Decision | None]":
        """Decide, by default with the etags that are right now."""
        return self.opened.store.decide(Intent(action, "ada", 1, etags, CATALOGUE, frozenset({"T0008"})))

    def split(self, type_id: str, *seconds: int) -> Decision | None:
        """Split songs off."""
        return self.decide(split(type_id, *seconds)).result(10)

    def counts(self) -> tuple[dict[str, int], int, int]:
        """Return songs by type, novel songs and noise, which every way to ask agrees on."""
        (whole,) = self.opened.queries.frequencies(FrequencyFilter())
        tally, _ = self.opened.queries.totals()
        assert (tally.songs, sum(tally.novel.values())) == (whole.counts, whole.n_novel)
        days = self.opened.queries.frequencies(FrequencyFilter(bucket_ms=HOUR_MS))
        assert sum(sum(day.counts.values()) for day in days) == sum(whole.counts.values())
        everything = self.listed(SongFilter(include_noise=True))
        assert len(everything) == len(self.songs)
        for type_id, n in whole.counts.items():
            of_type = self.listed(SongFilter(type_id=type_id))
            assert len(of_type) == n
            assert {verdict(one, self.opened.queries.view).type_id for one in of_type} == {type_id}
        assert len(self.listed(SongFilter(only_novel=True))) == whole.n_novel
        assert len(everything) - len(self.listed(SongFilter())) == whole.n_noise
        return whole.counts, whole.n_novel, whole.n_noise

    def listed(self, wanted: SongFilter) -> list[StoredSong]:
        """Return a list, which is the same by time and by commits."""
        page, _ = self.opened.queries.page(wanted, None, 100)
        found, _ = self.opened.queries.after(wanted, 0, 100)
        assert sorted(one.uid for one in page) == sorted(one.uid for one in found)
        return page


@pytest.fixture
def season(opened: Opened) -> Season:
    """Return a season in each of the databases."""
    record = opened.store.open_session(opening()).result(10)
    songs = [song(record, second) for second in range(6)]
    songs += [song(record, second, "T0002") for second in (10, 11, 12)]
    songs += [song(record, 20, "T0009", kind="noise")]
    songs += [song(record, second, novelty="novel") for second in (30, 31)]
    songs += [song(record, 4000, "T0002")]
    opened.store.commit(commit(record, 1, *songs)).result(10)
    seconds = [*range(6), 10, 11, 12, 20, 30, 31, 4000]
    return Season(opened, dict(zip(seconds, songs, strict=True)))


def merge(type_id: str, into: str) -> Merge:
    """Return a merge; the store knows the kind."""
    return Merge(type_id=type_id, into=into, sound="song")


def split(type_id: str, *seconds: int) -> Split:
    """Return a split by the starts of songs; the store knows the new id."""
    uids = tuple(str(uuid5(UUID(int=1), str(second))) for second in seconds)
    return Split(type_id=type_id, new_id="", songs=uids, sound="song")


BEFORE = ({"T0001": 6, "T0002": 4}, 2, 1)


@pytest.mark.parametrize(
    ("actions", "after"),
    [
        ([merge("T0001", "T0002")], ({"T0002": 10}, 2, 1)),
        ([Mark(kind="noise", type_id="T0001")], ({"T0002": 4}, 0, 9)),
        ([Mark(kind="song", type_id="T0009")], ({"T0001": 6, "T0002": 4, "T0009": 1}, 2, 0)),
        ([Mark(kind="noise", type_id="T0002"), merge("T0002", "T0009")], ({"T0001": 6}, 2, 5)),
        ([merge("T0001", "T0002"), merge("T0002", "T0003"), Name(type_id="T0003", name="x")], ({"T0003": 10}, 2, 1)),
    ],
)
def test_counts_follow_decisions_and_their_undoing(
    season: Season, actions: list[Action], after: tuple[dict[str, int], int, int]
) -> None:
    """Frequencies, totals and lists agree after every decision, and are as before once all are undone."""
    assert season.counts() == BEFORE
    made = [season.decide(action).result(10) for action in actions]
    assert season.counts() == after
    for one in reversed(made):
        assert one is not None
        season.decide(Undo(seq=one.seq)).result(10)
    assert season.counts() == BEFORE
    assert len(season.opened.queries.decisions()) == 2 * len(actions)


def test_a_split_moves_its_songs_and_their_counts(season: Season, tmp_path: Path, database_url: str | None) -> None:
    """Split songs, novel ones among them, count for the new type in every bucket; a check finds the store sound."""
    season.split("T0001", 0, 1, 30)
    assert season.counts() == ({"T0002": 4, "T0001": 4, "P0001": 3}, 1, 1)
    season.split("P0001", 1)
    season.decide(merge("P0001", "T0002")).result(10)
    assert season.counts() == ({"T0002": 6, "T0001": 4, "P0002": 1}, 1, 1)
    again = season.opened.store.open_session(opening()).result(10)
    season.opened.store.commit(commit(again, 2, *season.songs.values())).result(10)  # as after a lost answer
    assert season.counts() == ({"T0002": 6, "T0001": 4, "P0002": 1}, 1, 1)
    assert check_store(tmp_path / "data", database_url).problems == []
    for seq in (3, 2, 1):
        season.decide(Undo(seq=seq)).result(10)
    assert season.counts() == BEFORE
    assert check_store(tmp_path / "data", database_url).problems == []
    assert season.split("T0001", 0) is not None
    assert season.opened.store.view.made == {"P0003": "T0001"}


def test_undoing_gives_songs_back_to_where_each_came_from(season: Season) -> None:
    """Undoing first a merge and then a split that took songs of both types leaves each song with its own type."""
    season.decide(merge("T0002", "T0001")).result(10)
    season.split("T0001", 0, 10)
    season.decide(Undo(seq=1)).result(10)
    assert season.counts() == ({"T0001": 5, "T0002": 3, "P0001": 2}, 2, 1)
    season.decide(Undo(seq=2)).result(10)
    assert season.counts() == BEFORE


def test_songs_of_the_future_follow(season: Season) -> None:
    """A song that the model gives to a merged type counts for the one that it was merged into."""
    season.decide(merge("T0001", "T0002")).result(10)
    record = season.opened.store.open_session(opening(2, "south")).result(10)
    season.opened.store.commit(commit(record, 1, song(record, 7), song(record, 8, "T0002"))).result(10)
    assert season.opened.queries.totals()[0].songs == {"T0002": 12}


@pytest.mark.parametrize(
    ("action", "etags", "reason"),
    [
        (merge("T0001", "T0001"), {}, "MERGE_WITH_ITSELF"),
        (merge("T0009", "T0001"), {}, "KIND_MISMATCH"),
        (merge("T0008", "T0001"), {}, "TYPE_RETIRED"),
        (merge("T0004", "T0001"), {}, "TYPE_MERGED"),
        (merge("T0002", "T0077"), {}, "TYPE_UNKNOWN"),
        (merge("T0001", "T0002"), {"T0001": "0123456789abcdef"}, "ETAG_MISMATCH"),
        (Undo(seq=2), {}, "DECISION_UNDONE"),
        (Undo(seq=3), {}, "UNDO_INVALID"),
        (Undo(seq=9), {}, "DECISION_UNKNOWN"),
        (split("T0001"), {}, "SPLIT_EMPTY"),
        (split("T0001", 0, 77), {}, "SONG_UNKNOWN"),
        (split("T0001", *range(MAX_SPLIT + 1)), {}, "SPLIT_TOO_LARGE"),
        (split("T0001", 0, 10), {}, "SPLIT_FOREIGN"),
        (split("T0002", 10, 11, 12, 4000), {}, "SPLIT_ALL"),
    ],
)
def test_a_refused_decision_leaves_nothing(season: Season, action: Action, etags: dict[str, str], reason: str) -> None:
    """Every refusal has its reason, and store and history are as they were, also for what was decided at the same moment."""
    season.decide(merge("T0004", "T0001")).result(10)
    season.decide(Mark(kind="noise", type_id="T0003")).result(10)
    season.decide(Undo(seq=2)).result(10)
    refused, beside = season.decide(action, **etags), season.decide(Name(type_id="T0003", name="kept"))
    with pytest.raises(SongError) as error:
        refused.result(10)
    assert error.value.reason == reason
    assert beside.result(10) is not None
    assert [one.seq for one in season.opened.queries.decisions()] == [1, 2, 3, 4]
    assert season.counts() == BEFORE


def test_names_are_unique_and_what_others_rest_on_stays(season: Season) -> None:
    """A name that another type has is refused, and so is undoing what a later decision needs, until that one is undone."""
    season.decide(Name(type_id="T0001", name="long")).result(10)
    season.decide(Mark(kind="noise", type_id="T0002")).result(10)
    season.decide(merge("T0002", "T0009")).result(10)
    for action, reason in ((Name(type_id="T0003", name="long"), "TYPE_NAME_TAKEN"), (Undo(seq=2), "DECISION_NEEDED")):
        with pytest.raises(SongError) as error:
            season.decide(action).result(10)
        assert error.value.reason == reason
    season.decide(Undo(seq=3)).result(10)
    season.decide(Undo(seq=2)).result(10)
    assert season.counts() == BEFORE


def test_what_a_bundle_learned_is_not_undone_by_half(season: Season) -> None:
    """Under a bundle that learned a merge its undoing is refused and counts stay; under the bundle before, it is done."""
    season.decide(merge("T0002", "T0001")).result(10)
    merged = season.counts()
    later = {name: one for name, one in CATALOGUE.items() if name != "T0002"}
    undo = Intent(Undo(seq=1), "ada", 1, {}, later, frozenset({"T0002"}))
    with pytest.raises(SongError) as error:
        season.opened.store.decide(undo).result(10)
    assert error.value.reason == "DECISION_LEARNED"
    assert season.counts() == merged
    season.decide(Undo(seq=1)).result(10)
    assert season.counts() == BEFORE


def test_of_two_people_with_one_etag_the_second_is_refused(season: Season) -> None:
    """What one decides changes the etag that both had, so the other's decision is refused, in one transaction as in two."""
    etag = season.opened.queries.view.etag("T0001")
    first = season.decide(Name(type_id="T0001", name="long"), T0001=etag)
    second = season.decide(Name(type_id="T0001", name="soft"), T0001=etag)
    assert first.result(10) is not None
    with pytest.raises(SongError) as error:
        second.result(10)
    assert error.value.reason == "ETAG_MISMATCH"
    assert [one.action for one in season.opened.queries.decisions()] == [Name(type_id="T0001", name="long")]


def test_what_is_so_already_is_not_decided_again(season: Season) -> None:
    """A name that the type has, and a kind that it is of, add nothing to the history."""
    season.decide(Name(type_id="T0001", name="long")).result(10)
    same: list[Action] = [Name(type_id="T0001", name="long"), Mark(kind="noise", type_id="T0009")]
    assert [season.decide(action).result(10) for action in same] == [None, None]
    assert len(season.opened.queries.decisions()) == 1


def test_two_servers_decide_one_after_the_other(tmp_path: Path, postgres: PostgresServer) -> None:
    """Decisions of servers on one database have one order, and each knows those of the other before its own."""
    url = postgres.new_database()
    with Opened(tmp_path / "a", database_url=url) as a, Opened(tmp_path / "b", database_url=url) as b:
        seasons = [Season(side, {}) for side in (a, b)]
        names = [Name(type_id=f"T000{n % 4 + 1}", name=f"name {n}") for n in range(20)]
        futures = [seasons[n % 2].decide(action) for n, action in enumerate(names)]
        assert sorted(future.result(10).seq for future in futures) == [*range(1, 21)]  # type: ignore[union-attr]
        seasons[0].decide(merge("T0001", "T0002")).result(10)
        with pytest.raises(SongError, match="merged into T0002"):
            seasons[1].decide(merge("T0001", "T0003")).result(10)
        assert a.queries.decisions() == b.queries.decisions()


def vectors(songs: Sequence[StoredSong], *, towards: int) -> dict[str, bytes]:
    """Return vectors of length 1 that point one of two ways, each a little apart."""
    made = {}
    for number, one in enumerate(songs):
        vector = np.full(4, 0.02 * number, np.float32)
        vector[towards] = 1.0
        made[one.uid] = (vector / np.linalg.norm(vector)).astype("<f4").tobytes()
    return made


def test_new_songs_go_where_people_parted_those_that_are_like_them(
    opened: Opened, tmp_path: Path, database_url: str | None
) -> None:
    """What the model names as before goes with the nearest of the parted songs, in a later transaction and in the same."""
    record = opened.store.open_session(opening()).result(10)
    here, there = ([song(record, start + second) for second in range(4)] for start in (0, 10))
    shown = {**vectors(here, towards=0), **vectors(there, towards=1)}
    opened.store.commit(replace(commit(record, 1, *here, *there), embeddings=shown)).result(10)
    season = Season(opened, {})
    season.split("T0001", 10, 11, 12, 13)
    new = [song(record, second) for second in (20, 21, 22, 23)]
    found = {**vectors(new[:1], towards=0), **vectors(new[1:2], towards=1), **vectors(new[2:3], towards=1)}
    new[2] = replace(new[2], bundle="another")
    stored = opened.store.commit(replace(commit(record, 2, *new), embeddings=found)).result(10)
    assert [one.placed_in for one in stored] == [None, "P0001", None, None]  # the last has no vector
    assert opened.queries.totals()[0].songs == {"T0001": 7, "P0001": 5}

    undone = season.decide(Undo(seq=1))
    after = song(record, 30)
    late = opened.store.commit(replace(commit(record, 3, after), embeddings=vectors([after], towards=1)))
    assert undone.result(10) is not None
    assert [one.placed_in for one in late.result(10)] == [None]
    assert opened.queries.totals()[0].songs == {"T0001": 13}
    assert check_store(tmp_path / "data", database_url).problems == []
