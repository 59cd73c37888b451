"""Reclusterings through the API: started, asked for, listed, cancelled; the server goes on as if nothing were."""

import asyncio
import fcntl
import json
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import grpc
import pytest

from bundles import make_test_bundle, soundscape
from serving import ServerThread, failure, scrape, session_name, setup, stream_all
from songserve import reclusterings
from songserve.reclusterings import RECLUSTERINGS_FOLDER, Reclusterings
from songserve.settings import ServeSettings
from songserve.v1 import recluster_pb2, recluster_pb2_grpc

pytestmark = pytest.mark.timeout(300)
FACTS = {"n_songs": 9, "n_new": 2}
RUNNING, SUCCEEDED = recluster_pb2.RECLUSTER_STATE_RUNNING, recluster_pb2.RECLUSTER_STATE_SUCCEEDED
CANCELLED, INTERRUPTED = recluster_pb2.RECLUSTER_STATE_CANCELLED, recluster_pb2.RECLUSTER_STATE_INTERRUPTED
FAILED = recluster_pb2.RECLUSTER_STATE_FAILED


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


def cancel(server: ServerThread, name: str) -> Any:
    """Tell a reclustering to stop."""
    return stub(server).CancelReclustering(recluster_pb2.CancelReclusteringRequest(name=name))


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
    assert cancel(server, last.name) == last


def opened_by_reader(pipe: Path) -> int:
    """Return the other end of a pipe, as soon as somebody reads it."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody does
            sleep(0.05)


def test_a_cancelled_one_goes_on(server: ServerThread) -> None:
    """Told to stop it says so; started again it is at work again at once, can be told to stop again, and ends well."""
    stream_all(server.channel, soundscape([0, 1], 31)[0], [24_000], setup(session_name("north", 1)))
    data = server.settings.data_dir
    with closing(sqlite3.connect(data / "songs.sqlite")) as store, store:
        store.execute("DELETE FROM embeddings")  # so that features are read
    # The run waits at this song until somebody writes.
    (features, _) = data.glob("clips/*/*/*.npz")
    content = features.read_bytes()
    features.unlink()
    os.mkfifo(features)
    name = start(server, "night").name
    # A signal that comes before, where Python ignores exceptions, is noticed after this song only, which would never come.
    with os.fdopen(opened_by_reader(features), "wb"):
        assert get(server, name).stage == "snapshot"
        assert cancel(server, name).state == RUNNING
        last = ended(server, name)
    assert (last.state, last.error_reason) == (CANCELLED, "RUN_CANCELLED")

    again = start(server, "night")
    assert (again.state, again.done, again.error_reason) == (RUNNING, False, "")
    assert get(server, name).state == RUNNING
    cancel(server, name)
    # Before it has said anything there is nothing that it could call cancelled.
    while not (last := get(server, name)).done:
        with suppress(OSError):  # nobody reads
            os.close(os.open(features, os.O_WRONLY | os.O_NONBLOCK))
        sleep(0.2)
    assert last.state in {CANCELLED, INTERRUPTED}

    features.unlink()
    features.write_bytes(content)
    assert start(server, "night").state == RUNNING
    last = ended(server, name)
    assert (last.state, last.error_reason, last.facts["n_songs"]) == (SUCCEEDED, "", 2)


def test_reclusterings_are_told_to_prometheus(tmp_path: Path) -> None:
    """When the latest was ordered, and of the last that succeeded when it ended, its length, songs and new types."""
    bundle = make_test_bundle(tmp_path / "bundle")
    for night, ended_as, facts in ((1, "SUCCEEDED", {"n_songs": 7}), (2, "SUCCEEDED", FACTS), (3, "FAILED", {})):
        folder = tmp_path / "data" / RECLUSTERINGS_FOLDER / f"night-{night}"
        folder.mkdir(parents=True)
        order = {"mode": "quick", "bundle": "abc", "created_at": f"2026-06-0{night}T02:30:00Z"}
        state = {"state": ended_as, "updated_at": f"2026-06-0{night}T02:31:00Z", "facts": facts}
        (folder / "run.json").write_text(json.dumps(order))
        (folder / "state.json").write_text(json.dumps(state))
    ordered_s, ended_s = (
        datetime(2026, 6, day, 2, minute, tzinfo=UTC).timestamp() for day, minute in ((3, 30), (2, 31))
    )
    expected = {
        "last_run_timestamp_seconds": ordered_s,
        "last_success_timestamp_seconds": ended_s,
        "duration_seconds": 60.0,
        "songs_processed": 9.0,
        "clusters_proposed": 2.0,
    }
    with ServerThread(bundle, data_dir=tmp_path / "data") as running:
        found: dict[str, float] = {}
        deadline = monotonic() + 60
        while found.get("songs_processed") != 9 and monotonic() < deadline:  # looked at just after the start
            sleep(0.05)
            shown = re.findall(r"^songstream_recluster_(\w+) (\S+)$", scrape(running), re.MULTILINE)
            found = {name: float(value) for name, value in shown}
    assert found == expected


def test_one_that_cannot_be_gone_on_with(server: ServerThread) -> None:
    """Started again after it failed, it is at work; and when it does not come to a state of its own, its reason is told."""
    folder = server.settings.data_dir / RECLUSTERINGS_FOLDER / "night"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"mode": "quick", "bundle": "abc", "created_at": "2026-06-01T02:30:00Z"}')
    (folder / "state.json").write_text('{"state": "FAILED", "reason": "FAULT", "updated_at": "2026-06-01T02:31:00Z"}')
    (folder / "log.txt").write_text("songstream: told to stop [RUN_CANCELLED]\n")
    assert (get(server, "reclusterings/night").state, get(server, "reclusterings/night").error_reason) == (
        FAILED,
        "FAULT",
    )
    again = start(server, "night")
    assert (again.state, again.done, again.error_reason) == (RUNNING, False, "")
    last = ended(server, again.name)
    assert (last.state, last.error_reason) == (FAILED, "RUN_DIFFERS")


def children() -> set[int]:
    """Return the processes that this one has started."""
    found = set[int]()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread ended meanwhile
            found |= set(map(int, task.read_text().split()))
    return found


def test_a_run_yields_to_live_streams(tmp_path: Path) -> None:
    """Its process gives way to the server's, and so do those that it starts."""

    async def niceness() -> int:
        runs = Reclusterings(ServeSettings(bundle=tmp_path / "bundle", data_dir=tmp_path / "data"))
        before = children()
        await runs.start("night", "quick", datetime.now(UTC))
        (pid,) = children() - before
        own = found = os.getpriority(os.PRIO_PROCESS, 0)
        for _ in range(1000):
            with suppress(ProcessLookupError):
                found = os.getpriority(os.PRIO_PROCESS, pid)
            if found > own:
                break
            await asyncio.sleep(0.005)
        await runs.close()
        return found - own

    assert asyncio.run(niceness()) == min(reclusterings.NICENESS, 19 - os.getpriority(os.PRIO_PROCESS, 0))


def test_one_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops gives its run some seconds, and waits for none that hears nothing."""
    monkeypatch.setattr(reclusterings, "STOP_S", 0.5)

    async def stopped() -> int:
        runs = Reclusterings(ServeSettings(bundle=tmp_path / "bundle", data_dir=tmp_path / "data"))
        before = children()
        await runs.start("night", "quick", datetime.now(UTC))
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        await runs.close()
        return pid

    assert not Path(f"/proc/{asyncio.run(stopped())}").exists()


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
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert get(server, "reclusterings/timer").state == RUNNING
        request = recluster_pb2.CancelReclusteringRequest(name="reclusterings/timer")
        expected = ("FAILED_PRECONDITION", "RECLUSTERING_ELSEWHERE")
        assert refusal(stub(server).CancelReclustering, request) == expected
    assert cancel(server, "reclusterings/timer").state == INTERRUPTED
