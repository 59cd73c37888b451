"""``songstream serve`` as a real process: killed, stopped, started where it cannot run, and with files that cannot grow."""

import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from bundles import soundscape
from serving import ServerProcess, Stream, chunk_messages, finish_message, setup
from songcore.bundle import Bundle
from songserve.database import DATABASE_NAME
from songserve.v1 import songs_pb2, songs_pb2_grpc

RATE = 24_000
SAMPLES = soundscape([0, 5, 2, 3, 1, 4], 41)[0]
CHUNKS = chunk_messages(SAMPLES, [RATE // 2])
SONGSTREAM = str(Path(sys.executable).with_name("songstream"))


def stored(channel: grpc.Channel) -> list[Any]:
    """Return every song of the store."""
    stub: Any = songs_pb2_grpc.SongServiceStub(channel)
    return list(stub.ListSongs(songs_pb2.ListSongsRequest(page_size=1000, include_noise=True)).songs)


def stream_rest(server: ServerProcess) -> int:
    """Stream what the server still expects and finish; return the number it expected."""
    stream = Stream(server.channel, setup())
    expected = stream.read().setup_ack.expected_sequence_number
    stream.send(*CHUNKS[expected - 1 :], finish_message(CHUNKS))
    assert list(stream)[-1].ack.finished
    stream.half_close()
    return expected


@pytest.fixture(scope="module")
def uninterrupted(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return the songs of a run that nothing disturbed."""
    with ServerProcess(bundle_dir, tmp_path_factory.mktemp("whole")) as server:
        stream_rest(server)
        return stored(server.channel)


def test_a_killed_server_loses_nothing_that_it_acknowledged(
    bundle_dir: Path, tmp_path: Path, uninterrupted: list[Any]
) -> None:
    """SIGKILL in the middle of streams, twice: what was committed is there, and in the end every row is as without it."""
    acknowledged = 0
    for n_sent in (len(CHUNKS) // 3, 2 * len(CHUNKS) // 3):
        with ServerProcess(bundle_dir, tmp_path) as server:
            stream = Stream(server.channel, setup())
            expected = stream.read().setup_ack.expected_sequence_number
            assert expected > acknowledged
            stream.send(*CHUNKS[expected - 1 : n_sent])
            responses = stream.read_until_committed(expected + 2)
            acknowledged = responses[-1].ack.committed_sequence_number
            server.process.kill()
            server.process.wait()
            stream.half_close()
    with ServerProcess(bundle_dir, tmp_path) as server:
        assert stream_rest(server) > acknowledged
        assert stored(server.channel) == uninterrupted


def test_sigterm_commits_and_exits_with_zero(bundle_dir: Path, tmp_path: Path, uninterrupted: list[Any]) -> None:
    """A stream that is connected at SIGTERM hears go_away, what it sent is kept, and the process ends well."""
    with ServerProcess(bundle_dir, tmp_path) as server:
        stream = Stream(server.channel, setup())
        stream.send(*CHUNKS[:8])
        stream.read_until_committed(1)
        server.process.send_signal(signal.SIGTERM)
        assert stream.fails_with()[:2] == ("UNAVAILABLE", "DRAINING")
        assert [response for response in stream.responses if response.HasField("go_away")]
        assert server.process.wait(30) == 0
    with ServerProcess(bundle_dir, tmp_path) as server:
        assert stream_rest(server) > 1
        assert stored(server.channel) == uninterrupted


def test_files_that_cannot_grow_stop_acks_and_pass(bundle_dir: Path, tmp_path: Path, uninterrupted: list[Any]) -> None:
    """While files cannot grow streams end with a reason and queries work; afterwards nothing is missing or double."""
    with ServerProcess(bundle_dir, tmp_path) as server:
        stream = Stream(server.channel, setup())
        stream.send(*CHUNKS[:10])
        responses = stream.read_until_committed(4)
        committed = responses[-1].ack.committed_sequence_number
        size = (tmp_path / (DATABASE_NAME + "-wal")).stat().st_size
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        stream.send(*CHUNKS[10:])
        assert stream.fails_with()[:2] == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        acks = [response.ack.committed_sequence_number for response in stream.responses if response.HasField("ack")]
        assert stored(server.channel) == uninterrupted[: len(stored(server.channel))]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert stream_rest(server) == max([committed, *acks]) + 1
        assert stored(server.channel) == uninterrupted


def failed_start(*options: str) -> tuple[int, str]:
    """Return exit code and reason of a server that does not start, which are its last line; all before is its log."""
    done = subprocess.run([SONGSTREAM, "serve", *options], capture_output=True, text=True, timeout=60, check=False)
    *log, line = done.stderr.splitlines()
    assert all(re.match(r"\S+ \S+ (INFO|WARNING) \w", one) for one in log), done.stderr
    assert line.startswith("songstream: "), line
    reason = re.search(r"\[([A-Z_]+)\]$", line)
    assert reason, line
    assert "Traceback" not in done.stderr
    return done.returncode, reason[1]


def test_a_server_that_cannot_run_says_why(bundle_dir: Path, tmp_path: Path) -> None:
    """Ports in use, a directory or database that cannot be used, no bundle and a public address: code 1 and a reason."""
    base = ["--bundle", str(bundle_dir), "--data-dir", str(tmp_path / "data"), "--metrics-port", "0"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert failed_start(*base, "--listen", f"127.0.0.1:{port}") == (1, "PORT_IN_USE")
        assert failed_start(*base, "--listen", "127.0.0.1:0", "--metrics-port", port) == (1, "PORT_IN_USE")
    unwritable = [*base[:3], "/proc/songstream", *base[4:], "--listen", "127.0.0.1:0"]
    assert failed_start(*unwritable) == (1, "DATA_DIR_UNWRITABLE")
    for name, content in (("foreign", b"not a database" * 1000), ("newer", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / DATABASE_NAME).write_bytes(content)
    with closing(sqlite3.connect(tmp_path / "newer" / DATABASE_NAME)) as database:
        database.execute("PRAGMA user_version = 99")
    for name, reason in (("foreign", "DATABASE_INVALID"), ("newer", "SCHEMA_NEWER")):
        options = [*base[:3], str(tmp_path / name), *base[4:], "--listen", "127.0.0.1:0"]
        assert failed_start(*options) == (1, reason)
    assert failed_start("--bundle", str(tmp_path / "none"), *base[2:]) == (1, "BUNDLE_MISSING")
    assert failed_start(*base, "--listen", "0.0.0.0:0") == (1, "SETTING_INVALID")


def test_the_ready_line_tells_the_addresses(bundle_dir: Path, bundle: Bundle, tmp_path: Path) -> None:
    """The one line of --json names gRPC, metrics and the bundle."""
    with ServerProcess(bundle_dir, tmp_path) as server:
        assert server.ready["bundle"] == bundle.digest
        assert re.fullmatch(r"127\.0\.0\.1:\d+", server.ready["address"])
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", server.ready["metrics"])


def test_the_bug_of_sqlite_is_no_warning(
    start_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a version that has it, the line at start says that the service is not exposed, and is for information."""
    monkeypatch.setattr("songserve.server.sqlite_has_wal_reset_bug", lambda: True)
    caplog.set_level("INFO", "songserve.server")
    start_server()
    (line,) = [record for record in caplog.records if "WAL-reset" in record.getMessage()]
    assert line.levelname == "INFO"
    assert "the service is not exposed to it" in line.getMessage()
