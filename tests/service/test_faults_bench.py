"""The bench of faults: seeds find nothing, a server that breaks the rule of acks is found out, and so is each kind of loss."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "bench"))

from faults_account import Books, Kept, Place  # noqa: E402
from faults_plan import KINDS, draw  # noqa: E402
from faults_programs import why_no_disk  # noqa: E402
from faults_reference import Tables, Verdict, compare  # noqa: E402

from songstation.commands.station_run import STATE_FILE  # noqa: E402


def run_bench(*options: str, status: int = 0) -> tuple[dict[str, Any], str]:
    """Return the JSON line and what was said besides."""
    command = [sys.executable, str(ROOT / "bench" / "faults.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == status, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result, done.stderr


def test_seeds_of_faults_change_no_row() -> None:
    """Two seeds of kills, resets and damage: every row is that of the fault-free run, and the books balance."""
    kinds = "kill_server,kill_station,torn_record,reset,flipped_record,lost_acks"
    result, said = run_bench("--seeds", "2", "--kinds", kinds)
    assert (result["lost"], result["duplicated"], result["unexpected"]) == (0, 0, 0), said
    assert result["rows_equal_fault_free_run"]
    assert result["conservation_holds"], said
    assert sum(result["faults"].values()) >= 4
    assert result["songs"] >= 14
    assert result["checks"] >= 10


def test_acks_before_the_commit_are_found_out() -> None:
    """A server that acknowledges before it commits fails the bench, which names what was acknowledged, and the seed."""
    early = ["--serve", sys.executable, str(ROOT / "tests" / "early_acks.py")]
    result, said = run_bench("--seed", "0", "--kinds", "kill_server", *early, status=1)
    assert not result["conservation_holds"]
    assert result["failed_seeds"] == [0]
    assert "acknowledged to" in said
    assert "--seed 0" in said


def test_a_station_that_forgets_what_it_loses_is_found_out(tmp_path: Path) -> None:
    """A station that is killed while its disk is full, and then says nothing of what it lost, fails the bench."""
    if why_no_disk(tmp_path):
        pytest.skip("a file system can be mounted by root alone, and not in every container")
    forgetful = ["--record", sys.executable, str(ROOT / "tests" / "forgetful_station.py")]
    result, said = run_bench("--seed", "9", "--kinds", "disk_full_kill", *forgetful, status=1)
    assert not result["conservation_holds"]
    assert "knows nothing of the last" in said


def song(uid: str, begin_s: float) -> dict[str, Any]:
    """Return a row of a song of a second."""
    place = {"onset": round(begin_s * 1000), "offset": round(begin_s * 1000) + 1000, "sample_rate_hz": 1000}
    times = {"start_ms": round(begin_s * 1000), "end_ms": round(begin_s * 1000) + 1000}
    return {"uid": uid, "station": "s", "session": "u", "type_id": "T0001", **place, **times}


def tables(*songs: dict[str, Any], recorded_s: float = 9.0) -> Tables:
    """Return what a store has."""
    return Tables({one["uid"]: one for one in songs}, [{"recorded_s": recorded_s}], {"u": {"capture_start_ms": 0}})


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (tables(song("a", 1), song("b", 5)), Verdict(2, 0, 0, 0, rows_equal=True)),
        (tables(song("a", 1)), Verdict(1, 1, 0, 0, rows_equal=False)),
        (tables(song("a", 1), song("b", 5), song("c", 5.5)), Verdict(2, 0, 1, 0, rows_equal=False)),
        (tables(song("a", 1), song("b", 5), song("c", 8)), Verdict(2, 0, 0, 1, rows_equal=False)),
        (tables(song("a", 1), {**song("b", 5), "type_id": "T0002"}), Verdict(2, 0, 0, 0, rows_equal=False)),
        (tables(song("a", 1), song("b", 5), recorded_s=8), Verdict(2, 0, 0, 0, rows_equal=False)),
    ],
)
def test_each_difference_has_its_name(stored: Tables, expected: Verdict) -> None:
    """Songs gone, doubled, made up or of another type, and seconds that do not add up, are each told apart."""
    assert compare(tables(song("a", 1), song("b", 5)), stored, 0) == expected


def test_what_is_lost_is_counted_up_to_where_it_matters() -> None:
    """Of a gap that begins before a sample and ends behind it, the part before counts."""
    kept = Kept("u", "", 1000, 5000, {Place(1000, 2000): "SPOOL_CORRUPT", Place(3000, 4000): "SPOOL_FULL"})
    assert [kept.lost_before(sample) for sample in (500, 1500, 2500, 3001, 9000)] == [0, 500, 1000, 1001, 2000]


def test_sound_that_is_gone_from_the_spool_is_noticed() -> None:
    """Files that follow one another hold all up to the end; where one is missing, all before it is gone."""
    kept = Kept("u", "", 1000, 900)
    for held, gone in (
        ([Place(0, 300), Place(300, 900)], 0),
        ([Place(300, 900)], 300),
        ([Place(0, 300), Place(600, 900)], 600),
        ([Place(0, 300)], 900),
        ([], 900),
    ):
        kept.held = held
        assert kept.gone_before() == gone


def test_what_a_full_disk_withholds_is_reckoned_over_all_sessions(tmp_path: Path) -> None:
    """The station counts all sessions whose files it has; what is more than these hold waits to be declared."""
    books = Books(tmp_path, tmp_path)
    assert books.n_withheld() == 0
    books.sessions = {
        "deleted": Kept("deleted", "", 1000, end=700),
        "whole": Kept("whole", "", 1000, end=500, held=[Place(0, 500)]),
        "present": Kept("present", "", 1000, end=300, held=[Place(0, 300)]),
    }
    for captured, withheld in ((800, 0), (950, 150)):
        (tmp_path / STATE_FILE).write_text(json.dumps({"session": "present", "captured_samples": captured}))
        assert books.n_withheld() == withheld
    (tmp_path / STATE_FILE).write_text(json.dumps({"session": "", "captured_samples": 800}))
    assert books.n_withheld() == 0


def test_a_seed_draws_the_same_and_all_kinds_get_their_turn() -> None:
    """Plans are a function of the seed, and as many seeds in a row as there are kinds have every kind."""
    plans = [draw(seed, list(KINDS)) for seed in range(len(KINDS))]
    assert plans == [draw(seed, list(KINDS)) for seed in range(len(KINDS))]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(KINDS)


def test_a_dead_connection_is_replaced() -> None:
    """A connection that swallows everything and never ends is left for another, and nothing is lost by it."""
    command = [sys.executable, str(ROOT / "bench" / "black_hole.py"), "--keepalive-s", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["lost_s"] == 0
    assert result["rss_growth_mb"] < 20
