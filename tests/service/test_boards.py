"""Boards are what their program writes; they and the alerts name only what live pages have; what was planned is there."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bundles import N_TYPES, soundscape
from serving import START_MS, Request, ServerThread, Stream, chunk_messages, finish_message, session_name, setup
from songserve.v1 import ingest_pb2, ingest_pb2_grpc

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROGRAM = DEPLOY / "grafana" / "boards.py"
RATE = 24_000


@dataclass(frozen=True)
class Page:
    """What is on a metrics page."""

    labels_of: dict[str, set[str]]
    """By the names of samples."""

    @property
    def names(self) -> set[str]:
        """Of all samples."""
        return set(self.labels_of)

    @property
    def labels(self) -> set[str]:
        """Of all samples."""
        return set().union(*self.labels_of.values())


@pytest.fixture(scope="module")
def page(shared_server: ServerThread) -> Page:
    """Return the page of a server that a station has used in every way that is counted."""
    chunks = chunk_messages(soundscape([0, 1, N_TYPES - 1], 41)[0], [RATE])
    last = chunks[-1]
    gap = ingest_pb2.Gap(
        sequence_number=last.sequence_number + 1,
        start_sample=last.start_sample + last.sample_count,
        sample_count=RATE,
        reason=ingest_pb2.Gap.REASON_DEVICE_OVERRUN,
    )
    finish = finish_message(chunks)
    finish.finish.last_sequence_number += 1
    finish.finish.total_samples += RATE
    stream = Stream(shared_server.channel, setup())
    beat = ingest_pb2.Heartbeat(spool_bytes=7, spool_room_bytes=9)
    for time in (beat.create_time, beat.spool_oldest_time):
        time.FromMilliseconds(START_MS)
    chunks[0].clipped_sample_count = 1
    stream.send(Request(heartbeat=beat), *chunks, Request(gap=gap), finish)
    assert [response for response in stream if response.HasField("song")]  # to its end
    stream.half_close()
    stub: Any = ingest_pb2_grpc.IngestServiceStub(shared_server.channel)
    assert stub.GetSessionStatus(ingest_pb2.GetSessionStatusRequest(session=session_name())).finished
    return read_page(shared_server.addresses.metrics)


@pytest.fixture(scope="module")
def station_page(shared_server: ServerThread, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Return the page of a station that hears something and is connected."""
    folder = tmp_path_factory.mktemp("station")
    soundfile.write(folder / "long.wav", np.zeros(60 * RATE), RATE)
    command = [str(Path(sys.executable).with_name("songstream")), "station", "run", "--station", "board"]
    command += ["--server", shared_server.addresses.grpc, "--play", str(folder / "long.wav")]
    with subprocess.Popen(
        [*command, "--spool", str(folder), "--metrics-port", "0"], stderr=subprocess.DEVNULL
    ) as running:
        try:
            state: dict[str, Any] = {}
            while not (state.get("is_connected") and state["captured_samples"]):
                assert running.poll() is None
                sleep(0.1)
                with suppress(FileNotFoundError):
                    state = json.loads((folder / "state.json").read_text())
            return read_page(f"http://{state['metrics']}/metrics")
        finally:
            running.kill()


def read_page(address: str) -> Page:
    """Return what a page has now."""
    labels_of: defaultdict[str, set[str]] = defaultdict(set)
    with urllib.request.urlopen(address) as answer:  # noqa: S310 - our own address
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                labels_of[sample.name] |= set(sample.labels)
    return Page(dict(labels_of))


def boards() -> list[Any]:
    """Return the committed boards."""
    return [json.loads(path.read_text()) for path in sorted(PROGRAM.parent.glob("dashboards/*.json"))]


def board_questions() -> list[str]:
    """Return all PromQL of the boards."""
    return [target["expr"] for board in boards() for panel in board["panels"] for target in panel["targets"]]


def alert_questions() -> list[str]:
    """Return all PromQL of the alert rules."""
    document = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule["expr"] for group in document["groups"] for rule in group["rules"]]


def test_committed_boards_are_what_the_program_writes() -> None:
    """The program's own check finds no difference."""
    checked = subprocess.run([sys.executable, PROGRAM, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_check_notices_boards_that_differ(tmp_path: Path) -> None:
    """An altered, a missing and a foreign board fail the check, by name; without --check they are put right."""
    folder = tmp_path / "grafana"
    shutil.copytree(PROGRAM.parent, folder)
    program = str(folder / PROGRAM.name)
    (folder / "dashboards" / "songstream-field.json").write_text("{}\n")
    (folder / "dashboards" / "songstream-server.json").unlink()
    (folder / "dashboards" / "foreign.json").write_text("{}\n")
    checked = subprocess.run([sys.executable, program, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "foreign.json, songstream-field.json, songstream-server.json" in checked.stderr
    subprocess.run([sys.executable, program], check=True)
    written = {path.name: path.read_bytes() for path in folder.glob("dashboards/*")}
    assert written == {path.name: path.read_bytes() for path in PROGRAM.parent.glob("dashboards/*")}


def test_panels_lie_beside_each_other_and_have_numbers_of_their_own() -> None:
    """No panel leaves the grid or covers another, and boards and panels are told apart by their ids."""
    assert len({board["uid"] for board in boards()}) == 4
    for board in boards():
        panels = board["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for at in (panel["gridPos"] for panel in panels):
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert max(x for x, _ in cells) < 24
            assert not cells & taken
            taken |= cells


@pytest.mark.parametrize("questions", [board_questions, alert_questions])
def test_every_metric_and_label_that_is_asked_for_is_on_a_live_page(
    page: Page, station_page: Page, questions: Any
) -> None:
    """Names and labels are those of a server that has been used or of a station; job and instance are Prometheus' own."""
    asked = questions()
    names = {name for expr in asked for name in re.findall(r"\b(?:songstream|grpc_server|process)_\w+", expr)}
    grouped = {
        label for expr in asked for group in re.findall(r"\bby \(([^)]*)\)", expr) for label in group.split(", ")
    }
    matched = {label for expr in asked for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expr)}
    of_stations = {name for name in names if name.startswith("songstream_field_")}
    assert len(names - of_stations) > 5
    assert len(of_stations) > 2
    assert names - of_stations - page.names == set()
    assert of_stations - station_page.names == set()
    assert (grouped | matched) - page.labels - station_page.labels - {"job", "instance"} == set()


PLANNED = (
    "ingest_streams{lane}",
    "ingest_chunks_total{outcome}",
    "ingest_bytes_total",
    "ingest_audio_seconds_total{lane}",
    "ingest_declared_gap_seconds_total{reason}",
    "ingest_sequence_errors_total{reason}",
    "ingest_ack_latency_seconds",
    "ingest_commit_lag_seconds",
    "ingest_in_flight_bytes",
    "ingest_credit_stalls_total",
    "ingest_stream_closes_total{reason}",
    "ingest_writer_fences_total",
    "station_last_seen_timestamp_seconds{station}",
    "station_committed_timestamp_seconds{station}",
    "station_spool_bytes{station}",
    "station_spool_oldest_timestamp_seconds{station}",
    "station_clock_offset_seconds{station}",
    "station_clipped_samples_total{station}",
    "station_info{version,sample_rate_hz}",
    "inference_requests_total{outcome}",
    "inference_executions_total",
    "inference_batch_size",
    "inference_queue_seconds",
    "inference_compute_seconds",
    "inference_failures_total{reason}",
    "songs_total{song_type}",
    "novel_pool_size",
    "novel_pool_oldest_timestamp_seconds",
    "model_bundle_info{digest,provider}",
    "model_swaps_total{outcome}",
    "model_swap_seconds",
    "model_active_since_timestamp_seconds",
    "model_fallback_to_cpu",
    "recluster_last_success_timestamp_seconds",
    "recluster_last_run_timestamp_seconds",
    "recluster_duration_seconds",
    "recluster_songs_processed",
    "recluster_clusters_proposed",
    "event_loop_lag_seconds",
    "db_commit_seconds",
    "db_size_bytes",
    "disk_free_bytes",
    "build_info",
)
"""What the design of the service lists, without `songstream_`, and with the labels that each must have."""

CALLED_OTHERWISE = {
    "inference_pending_requests": "inference_pending_songs",  # requests differ in size
    "segment_duration_seconds": "song_duration_seconds",
    "assignment_distance": "song_similarity",  # the cosine instead of one less it
    "novel_songs_total": "songs_total",  # song_type="novel"
    "song_confirmations_total": "decisions_total",  # of every kind
}

LEFT_OUT = {
    "segments_total": "the segmenter counts nothing that is no song; songs_total and songs_forced_cut_total are its songs",
    "inference_real_time_ratio": "a question: inference_compute_seconds_sum by ingest_audio_seconds_total, on the board",
    "spool_fsync_seconds": "a station's own page has it: songstream_field_sync_seconds",
}


def test_what_was_planned_is_on_a_live_page(page: Page) -> None:
    """Every metric of the design is there with its labels, or under another name; what was left out for a reason is not."""
    histograms = {name.removesuffix("_bucket") for name in page.names if name.endswith("_bucket")}
    for planned in PLANNED:
        name, _, labels = planned.removesuffix("}").partition("{")
        assert f"songstream_{name}" in page.names | histograms, name
        assert set(filter(None, labels.split(","))) <= page.labels_of.get(f"songstream_{name}", set()), name
    for name in CALLED_OTHERWISE.values():
        assert f"songstream_{name}" in page.names | histograms, name
    for name in (*LEFT_OUT, *CALLED_OTHERWISE):
        assert f"songstream_{name}" not in page.names | histograms, f"{name} is there: say so above"
    calls = {"started_total", "handled_total", "msg_received_total", "msg_sent_total", "handling_seconds"}
    assert {f"grpc_server_{name}" for name in calls} <= page.names | histograms


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed; deploy/install-test-tools.sh installs it"
)
def test_every_question_of_the_boards_is_valid_promql(tmp_path: Path) -> None:
    """Prometheus takes each as a rule, with Grafana's interval filled in."""
    asked = [expr.replace("$__rate_interval", "1m") for expr in board_questions()]
    rules = [{"record": f"board:question:{index}", "expr": expr} for index, expr in enumerate(asked)]
    path = tmp_path / "boards.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    assert f"{len(asked)} rules found" in checked.stdout
