"""The bench of novelty: every type is withheld once, and scores are as counted by hand."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from novelty import Judged, folds_of, scores, summary


def judged(
    label: str, p_value: float, *, withheld: bool = False, snr_db: float = 12.0, quality: str = "good"
) -> Judged:
    """Return a song with the state that its p-value has at the usual levels."""
    novelty = "novel" if p_value <= 0.05 else "uncertain" if p_value <= 0.1 else "known"
    return Judged(label, snr_db, withheld, p_value, novelty, quality)


def test_folds_withhold_every_type_once() -> None:
    """Each type is in one fold, and common types are not all in the same."""
    folds = folds_of(["a"] * 9 + ["b"] * 5 + ["c"] * 4 + ["d"] * 2 + ["e"], 2)
    assert folds == [{"a", "c", "e"}, {"b", "d"}]


def test_scores_count_states_and_order() -> None:
    """Shares are of known or of withheld songs; the AUROC is the share of pairs in the right order; nothing gives None."""
    songs = [judged("a", p) for p in (0.01, 0.08, 0.5, 0.9)]
    songs += [judged("x", p, withheld=True) for p in (0.01, 0.02, 0.2)]
    found = scores(songs)
    assert (found["false_novel"], found["false_uncertain"]) == (0.25, 0.25)
    assert found["withheld_novel"] == pytest.approx(0.6667, abs=1e-4)
    assert found["withheld_uncertain"] == 0
    # Of twelve pairs two are wrong (0.02 and 0.2 after 0.01), one more (0.2 after 0.08), and one is even.
    assert found["auroc"] == pytest.approx((12 - 3 - 0.5) / 12, abs=1e-4)
    assert scores(songs[:4])["auroc"] is None


def test_a_summary_looks_at_clear_songs_for_the_order_and_at_all_for_the_promise() -> None:
    """Songs in noise count for false alarms and not for the AUROC; folds are judged each by itself."""
    one = [judged("a", 0.5), judged("x", 0.02, withheld=True), judged("a", 0.01, snr_db=3, quality="faint")]
    two = [judged("x", 0.03), judged("a", 0.01, withheld=True)]
    found = summary([one, two])
    assert (found["auroc"], found["withheld_novel"]) == (1.0, 1.0)
    assert found["false_novel"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["good"]["false_novel"] == 0.5
    assert found["by_snr"]["from 0 dB"]["n_known"] == 1
    assert [fold["n_withheld"] for fold in found["folds"]] == [1, 1]
