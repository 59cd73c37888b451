"""The scores of bench/season.py, on a season of a few songs counted by hand."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

from season_field import FieldPlan
from season_scores import HeardSong, Promotion, Songs, discovery, frequency_distance, purity

FIRST: Any = SimpleNamespace(type_by_id={"T0001": None})


def song(day: int, label: str) -> HeardSong:
    """Return a song of a day and a label."""
    return HeardSong(day, "river", ("recording", day, day + 1), label, np.zeros((1, 1), np.float16))


def test_new_types_appear_late_and_leave_time() -> None:
    """Each new type first appears after the days without, and before the last third of the season is over."""
    plan = FieldPlan()
    assert len(plan.appears) == 20
    assert min(plan.appears.values()) == plan.new_after + 1
    assert max(plan.appears.values()) < plan.n_days - 3 * 3


def test_discovery_counts_nights_from_the_fifteenth_song() -> None:
    """A night follows its day: found in the third is in time, in the fourth too late; no third night yet, not counted."""
    plan = FieldPlan(n_days=6, n_types=4, n_new=2, new_after=1)
    labels = [f"T{index:03d}" for index in plan.appears]
    sung = {day: Counter({labels[0]: 8 if day in {2, 3} else 0}) for day in range(1, 7)}  # the fifteenth on day 3
    for day, expected in ((5, 1), (6, 0)):
        found = [Promotion(day, "quick", 1, 1, 1.0, {labels[0]: "T0009"})]
        in_time, n, every = discovery(found, Songs(sung=sung), plan)
        assert (in_time, n, every) == (expected, 1, {labels[0]: "T0009"})
    late = {day: Counter({labels[0]: 15 if day == 5 else 0}) for day in range(1, 7)}
    assert discovery([], Songs(sung=late), plan)[:2] == (0, 0)


def test_purity_is_of_new_types_alone() -> None:
    """Old types and songs called novel do not count; a song that nobody sang is an impurity."""
    names = [("T0001", True), ("T0009", True), ("T0009", True), ("T0009", True), ("T0009", False)]
    songs = [song(1, label) for label in ("T003", "T004", "T004", "", "T005")]
    assert purity(names, songs, FIRST) == pytest.approx(2 / 3)


def test_frequencies_stand_for_what_their_songs_are() -> None:
    """Right names are no distance; a type that is not known yet counts as unknown or not at all; wrong names count."""
    songs = [song(1, "T001"), song(1, "T001"), song(1, "T002"), song(1, "T009")]
    names = [("a", True), ("a", True), ("b", True), ("b", False)]
    sung, known = {1: Counter(T001=2, T002=1, T009=1)}, {1: {"T001", "T002"}}
    assert frequency_distance(names, songs, sung, known) == 0
    assert frequency_distance(names, songs, sung, known, with_unknown=True) == 0
    # One song called novel is one less of its type, and with the unknown one, one more of that.
    novel = [("a", True), ("a", False), ("b", True), ("b", False)]
    assert frequency_distance(novel, songs, sung, known) == pytest.approx(1 / 6)
    assert frequency_distance(novel, songs, sung, known, with_unknown=True) == pytest.approx(1 / 4)
    # All are called a: of T002 and the unknown one nothing is told.
    assert frequency_distance([("a", True)] * 4, songs, sung, known, with_unknown=True) == pytest.approx(0.5)
    assert frequency_distance([("a", True)] * 4, songs, sung, known) == pytest.approx(1 / 3)
