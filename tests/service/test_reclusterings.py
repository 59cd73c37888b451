"""Reclusterings through the API: started, asked for, listed, cancelled; the server goes on as if nothing were."""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import grpc
import pytest

from bundles import make_test_bundle, soundscape
from serving import ServerThread, failure, session_name, setup, stream_all
from songserve.reclusterings import RECLUSTERINGS_FOLDER
from songserve.v1 import recluster_pb2, recluster_pb2_grpc

pytestmark = pytest.mark.timeout(300)
RUNNING, SUCCEEDED = recluster_pb2.RECLUSTER_STATE_RUNNING, recluster_pb2.RECLUSTER_STATE_SUCCEEDED
CANCELLED, INTERRUPTED = recluster_pb2.RECLUSTER_STATE_CANCELLED, recluster_pb2.RECLUSTER_STATE_INTERRUPTED


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerThread]:
    """Return a server whose bundle a process of its own can read."""
    bundle = make_test_bundle(tmp_path / "bundle")
    with ServerThread(bundle, data_dir=tmp_path / "data", bundle=tmp_path / "bundle") as running:
        yield running


def stub(server: ServerThread) -> Any:
    """Return the stub of ReclusterService."""
    return recluster_pb2_grpc.ReclusterServiceStub(server.channel)


def start(server: ServerThread, name: str = "") -> Any:
    """Start a reclustering."""
    return stub(server).StartReclustering(recluster_pb2.StartReclusteringRequest(reclustering_id=name))


def get(server: ServerThread, name: str) -> Any:
    """Return a reclustering."""
    return stub(server).GetReclustering(recluster_pb2.GetReclusteringRequest(name=name))


def ended(server: ServerThread, name: str) -> Any:
    """Ask for a reclustering until it is done."""
    while not (found := get(server, name)).done:
        sleep(0.2)
    return found


def refusal(call: Any, request: Any) -> tuple[str, str]:
    """Return code and reason of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call(request)
    return failure(failed.value)[:2]


def test_a_reclustering_from_start_to_end(server: ServerThread) -> None:
    """It runs beside the server, alone, says how it ended, and is the same when its name is started again."""
    stream_all(server.channel, soundscape([0, 1], 31)[0], [24_000], setup(session_name("north", 1)))
    first = start(server, "night")
    assert (first.name, first.state, first.done) == ("reclusterings/night", RUNNING, False)
    assert start(server, "night").state == RUNNING
    other = recluster_pb2.StartReclusteringRequest(reclustering_id="other")
    assert refusal(stub(server).StartReclustering, other) == ("FAILED_PRECONDITION", "RECLUSTER_BUSY")
    last = ended(server, "reclusterings/night")
    assert (last.state, last.error_reason) == (SUCCEEDED, "")
    assert last.outcome in {"pool_empty", "pool_too_small"}
    assert last.model_bundle.startswith("modelBundles/")
    assert last.facts["n_songs"] == 2
    assert start(server, "night") == last
    listed = stub(server).ListReclusterings(recluster_pb2.ListReclusteringsRequest()).reclusterings
    assert list(listed) == [last]
    cancel = recluster_pb2.CancelReclusteringRequest(name=last.name)
    assert stub(server).CancelReclustering(cancel) == last


def test_a_cancelled_one_goes_on(server: ServerThread) -> None:
    """Told to stop it stops, and ends well when it is started again."""
    name = start(server, "night").name
    stub(server).CancelReclustering(recluster_pb2.CancelReclusteringRequest(name=name))
    # Before it has said anything there is nothing that it could call cancelled.
    assert ended(server, name).state in {CANCELLED, INTERRUPTED}
    assert start(server, "night").state == RUNNING
    assert ended(server, name).state == SUCCEEDED


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        ("GetReclustering", recluster_pb2.GetReclusteringRequest(name="night"), ("INVALID_ARGUMENT", "NAME_INVALID")),
        (
            "GetReclustering",
            recluster_pb2.GetReclusteringRequest(name="reclusterings/../x"),
            ("INVALID_ARGUMENT", "NAME_INVALID"),
        ),
        (
            "CancelReclustering",
            recluster_pb2.CancelReclusteringRequest(name="reclusterings/x"),
            ("NOT_FOUND", "RECLUSTERING_UNKNOWN"),
        ),
        (
            "StartReclustering",
            recluster_pb2.StartReclusteringRequest(reclustering_id="A/B"),
            ("INVALID_ARGUMENT", "NAME_INVALID"),
        ),
        (
            "StartReclustering",
            recluster_pb2.StartReclusteringRequest(mode=9),  # type: ignore[arg-type]  # a newer client's
            ("INVALID_ARGUMENT", "MODE_INVALID"),
        ),
    ],
)
def test_bad_requests(shared_server: ServerThread, method: str, request_: Any, expected: tuple[str, str]) -> None:
    """What makes no sense is refused, and no path is made of what a caller sends."""
    assert refusal(getattr(stub(shared_server), method), request_) == expected


def test_one_that_was_started_elsewhere(server: ServerThread) -> None:
    """What a timer started is shown and left to it; one whose process is gone is called interrupted."""
    folder = server.settings.data_dir / RECLUSTERINGS_FOLDER / "timer"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"mode": "quick", "bundle": "abc", "created_at": "2026-06-01T02:30:00Z"}')
    (folder / "state.json").write_text(
        '{"state": "RUNNING", "stage": "clustering", "updated_at": "2026-06-01T02:31:00Z"}'
    )
    found = get(server, "reclusterings/timer")
    assert (found.state, found.done, found.stage) == (INTERRUPTED, True, "clustering")
    cancel = recluster_pb2.CancelReclusteringRequest(name="reclusterings/timer")
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert get(server, "reclusterings/timer").state == RUNNING
        expected = ("FAILED_PRECONDITION", "RECLUSTERING_ELSEWHERE")
        assert refusal(stub(server).CancelReclustering, cancel) == expected
    assert stub(server).CancelReclustering(cancel).state == INTERRUPTED
