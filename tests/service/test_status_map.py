"""Every code and reason that a stream or a question about a session can end with, provoked over a real port."""

import ast
import copy
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from serving import (
    Request,
    Response,
    ServerThread,
    Stream,
    finish_message,
    session_name,
    setup,
    stream_all,
    stream_ends,
)
from songcore.bundle import Bundle
from songserve.status import _CODES
from songserve.v1 import ingest_pb2
from status_rows import CHUNKS, RATE, ROWS, SAMPLES, Row, numbers

PROTO = Path(__file__).resolve().parents[2] / "protos" / "songserve" / "v1" / "ingest.proto"

ELSEWHERE = {
    "BUCKET_INVALID": "test_api.py",
    "CHANNEL_MISSING": "test_classification.py",
    "EMPTY_RECORDING": "test_classification.py",
    "FILTER_TOO_LONG": "test_limits_of_names.py",
    "INTERVAL_INVALID": "test_api.py",
    "LENGTH_MISSING": "test_classification.py",
    "MODE_INVALID": "test_reclusterings.py",
    "NOT_AUDIO": "../bad_recordings.py",
    "PAGE_TOKEN_INVALID": "test_api.py",
    "RESUME_TOKEN_INVALID": "test_reading.py",
    "RETYPINGS_INVALID": "test_retype.py",
    "TRUNCATED": "test_classification.py",
    "SESSION_LIMIT": "test_limits_of_stations.py",
    "CERT_INVALID": "test_security_tls.py",
    "METHOD_UNMAPPED": "test_security_roles.py",
    **dict.fromkeys(
        ("ROLE_MISSING", "STATION_DISABLED", "STATION_MISMATCH", "TOKEN_EXPIRED", "TOKEN_INVALID", "TOKEN_MISSING"),
        "test_security_calls.py",
    ),
    "STORE_CORRUPT": "test_database.py",
    "SONG_UNKNOWN": "test_reading.py",
    "BUNDLE_UNKNOWN": "test_api.py",
    "CLIP_UNKNOWN": "test_reading.py",
    "CLIP_ELSEWHERE": "test_reading.py",
    **dict.fromkeys(
        (
            "ACTIVATION_FAILED",
            "ALREADY_ACTIVE",
            "BUNDLE_NOT_READY",
            "ETAG_MISMATCH",
            "FRONTEND_DIFFERS",
            "NO_EARLIER_BUNDLE",
            "NO_SHADOW",
            "SWAP_RUNNING",
        ),
        "test_swaps.py",
    ),
    **dict.fromkeys(
        (
            "DECISION_LEARNED",
            "DECISION_NEEDED",
            "DECISION_UNDONE",
            "DECISION_UNKNOWN",
            "KIND_MISMATCH",
            "SPLIT_ALL",
            "SPLIT_FOREIGN",
            "TYPE_MERGED",
            "TYPE_NAME_TAKEN",
            "TYPE_RETIRED",
            "TYPE_UNKNOWN",
            "UNDO_INVALID",
        ),
        "test_decisions.py",
    ),
    **dict.fromkeys(("RECLUSTERING_ELSEWHERE", "RECLUSTERING_UNKNOWN", "RECLUSTER_BUSY"), "test_reclusterings.py"),
}
"""Reasons that need more than a stream to a server without tokens, and the test that provokes them, or its data."""


class FailingOnce:
    """Names songs, and fails the first time as no model should."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._failed = bundle, False

    def __call__(self, *arguments: Any) -> Any:
        """Do as the bundle does, from the second call on."""
        if not self._failed:
            self._failed = True
            raise ValueError("a broken model")
        return self._bundle.classify(*arguments)


@contextmanager
def serving(row: Row, shared: ServerThread, bundle: Bundle, folder: Path) -> Iterator[ServerThread]:
    """Give the shared server, or one that is set up as the row wants it."""
    if not (row.settings or row.faulty or row.alone):
        yield shared
        return
    if row.faulty:
        failing = FailingOnce(bundle)
        bundle = copy.copy(bundle)
        vars(bundle)["classify"] = failing
    with ServerThread(bundle, folder, **row.settings) as server:
        yield server


def songs_in(responses: Iterable[Response]) -> list[tuple[int, int, str]]:
    """Return onset, offset and type of the songs."""
    songs = [response.song.song for response in responses if response.HasField("song")]
    return [(song.onset_sample, song.offset_sample, song.song_type) for song in songs]


@pytest.fixture(scope="module")
def undisturbed(shared_server: ServerThread) -> list[tuple[int, int, str]]:
    """Return the songs of a stream that nothing disturbed."""
    return songs_in(stream_all(shared_server.channel, SAMPLES, [RATE], setup(session_name("south", next(numbers)))))


@contextmanager
def beside(server: ServerThread, songs: list[tuple[int, int, str]]) -> Iterator[None]:
    """Have another stream open meanwhile, which ends well afterwards with all of its songs."""
    stream, over = Stream(server.channel, setup(session_name("south", next(numbers)))), threading.Event()
    assert stream.read().HasField("setup_ack")
    stream.send(CHUNKS[0])

    def beat() -> None:
        while not over.wait(0.1):
            stream.send(Request(heartbeat=ingest_pb2.Heartbeat()))

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
    stream.send(*CHUNKS[1:], finish_message(CHUNKS))
    responses = list(stream)
    stream.half_close()
    assert songs_in(responses) == songs
    assert responses[-1].ack.finished
    assert responses[-1].ack.committed_sequence_number == len(CHUNKS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_a_call_ends_as_the_map_says(
    row: Row, shared_server: ServerThread, bundle: Bundle, tmp_path: Path, undisturbed: list[tuple[int, int, str]]
) -> None:
    """Code, reason, metadata and retry delay are as documented, and a stream that is open at that moment is not disturbed."""
    with (
        serving(row, shared_server, bundle, tmp_path) as server,
        nullcontext() if row.alone else beside(server, undisturbed),
    ):
        with pytest.raises(grpc.RpcError) as ended:
            row.provoke(server)
        status = rpc_status.from_call(ended.value)
        assert status is not None
        info, retry = ErrorInfo(), RetryInfo()
        for detail in status.details:
            assert detail.Unpack(info) or detail.Unpack(retry)
        assert (ended.value.code().name, info.reason, info.domain) == (row.code, row.reason, "songstream")
        assert dict(info.metadata) == row.metadata
        assert retry.retry_delay.seconds == row.retry_s
        assert status.message


@pytest.mark.parametrize("reason", ["INTERNAL", "SETUP_TIMEOUT", "FORMAT_UNSUPPORTED", "STREAM_LIMIT", "DISK_LOW"])
def test_an_end_is_counted_by_its_reason(
    reason: str, shared_server: ServerThread, bundle: Bundle, tmp_path: Path
) -> None:
    """Faults of the server and refusals before the first answer are counted as what they are."""
    row = next(row for row in ROWS if row.reason == reason)
    with serving(row, shared_server, bundle, tmp_path) as server:
        before = stream_ends(server, reason)
        with pytest.raises(grpc.RpcError):
            row.provoke(server)
        assert stream_ends(server, reason) == before + 1


def test_a_client_that_leaves_is_no_error(server: ServerThread) -> None:
    """Its stream is counted as cancelled, also when an answer is on its way to it."""
    for number in range(1, 9):
        stream = Stream(server.channel, setup(session_name(number=number)))
        stream.read()
        stream.send(*CHUNKS)
        stream.call.cancel()
        stream.half_close()
    deadline = time.monotonic() + 30
    while stream_ends(server, "CANCELLED") + stream_ends(server, "OK") < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stream_ends(server, "INTERNAL") == 0
    assert stream_ends(server, "CANCELLED") > 0


def test_the_map_is_complete() -> None:
    """Every reason of the tables in ingest.proto and docs/protocol.md, and every one with a code, is provoked somewhere."""
    table = PROTO.read_text().split("// Status codes and reasons")[1].split("rpc StreamAudio")[0]
    published = set(
        re.findall(r"^  //\s+(?:[A-Z_]+ {2,})?([A-Z]+_[A-Z_]+|IDLE|DRAINING|INTERNAL) ", table, re.MULTILINE)
    )
    page = PROTO.parents[3] / "docs" / "protocol.md"
    rows = page.read_text().split("## Reasons")[1].split("not used, because")[0].splitlines()
    documented = set().union(*(re.findall(r"`([A-Z_]+)`", row.split("|")[2]) for row in rows if row.startswith("| ")))
    assert len(documented) > 60
    tests = Path(__file__).parent
    provoked = {row.reason for row in ROWS} | set(ELSEWHERE)
    assert published - provoked == set()
    assert documented - provoked == set()
    assert set(_CODES) - provoked == set()
    for reason, file in ELSEWHERE.items():
        assert reason in texts(tests / file), f"{reason} is not in {file}"


def test_reasons_that_are_not_used_are_not_there() -> None:
    """What docs/protocol.md says that no call is refused for stands in no program."""
    root = PROTO.parents[3]
    table = (root / "docs" / "protocol.md").read_text().split("not used, because")[1]
    unused = set(re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE))
    assert len(unused) == 4
    programs = (root / "service").rglob("*.py")
    assert unused & set().union(*map(texts, programs)) == set()


def texts(file: Path) -> set[str]:
    """Return the strings of a program, which its comments are not; a docstring is one string."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_bytes_that_are_no_message_end_only_their_stream(shared_server: ServerThread) -> None:
    """A malformed protobuf fails its own call, and no other."""
    method = "/songserve.v1.IngestService/StreamAudio"
    call: Any = shared_server.channel.stream_stream(method, request_serializer=None, response_deserializer=None)
    first = setup(session_name(number=next(numbers))).SerializeToString()
    with pytest.raises(grpc.RpcError) as ended:
        list(call(iter([first, b"\x0a\xff\xff\xff\xff"]), timeout=20))
    assert ended.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT}
    name = session_name("south", next(numbers))
    assert stream_all(shared_server.channel, SAMPLES[:RATE], [RATE], setup(name))[-1].ack.finished
