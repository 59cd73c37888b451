"""The bench of guesses counts what it says it counts."""

import sys
from collections import defaultdict
from pathlib import Path

import pytest
import soundfile

from bundles import soundscape
from songcore.annotations import Annotation
from songcore.assign import Assignment
from songcore.bundle import Bundle
from songcore.stream import Song

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from early import SHARES, Heard, label_of, scores, songs_in

RATE = 24_000


def named(type_id: str, *, novel: bool = False, score: float = 0.1) -> Assignment:
    """Return an assignment."""
    return Assignment(type_id, "song", 0.9, score, 0.5, novelty="novel" if novel else "known")


def test_scores_count_the_latest_guess_of_each_share() -> None:
    """Of two known songs and a strange one, answered, agreement, accuracy and alarms are as counted by hand."""
    a = Heard("1", "x", False, named("A"), ((0.25, named("B", novel=True, score=0.9)), (0.55, named("A"))))
    b = Heard("2", "x", False, named("A"), ((0.65, named("A", novel=True, score=0.3)),))
    c = Heard("2", "y", True, named("B", novel=True, score=0.5), ((0.35, named("B", score=0.2)),))
    found = scores([a, b, c])
    at = {share: index for index, share in enumerate(SHARES)}
    assert found["answered"][at[0.2]] == 0
    assert found["answered"][at[0.3]] == pytest.approx(1 / 3, abs=1e-3)
    assert found["answered"][at[0.7]] == 1
    assert found["as_final"][at[0.3]] == 0
    assert found["as_final"][at[0.6]] == 1
    assert found["accuracy"][at[1.0]] == 1  # A means x, as whole songs of the other recording say
    assert found["novel_known"][at[0.5]] == 1
    assert found["novel_known"][at[0.7]] == 0.5
    assert found["novel_strange"][at[0.4]] == 0
    assert found["novel_strange"][at[1.0]] == 1
    assert found["novelty_auroc"][at[1.0]] == 1


def test_songs_and_guesses_of_a_recording_belong_together(bundle: Bundle, tmp_path: Path) -> None:
    """Each song of a soundscape is found with guesses at its onset, and labelled by what was sung there."""
    samples, truth = soundscape([0, 1, 2], 4)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    guesses: defaultdict[int, list[Song]] = defaultdict(list)
    finals = list(songs_in(bundle, tmp_path / "a.wav", guesses))
    sung = [Annotation("a.wav", begin / RATE, end / RATE, str(number)) for begin, end, number in truth]
    assert [label_of(song, sung, bundle) for song in finals] == ["0", "1", "2"]
    assert set(guesses) <= {song.onset for song in finals}
    assert guesses
