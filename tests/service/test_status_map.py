"""Every code and reason that a stream or a question about a session can end with, provoked over a real port."""

import copy
import re
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google_crc32c import value as crc32c
from grpc_status import rpc_status

from bundles import soundscape
from serving import (
    Chunk,
    Request,
    ServerThread,
    Stream,
    chunk_messages,
    finish_message,
    scrape,
    session_name,
    setup,
    stream_all,
)
from songcore.bundle import Bundle
from songserve.database import DATABASE_NAME
from songserve.status import _CODES
from songserve.v1 import ingest_pb2, ingest_pb2_grpc

RATE = 24_000
SAMPLES = soundscape([0, 1], 5)[0]
CHUNKS = chunk_messages(SAMPLES, [RATE])
PROTO = Path(__file__).resolve().parents[2] / "protos" / "songserve" / "v1" / "ingest.proto"
_numbers = count(1)

Provoke = Callable[[ServerThread], Any]


def stub(server: ServerThread) -> Any:
    """Return the stub of sessions."""
    return ingest_pb2_grpc.IngestServiceStub(server.channel)


def streaming(*messages: Request | Chunk, first: Request | None = None) -> Provoke:
    """Return what sends messages on a session of its own, and reads to the end."""

    def provoke(server: ServerThread) -> None:
        opening = Request()
        opening.CopyFrom(first or setup())
        if opening.setup.session == session_name():
            opening.setup.session = session_name(number=next(_numbers))
        stream = Stream(server.channel, opening)
        stream.send(*messages)
        drain(stream)

    return provoke


def drain(stream: Stream) -> None:
    """Read to the end, which is an error."""
    try:
        for _ in stream:
            pass
    finally:
        stream.half_close()


def changed(chunk: Chunk, **fields: Any) -> Chunk:
    """Return a copy of a chunk with other fields."""
    other = Chunk()
    other.CopyFrom(chunk)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def gap(**fields: Any) -> Request:
    """Return a gap."""
    return Request(gap=ingest_pb2.Gap(**fields))


def nothing(server: ServerThread) -> None:
    """Open a stream and say nothing at all."""
    drain(Stream(server.channel))


def idle(server: ServerThread) -> None:
    """Say nothing after the setup."""
    stream = Stream(server.channel, setup())
    drain(stream)


def take_over(server: ServerThread) -> None:
    """Be the older of two streams."""
    older = Stream(server.channel, setup())
    older.read()
    newer = Stream(server.channel, setup())
    newer.read()
    newer.half_close()
    drain(older)


def other_format(server: ServerThread) -> None:
    """Resume a session at another rate."""
    stream_all(server.channel, SAMPLES[:RATE], [RATE])
    drain(Stream(server.channel, setup(rate=48_000)))


def after_finish(server: ServerThread) -> None:
    """Send a chunk to a finished session."""
    stream_all(server.channel, SAMPLES[:RATE], [RATE], setup(session_name(number=2**40)))
    stream = Stream(server.channel, setup(session_name(number=2**40)))
    stream.send(CHUNKS[1])
    drain(stream)


def one_too_many(server: ServerThread) -> None:
    """Be the stream beyond the limit."""
    first = Stream(server.channel, setup())
    first.read()
    try:
        drain(Stream(server.channel, setup(session_name(number=2))))
    finally:
        first.half_close()


def stopped(server: ServerThread) -> None:
    """Be connected when the server stops."""
    stream = Stream(server.channel, setup())
    stream.read()
    server.stop()
    drain(stream)


def locked(server: ServerThread) -> None:
    """Stream while another program holds the database."""
    stream = Stream(server.channel, setup())
    stream.read()
    other = sqlite3.connect(server.settings.data_dir / DATABASE_NAME, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        stream.send(*CHUNKS, finish_message(CHUNKS))
        drain(stream)
    finally:
        other.close()


CROWDED = {"max_in_flight_mb": 1, "max_waiting_kb": 4096, "listen_window_ms": 1000.0}


def busy(server: ServerThread) -> None:
    """Come when more sound waits in memory than the server wants there."""
    first = Stream(server.channel, setup(rate=48_000))
    first.read()
    chunks = chunk_messages(np.zeros(60 * 48_000, np.float32), [48_000])
    first.send(*chunks)
    try:
        for number in range(200):
            stream = Stream(server.channel, setup(session_name(number=number + 2)))
            stream.half_close()
            drain(stream)
    finally:
        first.half_close()


def ask(name: str) -> Provoke:
    """Return what asks for the status of a session."""
    return lambda server: stub(server).GetSessionStatus(ingest_pb2.GetSessionStatusRequest(session=name))


def whole(server: ServerThread) -> None:
    """Stream songs to their end."""
    stream = Stream(server.channel, setup())
    stream.send(*CHUNKS, finish_message(CHUNKS))
    drain(stream)


@dataclass(frozen=True)
class Row:
    """One way for a call to end."""

    code: str
    reason: str
    provoke: Provoke
    metadata: dict[str, str] = field(default_factory=dict)
    retry_s: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    faulty: bool = False
    """With a bundle that fails on every song."""


NAN = struct.pack("<f", float("nan"))
FLOATS = setup(encoding=ingest_pb2.AudioFormat.ENCODING_FLOAT32)
LARGE = bytes(4096)
ROWS = [
    Row("INVALID_ARGUMENT", "SETUP_INVALID", streaming(first=Request(heartbeat=ingest_pb2.Heartbeat()))),
    Row("INVALID_ARGUMENT", "SETUP_INVALID", streaming(first=Request(chunk=CHUNKS[0]))),  # audio before setup
    Row("INVALID_ARGUMENT", "SETUP_INVALID", streaming(first=setup(start_ms=2**47))),
    Row("INVALID_ARGUMENT", "SETUP_REPEATED", streaming(setup())),
    Row("INVALID_ARGUMENT", "MESSAGE_INVALID", streaming(Request())),
    Row("INVALID_ARGUMENT", "MESSAGE_INVALID", streaming(gap(sequence_number=1, sample_count=1, reason=77))),
    Row("INVALID_ARGUMENT", "FORMAT_UNSUPPORTED", streaming(first=setup(rate=1))),
    Row("INVALID_ARGUMENT", "CHUNK_CORRUPT", streaming(changed(CHUNKS[0], crc32c=1)), {"sequence_number": "1"}),
    Row("INVALID_ARGUMENT", "CHUNK_SHAPE", streaming(changed(CHUNKS[0], sample_count=1)), {"sequence_number": "1"}),
    Row(
        "INVALID_ARGUMENT",
        "CHUNK_SHAPE",
        streaming(changed(CHUNKS[0], start_sample=2**64 - 1)),
        {"sequence_number": "1"},
    ),
    Row(
        "INVALID_ARGUMENT",
        "CHUNK_SHAPE",
        streaming(gap(sequence_number=1, sample_count=2**64 - 1)),
        {"sequence_number": "1"},
    ),
    Row(
        "INVALID_ARGUMENT",
        "NOT_FINITE",
        streaming(Chunk(sequence_number=1, sample_count=1, data=NAN, crc32c=crc32c(NAN)), first=FLOATS),
        {"sequence_number": "1"},
    ),
    Row("INVALID_ARGUMENT", "GAP_TOO_LONG", streaming(gap(sequence_number=1, sample_count=RATE * 3600 + 1))),
    Row("INVALID_ARGUMENT", "FINISH_MISMATCH", streaming(Request(finish=ingest_pb2.Finish(total_samples=1)))),
    Row("INVALID_ARGUMENT", "NAME_INVALID", ask("stations/../sessions/1")),
    Row("NOT_FOUND", "SESSION_UNKNOWN", ask(session_name(number=2**60))),
    Row("FAILED_PRECONDITION", "FORMAT_CHANGED", other_format),
    Row("FAILED_PRECONDITION", "SESSION_FINISHED", after_finish),
    Row(
        "FAILED_PRECONDITION",
        "SEQUENCE_REUSED",
        streaming(CHUNKS[0], changed(CHUNKS[1], sequence_number=1, start_sample=0)),
        {"sequence_number": "1"},
    ),
    Row("OUT_OF_RANGE", "SEQUENCE_GAP", streaming(CHUNKS[1]), {"expected": "1"}),
    Row("OUT_OF_RANGE", "SEQUENCE_GAP", streaming(changed(CHUNKS[0], sequence_number=2**64 - 1)), {"expected": "1"}),
    Row("ABORTED", "WRITER_FENCED", take_over),
    Row(
        "RESOURCE_EXHAUSTED",
        "MESSAGE_TOO_LARGE",
        streaming(Chunk(sequence_number=1, sample_count=2048, data=LARGE, crc32c=crc32c(LARGE))),
        {"max_chunk_bytes": "2048"},
        settings={"max_chunk_bytes": 2048},
    ),
    Row("RESOURCE_EXHAUSTED", "STREAM_LIMIT", one_too_many, retry_s=10, settings={"max_streams": 1}),
    Row("RESOURCE_EXHAUSTED", "DISK_LOW", whole, retry_s=60, settings={"min_free_disk_mb": 2**40}),
    Row("UNAVAILABLE", "DRAINING", stopped, retry_s=1),
    Row("UNAVAILABLE", "LEASE_EXPIRED", idle, settings={"lease_s": 0.2}),
    Row("UNAVAILABLE", "OVERLOADED", busy, retry_s=5, settings=CROWDED),
    Row("UNAVAILABLE", "STORE_UNAVAILABLE", locked, retry_s=5),
    Row("DEADLINE_EXCEEDED", "SETUP_TIMEOUT", nothing, settings={"setup_timeout_s": 0.2}),
    Row("DEADLINE_EXCEEDED", "IDLE", idle, settings={"idle_timeout_s": 0.2}),
    Row("INTERNAL", "INTERNAL", whole, faulty=True),
]
ELSEWHERE = {
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
"""Reasons of the map that have nothing to do with streams, and the test that provokes them."""


def failing(_: object) -> Any:
    """Fail as no model should."""
    raise ValueError("a broken model")


@contextmanager
def serving(row: Row, shared: ServerThread, bundle: Bundle, folder: Path) -> Iterator[ServerThread]:
    """Give the shared server, or one that is set up as the row wants it."""
    if not (row.settings or row.faulty or row.provoke in {stopped, locked, take_over, other_format}):
        yield shared
        return
    if row.faulty:
        bundle = copy.copy(bundle)
        vars(bundle)["classify"] = failing
    with ServerThread(bundle, folder, **row.settings) as server:
        yield server


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_a_call_ends_as_the_map_says(row: Row, shared_server: ServerThread, bundle: Bundle, tmp_path: Path) -> None:
    """Code, reason, metadata and retry delay are as documented, and another stream of that moment is not disturbed."""
    with serving(row, shared_server, bundle, tmp_path) as server:
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
    if server is shared_server:
        name = session_name("south", next(_numbers))
        assert stream_all(server.channel, SAMPLES[:RATE], [RATE], setup(name))[-1].ack.finished


def ends(server: ServerThread, reason: str) -> float:
    """Return how many streams were counted under a reason."""
    found = re.findall(
        rf'^songstream_ingest_stream_closes_total{{reason="{reason}"}} (\S+)', scrape(server), re.MULTILINE
    )
    return float(found[0]) if found else 0.0


@pytest.mark.parametrize("reason", ["INTERNAL", "SETUP_TIMEOUT", "FORMAT_UNSUPPORTED", "STREAM_LIMIT", "DISK_LOW"])
def test_an_end_is_counted_by_its_reason(
    reason: str, shared_server: ServerThread, bundle: Bundle, tmp_path: Path
) -> None:
    """Faults of the server and refusals before the first answer are counted as what they are."""
    row = next(row for row in ROWS if row.reason == reason)
    with serving(row, shared_server, bundle, tmp_path) as server:
        before = ends(server, reason)
        with pytest.raises(grpc.RpcError):
            row.provoke(server)
        assert ends(server, reason) == before + 1


def test_a_client_that_leaves_is_no_error(server: ServerThread) -> None:
    """Its stream is counted as cancelled, also when an answer is on its way to it."""
    for number in range(1, 9):
        stream = Stream(server.channel, setup(session_name(number=number)))
        stream.read()
        stream.send(*CHUNKS)
        stream.call.cancel()
        stream.half_close()
    deadline = time.monotonic() + 30
    while ends(server, "CANCELLED") + ends(server, "OK") < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ends(server, "INTERNAL") == 0
    assert ends(server, "CANCELLED") > 0


def test_the_map_is_complete() -> None:
    """Every reason of the table in ingest.proto, and every one with a code of its own, is provoked somewhere."""
    table = PROTO.read_text().split("// Status codes and reasons")[1].split("rpc StreamAudio")[0]
    published = set(
        re.findall(r"^  //\s+(?:[A-Z_]+ {2,})?([A-Z]+_[A-Z_]+|IDLE|DRAINING|INTERNAL) ", table, re.MULTILINE)
    )
    tests = Path(__file__).parent
    by_security = {reason for reason in _CODES if any(reason in f.read_text() for f in tests.glob("test_security*.py"))}
    provoked = {row.reason for row in ROWS} | set(ELSEWHERE) | by_security
    assert published - provoked == set()
    assert set(_CODES) - provoked == set()
    for reason, file in ELSEWHERE.items():
        assert reason in (tests / file).read_text(), f"{reason} is not in {file}"


def test_bytes_that_are_no_message_end_only_their_stream(shared_server: ServerThread) -> None:
    """A malformed protobuf fails its own call, and no other."""
    method = "/songserve.v1.IngestService/StreamAudio"
    call: Any = shared_server.channel.stream_stream(method, request_serializer=None, response_deserializer=None)
    first = setup(session_name(number=next(_numbers))).SerializeToString()
    with pytest.raises(grpc.RpcError) as ended:
        list(call(iter([first, b"\x0a\xff\xff\xff\xff"]), timeout=20))
    assert ended.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT}
    name = session_name("south", next(_numbers))
    assert stream_all(shared_server.channel, SAMPLES[:RATE], [RATE], setup(name))[-1].ack.finished
