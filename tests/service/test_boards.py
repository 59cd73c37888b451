"""The boards are what their program writes, and boards and alerts name only what a live server has."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bundles import soundscape
from serving import Request, ServerThread, Stream, chunk_messages, finish_message, session_name, setup
from songserve.v1 import ingest_pb2, ingest_pb2_grpc

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROGRAM = DEPLOY / "grafana" / "boards.py"
RATE = 24_000


@dataclass(frozen=True)
class Page:
    """What is on a metrics page: the names of samples, and the labels of all of them."""

    names: set[str]
    labels: set[str]


@pytest.fixture(scope="module")
def page(shared_server: ServerThread) -> Page:
    """Return the page of a server that a station has used in every way that is counted."""
    chunks = chunk_messages(soundscape([0, 1, 2], 41)[0], [RATE])
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
    stream.send(Request(heartbeat=ingest_pb2.Heartbeat(spool_bytes=7)), *chunks, Request(gap=gap), finish)
    assert [response for response in stream if response.HasField("song")]  # to its end
    stream.half_close()
    stub: Any = ingest_pb2_grpc.IngestServiceStub(shared_server.channel)
    assert stub.GetSessionStatus(ingest_pb2.GetSessionStatusRequest(session=session_name())).finished
    with urllib.request.urlopen(shared_server.addresses.metrics) as answer:  # noqa: S310 - our own address
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return Page({sample.name for sample in samples}, {label for sample in samples for label in sample.labels})


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
def test_every_metric_and_label_that_is_asked_for_is_on_a_live_page(page: Page, questions: Any) -> None:
    """Names and labels in boards and alerts are those of a server that has been used; job and instance are Prometheus' own."""
    asked = questions()
    names = {name for expr in asked for name in re.findall(r"\b(?:songstream|grpc_server|process)_\w+", expr)}
    grouped = {
        label for expr in asked for group in re.findall(r"\bby \(([^)]*)\)", expr) for label in group.split(", ")
    }
    matched = {label for expr in asked for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expr)}
    assert len(names) > 5
    assert names - page.names == set()
    assert (grouped | matched) - page.labels - {"job", "instance"} == set()


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
