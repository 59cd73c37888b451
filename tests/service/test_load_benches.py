"""The benches of load count what they say they count."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from songcore.bundle import Bundle

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from serve import ROOT, Sample, latencies, tally
from serve_load import Load, Plan, session_name
from soak import by_minute, growth
from soak import plans as soak_plans


def bench(name: str, *options: str) -> dict[str, Any]:
    """Return the JSON line of a bench that ends well."""
    run = subprocess.run([sys.executable, ROOT / "bench" / name, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def row(number: int, onset: int) -> Any:
    """Return a song of a store."""
    return SimpleNamespace(session=session_name(number), onset_sample=onset, offset_sample=onset + 5)


def test_lost_and_doubled_songs_are_counted() -> None:
    """A song that is missing is lost; one that comes twice or from nowhere is doubled; others' songs do not count."""
    stored = [row(0, 10), row(0, 10), row(1, 10), row(1, 99), row(2, 7)]
    found = tally([{(10, 15), (20, 25)}, {(10, 15)}], stored)
    assert found == {"expected_songs": 3, "lost_songs": 1, "duplicated_songs": 2}


def test_acks_count_from_the_chunk_that_they_are_the_first_to_acknowledge(bundle: Bundle) -> None:
    """A sign of life that repeats a number is no delay, and the ack of two chunks counts from the second."""
    load = Load("", [], [Plan(0, 4, 0.0)], 24_000, 24_000, end_s=4.0)
    acks = [(2.1, 2, 2), (3.9, 2, 2), (4.2, 4, 4)]
    seen = {"begin": 0.0, "handed_over": [1.0, 2.0, 3.0, 4.0], "acks": acks, "songs": []}
    found = latencies(load, [seen], bundle)
    assert found["ack_p50_s"] == pytest.approx(0.15)
    assert found["ack_p99_s"] == pytest.approx(0.2, abs=0.002)
    assert found["song_latency_p99_s"] is None


def test_churn_replaces_and_breaks_streams_at_even_times() -> None:
    """One in a hundred streams is replaced each minute, as many others are broken, and the sound of all is of one length."""
    planned = soak_plans(100, 30, 1)
    assert len(planned) == 130
    assert sum(plan.break_after is not None for plan in planned) == 30
    assert sum(plan.n_chunks for plan in planned) == 100 * 30 * 60
    assert sorted(plan.begin_s // 60 for plan in planned if plan.begin_s > 1) == list(range(30))


def test_growth_is_told_from_the_minute_after_settling() -> None:
    """Minutes are medians, and what they grew by is counted from the one in which the server has settled."""
    samples = [Sample(float(second), 100 + max(0, second - 60) / 12, 20) for second in range(181)]
    rss_mb, files = by_minute(samples, settle_minutes=1, minute_s=60)
    assert rss_mb == pytest.approx([100, 102.5, 107.5], abs=0.1)
    assert growth(rss_mb, "rss_mb")["rss_change_percent"] == pytest.approx(7.5, abs=0.1)
    assert growth(files, "open_files")["open_files_change_percent"] == 0


def test_a_load_with_stalled_clients_runs(bundle_dir: Path) -> None:
    """Clients that stop reading cost the others nothing, over TLS with tokens, and the memory they take is told."""
    options = ["--streams", "3", "--stalled", "1", "--seconds", "6", "--tls", "--bundle", str(bundle_dir)]
    found = bench("serve.py", *options)
    assert (found["lost_songs"], found["duplicated_songs"], found["stalled"]) == (0, 0, 1)
    assert found["chunks_sent_stalled"] > 2
    assert "rss_per_stalled_stream_mb" in found


def test_a_soak_runs(bundle_dir: Path) -> None:
    """A stream that ends and one that resumes lose nothing, and memory, files and lag are told by the minute."""
    short = ["--minutes", "0.1", "--minute-s", "2", "--settle-minutes", "1", "--streams", "2", "--churn", "500"]
    found = bench("soak.py", *short, "--bundle", str(bundle_dir))
    assert (found["lost_songs"], found["duplicated_songs"]) == (0, 0)
    assert (found["sessions"], found["resumed"]) == (3, 1)
    assert len(found["rss_mb_by_minute"]) == len(found["open_files_by_minute"]) == 2
    assert found["event_loop_lag_p99_s"] > 0


def test_the_stages_are_timed(bundle_dir: Path) -> None:
    """Each stage of listening has a cost, and they add up."""
    found = bench("stages.py", "--streams", "2", "--seconds", "6", "--bundle", str(bundle_dir))
    stages = found["ms_per_audio_second"]
    assert set(stages) == {
        *("check", "decode", "resample", "log_mel", "segment", "checkpoint"),
        *("features", "clip", "name"),
    }
    assert sum(stages.values()) == pytest.approx(found["sum_ms_per_audio_second"], abs=0.001)
