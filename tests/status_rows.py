"""The status map as rows: a code, a reason, and what makes a call over a real port end with them."""

import sqlite3
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from google_crc32c import value as crc32c

from bundles import soundscape
from serving import (
    Chunk,
    Request,
    ServerThread,
    Stream,
    changed,
    chunk_messages,
    finish_message,
    session_name,
    setup,
    stream_all,
)
from songserve.database import DATABASE_NAME
from songserve.v1 import ingest_pb2, ingest_pb2_grpc

__all__ = ["CHUNKS", "RATE", "ROWS", "SAMPLES", "Row", "numbers"]

RATE = 24_000
SAMPLES = soundscape([0, 1], 5)[0]
CHUNKS = chunk_messages(SAMPLES, [RATE])
numbers = count(1)
"""Of sessions that nothing else uses."""

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
            opening.setup.session = session_name(number=next(numbers))
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


def started(time: Timestamp) -> Request:
    """Return a setup with a time of the first sample."""
    request = setup()
    request.setup.capture_start_time.CopyFrom(time)
    return request


def captured(chunk: Chunk, time: Timestamp) -> Chunk:
    """Return a copy of a chunk that was captured at a time."""
    copy = changed(chunk)
    copy.capture_time.CopyFrom(time)
    return copy


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
    first = setup(session_name(number=next(numbers)))
    older = Stream(server.channel, first)
    older.read()
    newer = Stream(server.channel, first)
    newer.read()
    newer.half_close()
    drain(older)


def other_format(server: ServerThread) -> None:
    """Resume a session at another rate."""
    name = session_name(number=next(numbers))
    stream_all(server.channel, SAMPLES[:RATE], [RATE], setup(name))
    drain(Stream(server.channel, setup(name, rate=48_000)))


def after_finish(server: ServerThread) -> None:
    """Send a chunk to a finished session."""
    first = setup(session_name(number=next(numbers)))
    stream_all(server.channel, SAMPLES[:RATE], [RATE], first)
    stream = Stream(server.channel, first)
    stream.send(CHUNKS[1])
    drain(stream)


def one_too_many(server: ServerThread) -> None:
    """Be the stream beyond the limit, however many others there are."""
    opened: list[Stream] = []
    try:
        for _ in range(server.settings.max_streams + 1):
            opened.append(Stream(server.channel, setup(session_name(number=next(numbers)))))
            opened[-1].read()
    finally:
        for stream in opened:
            stream.half_close()


def stopped(server: ServerThread) -> None:
    """Be connected when the server stops."""
    stream = Stream(server.channel, setup())
    stream.read()
    server.stop()
    drain(stream)


def locked(server: ServerThread) -> None:
    """Stream while another program holds the database."""
    stream = Stream(server.channel, setup(session_name(number=next(numbers))))
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
    """With a bundle that fails on the first song."""
    alone: bool = False
    """Where every stream of the server ends in this way."""


NAN, HUGE = struct.pack("<f", float("nan")), struct.pack("<f", 1e20)
FLOATS = setup(encoding=ingest_pb2.AudioFormat.ENCODING_FLOAT32)
LARGE = bytes(2**18 + 2)
NEVER = Timestamp(seconds=253_402_300_800)
"""The begin of the year 10,000, which no Timestamp can be."""
ROWS = [
    Row("INVALID_ARGUMENT", "SETUP_INVALID", streaming(first=Request(heartbeat=ingest_pb2.Heartbeat()))),
    Row("INVALID_ARGUMENT", "SETUP_INVALID", streaming(first=Request(chunk=CHUNKS[0]))),  # audio before setup
    Row("INVALID_ARGUMENT", "SETUP_INVALID", streaming(first=setup(start_ms=2**47))),
    Row("INVALID_ARGUMENT", "SETUP_INVALID", streaming(first=started(NEVER))),
    Row("INVALID_ARGUMENT", "SETUP_REPEATED", streaming(setup())),
    Row("INVALID_ARGUMENT", "MESSAGE_INVALID", streaming(Request())),
    Row("INVALID_ARGUMENT", "MESSAGE_INVALID", streaming(gap(sequence_number=1, sample_count=1, reason=77))),
    Row("INVALID_ARGUMENT", "MESSAGE_INVALID", streaming(Request(heartbeat=ingest_pb2.Heartbeat(create_time=NEVER)))),
    Row(
        "INVALID_ARGUMENT",
        "MESSAGE_INVALID",
        streaming(Request(heartbeat=ingest_pb2.Heartbeat(spool_oldest_time=Timestamp(nanos=-1)))),
    ),
    Row("INVALID_ARGUMENT", "FORMAT_UNSUPPORTED", streaming(first=setup(rate=1))),
    Row("INVALID_ARGUMENT", "CHUNK_CORRUPT", streaming(changed(CHUNKS[0], crc32c=1)), {"sequence_number": "1"}),
    Row("INVALID_ARGUMENT", "CHUNK_SHAPE", streaming(changed(CHUNKS[0], sample_count=1)), {"sequence_number": "1"}),
    Row("INVALID_ARGUMENT", "CHUNK_SHAPE", streaming(captured(CHUNKS[0], NEVER)), {"sequence_number": "1"}),
    Row("INVALID_ARGUMENT", "CHUNK_SHAPE", streaming(changed(CHUNKS[0], sequence_number=0)), {"sequence_number": "0"}),
    Row("INVALID_ARGUMENT", "CHUNK_SHAPE", streaming(gap(sample_count=1)), {"sequence_number": "0"}),
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
    Row(
        "INVALID_ARGUMENT",
        "NOT_FINITE",
        streaming(Chunk(sequence_number=1, sample_count=1, data=HUGE, crc32c=crc32c(HUGE)), first=FLOATS),
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
        streaming(Chunk(sequence_number=1, sample_count=len(LARGE) // 2, data=LARGE, crc32c=crc32c(LARGE))),
        {"max_chunk_bytes": "262144"},
        settings={"max_chunk_bytes": 2**18},
    ),
    Row("RESOURCE_EXHAUSTED", "STREAM_LIMIT", one_too_many, retry_s=10, settings={"max_streams": 2}),
    Row("RESOURCE_EXHAUSTED", "DISK_LOW", whole, retry_s=60, settings={"min_free_disk_mb": 2**40}, alone=True),
    Row("UNAVAILABLE", "DRAINING", stopped, retry_s=1, alone=True),
    Row("UNAVAILABLE", "LEASE_EXPIRED", idle, settings={"lease_s": 0.2}, alone=True),
    Row("UNAVAILABLE", "OVERLOADED", busy, retry_s=5, settings=CROWDED),
    Row("UNAVAILABLE", "STORE_UNAVAILABLE", locked, retry_s=5),
    Row("DEADLINE_EXCEEDED", "SETUP_TIMEOUT", nothing, settings={"setup_timeout_s": 0.2}),
    Row("DEADLINE_EXCEEDED", "IDLE", idle, settings={"idle_timeout_s": 3.0}),
    Row("INTERNAL", "INTERNAL", whole, faulty=True),
]
