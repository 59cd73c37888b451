"""What follows from what was done with bundles, what stands in their way, and how two of them compare: without a server."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest

from bundles import GATE, stream_config
from songcore.assign import Assignment
from songcore.lineage import TypeChange
from songcore.manifest import EncoderInfo, Manifest
from songcore.novelty import Novelty, NoveltyConfig
from songserve.bundles.gate import findings
from songserve.bundles.history import BundleEvent, EventKind, History
from songserve.bundles.shadow import ShadowTally

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from swaps import compared, lags


def history(*events: tuple[EventKind, str] | tuple[EventKind, str, dict[str, Any]]) -> History:
    """Return the history of events: kind, bundle, and perhaps detail."""
    rows = [
        BundleEvent("shelf", 1000 + seq, event[0], event[1], detail=event[2] if len(event) > 2 else {}, seq=seq)
        for seq, event in enumerate(events, 1)
    ]
    return History(rows)


def test_rollbacks_go_back_step_by_step() -> None:
    """Each takes the last bundle away; what was rolled back from is retired, and an activation goes on from there."""
    done: list[tuple[EventKind, str]] = [("started", "a"), ("activated", "b"), ("activated", "c"), ("rolled_back", "b")]
    found = history(*done)
    assert (found.active, found.before, found.active_since_ms) == ("b", "a", 1004)
    assert [found.state(digest) for digest in "abcd"] == ["retired", "active", "retired", "staged"]
    assert found.was_served("c")
    assert not found.was_active("c")
    found.add(BundleEvent("shelf", 2000, "rolled_back", "a", seq=5))
    assert (found.active, found.before) == ("a", "")
    found.add(BundleEvent("shelf", 3000, "activated", "c", seq=6))
    assert (found.active, found.before) == ("c", "a")


def test_a_start_with_the_same_bundle_changes_nothing() -> None:
    """What was activated stays active; a start with another bundle is a decision like any other."""
    assert history(("started", "a"), ("activated", "b"), ("started", "a")).active == "a"
    found = history(("started", "a"), ("activated", "b"))
    assert (found.active, found.started) == ("b", "a")
    assert (history().active, history().started, history().before) == ("", "", "")


def test_states_follow_the_newest_event() -> None:
    """Looked at, found wanting, being looked at, held by somebody; a comparison says nothing of a bundle."""
    wrong = {"findings": [{"reason": "GATE_FAILED", "message": "m", "acceptable": True}]}
    found = history(("started", "a"), ("validated", "b"), ("validated", "c", wrong), ("failed", "d"), ("shadowed", "b"))
    assert [found.state(digest) for digest in "abcde"] == ["active", "ready", "failed", "failed", "staged"]
    assert found.findings("c") == wrong["findings"]
    assert found.state("e", validating=True) == "validating"
    assert found.state("b", draining=True) == "draining"
    assert found.state("a", validating=True, draining=True) == "active"


def test_an_etag_changes_with_the_bundle_and_with_the_active_one() -> None:
    """It stays when something is done with another bundle that leaves the active one alone."""
    found = history(("started", "a"), ("validated", "b"))
    first = found.etag("b")
    found.add(BundleEvent("shelf", 0, "validated", "c", seq=3))
    assert found.etag("b") == first
    found.add(BundleEvent("shelf", 0, "validated", "b", seq=4))
    second = found.etag("b")
    found.add(BundleEvent("shelf", 0, "activated", "c", seq=5))
    assert len({first, second, found.etag("b")}) == 3


def manifest(digest: str, parent: str | None = None, **fields: Any) -> Manifest:
    """Return the manifest of a bundle."""
    config = stream_config()
    values: dict[str, Any] = {
        "name": "test",
        "created_by": "test",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "parent_digest": parent,
        "frontend": config.frontend,
        "segmenter": config.segmenter,
        "features": config.features,
        "encoder": EncoderInfo(architecture="none", n_parameters=0, dimension=1, trained_on="nothing"),
        "novelty": NoveltyConfig(),
        "gate": GATE,
        "sha256": {},
        "digest": digest,
    }
    return Manifest(**{**values, **fields})


FIRST = manifest("first")
CHILD = manifest("child", "first")
GRANDCHILD = manifest("grandchild", "child")
SIBLING = manifest("sibling", "first")


def reasons(candidate: Manifest, active: Manifest, *, trusted: bool = False) -> list[str]:
    """Return what stands in a bundle's way where the first four are there, and one was there once."""
    family = {one.digest: one for one in (FIRST, CHILD, GRANDCHILD, SIBLING, candidate)}
    found = findings(candidate, active, known={*family, "once"}, family=family, trusted=trusted)
    return [finding.reason for finding in found]


def test_only_one_line_of_bundles_may_follow_another() -> None:
    """Descendants and ancestors of the active bundle share its ids; siblings, strangers and orphans may not."""
    assert reasons(CHILD, FIRST) == reasons(GRANDCHILD, FIRST) == reasons(FIRST, GRANDCHILD) == []
    assert reasons(SIBLING, CHILD) == ["PARENT_NOT_ACTIVE"]
    assert reasons(manifest("x", "once"), FIRST) == ["PARENT_NOT_ACTIVE"]
    assert reasons(manifest("x", "never"), FIRST) == ["PARENT_UNKNOWN"]
    assert reasons(manifest("x"), FIRST) == ["PARENT_UNKNOWN"]


def test_the_gate_of_a_candidate_is_looked_at_once() -> None:
    """A missing or failed check of those that must be there is found; a bundle that served was looked at then."""
    failed = (GATE[0].model_copy(update={"passed": False, "value": 0.2, "bound": "at least 0.9"}), *GATE[2:])
    weak = manifest("weak", "first", gate=failed)
    assert reasons(weak, FIRST) == ["GATE_MISSING", "GATE_FAILED"]
    assert reasons(weak, FIRST, trusted=True) == []
    ears = FIRST.segmenter.model_copy(update={"post_roll_s": 0.5})
    assert reasons(manifest("ears", "first", segmenter=ears), FIRST) == ["FRONTEND_DIFFERS"]


def name(type_id: str, novelty: str = "known", p_value: float = 0.5) -> Assignment:
    """Return what a song was named."""
    assert novelty in get_args(Novelty)
    return Assignment(type_id, "song", 0.9, 0.1, p_value, cast("Novelty", novelty))


def test_a_comparison_follows_the_lineage() -> None:
    """A type that was split, merged or retired is found again through any number of steps; others are other types."""
    lineage = [
        TypeChange(id="T0010", change="split", others=("T0001",), since="a"),
        TypeChange(id="T0002", change="merged", others=("T0003",), since="a"),
        TypeChange(id="T0003", change="retired", others=("T0002",), since="a"),
        TypeChange(id="T0011", change="split", others=("T0010",), since="b"),
    ]
    tally = ShadowTally(lineage)
    pairs = [("T0001", "T0001"), ("T0001", "T0011"), ("T0003", "T0002"), ("T0011", "T0001"), ("T0001", "T0002")]
    outcomes = [tally.count(name(active), name(candidate)) for active, candidate in pairs]
    assert outcomes == ["same", "by_lineage", "by_lineage", "by_lineage", "other"]
    assert tally.count(name("T0001", "novel"), name("T0001")) == "novel"
    assert (tally.n_novel_active, tally.n_novel_candidate, tally.n_novel_both) == (1, 0, 0)
    assert tally.pairs == {("T0001", "T0002"): 1}
    assert tally.n_songs == 6


def test_a_comparison_measures_how_far_p_values_are_apart() -> None:
    """Equal ones are at 0; ones that all lie lower are at 1; what was left out counts for nothing."""
    equal, apart = ShadowTally(), ShadowTally()
    for step in range(100):
        equal.count(name("T0001", p_value=step / 100), name("T0001", p_value=step / 100))
        apart.count(name("T0001", p_value=0.9), name("T0001", p_value=0.1))
    apart.leave_out(50)
    assert (equal.p_value_drift, equal.p_value_shift, ShadowTally().p_value_drift) == (0, 0, 0)
    assert (apart.p_value_drift, apart.n_songs) == (1, 100)
    assert apart.p_value_shift == pytest.approx(-0.8)


def test_the_bench_counts_what_it_says() -> None:
    """Songs that nobody found are lost, ones that overlap in a session doubled; lags are the borders of their buckets."""

    def row(number: int, onset_s: float, offset_s: float) -> Any:
        from serve_load import session_name

        return SimpleNamespace(session=session_name(number), onset_s=onset_s, offset_s=offset_s)

    stored = [row(0, 1.05, 2.0), row(0, 1.9, 3.0), row(1, 1.0, 1.2)]
    found = compared([{(1000, 2000)}, {(1000, 2000)}], 1000, stored)
    assert found == {"expected_songs": 2, "lost_songs": 1, "doubled_songs": 1}
    page = "# TYPE songstream_event_loop_lag_seconds histogram\n" + "".join(
        f'songstream_event_loop_lag_seconds_bucket{{le="{border}"}} {n}\n'
        for border, n in (("0.01", 98), ("0.05", 99), ("0.1", 100), ("+Inf", 100))
    )
    assert lags(page) == {"loop_lag_p99_s": 0.05, "loop_lag_max_s": 0.1}
