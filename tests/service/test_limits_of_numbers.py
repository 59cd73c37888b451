"""Numbers at the ends of their ranges, and bytes that are no message."""

import io
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from google_crc32c import value as crc32c

from serving import START_MS, Chunk, Request, ServerThread, Stream, finish_message, session_name, setup
from songcore.errors import SongError
from songserve.ingest_requests import read_setup
from songserve.v1 import ingest_pb2

RATE = 24_000
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("rate", "start_ms", "fits"),
    [
        (8_000, START_MS, True),
        (7_999, START_MS, False),
        (384_000, START_MS, True),
        (384_001, START_MS, False),
        (0, START_MS, False),
        (2**31 - 1, START_MS, False),
        (RATE, 0, True),
        (RATE, -1, False),
        (RATE, START_MS + DAY_MS, True),
        (RATE, START_MS + DAY_MS + 1, False),
    ],
)
def test_rates_and_times_end_where_they_say(rate: int, start_ms: int, *, fits: bool) -> None:
    """8 to 384 kHz, and from 1970 to a day from now."""
    message = setup(rate=rate, start_ms=start_ms).setup
    if fits:
        assert read_setup(message, now_ms=START_MS).capture_start_ms == start_ms
        return
    with pytest.raises(SongError) as refused:
        read_setup(message, now_ms=START_MS)
    assert refused.value.reason in {"FORMAT_UNSUPPORTED", "SETUP_INVALID"}


@pytest.mark.parametrize(("encoding", "most"), [("LINEAR16", 64), ("FLOAT32", 64), ("FLAC", 8)])
def test_a_chunk_has_so_many_channels(shared_server: ServerThread, encoding: str, most: int) -> None:
    """Sound of as many channels as are taken is heard to its end; one more is refused at the setup."""
    number = getattr(ingest_pb2.AudioFormat, f"ENCODING_{encoding}")
    dtype = "<f4" if encoding == "FLOAT32" else "<i2"
    samples = np.zeros((1000, most), dtype)
    data = samples.tobytes()
    if encoding == "FLAC":
        file = io.BytesIO()
        soundfile.write(file, samples, RATE, format="FLAC")
        data = file.getvalue()
    chunk = Chunk(sequence_number=1, sample_count=1000, data=data, crc32c=crc32c(data))
    name = session_name("many", 10 * most + number)
    stream = Stream(shared_server.channel, setup(name, encoding=number, n_channels=most, channel=most))
    stream.send(chunk, finish_message([chunk]))
    assert list(stream)[-1].ack.committed_sample == 1000
    stream.half_close()
    more = Stream(shared_server.channel, setup(f"{name[:-1]}a", encoding=number, n_channels=most + 1))
    assert more.fails_with()[:2] == ("INVALID_ARGUMENT", "FORMAT_UNSUPPORTED")


@pytest.mark.parametrize("n_more", [0, 1])
def test_a_gap_is_an_hour_at_most(shared_server: ServerThread, n_more: int) -> None:
    """Of exactly an hour it is told of, declared and committed, also where a setup shows it; a sample more is neither."""
    n_samples = 3600 * RATE + n_more
    shown = setup(session_name("hole", 1 + n_more))
    shown.setup.first_available_sequence_number, shown.setup.first_available_sample = 2, n_samples
    stream = Stream(shared_server.channel, shown)
    declared = Stream(shared_server.channel, setup(session_name("hole", 11 + n_more)))
    gap = ingest_pb2.Gap(sequence_number=1, sample_count=n_samples)
    declared.send(Request(gap=gap))
    if n_more:
        for refused in (stream, declared):
            assert refused.fails_with()[:2] == ("INVALID_ARGUMENT", "GAP_TOO_LONG")
        return
    missing = stream.read().setup_ack.missing
    assert (missing.sequence_number, missing.last_sequence_number, missing.sample_count) == (1, 1, n_samples)
    stream.send(Request(gap=missing))
    finish = Request(finish=ingest_pb2.Finish(last_sequence_number=1, total_samples=n_samples))
    for open_stream in (stream, declared):
        open_stream.send(finish)
        assert list(open_stream)[-1].ack.committed_sample == n_samples
        open_stream.half_close()


MOST = 2**64 - 1


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Chunk(sequence_number=MOST, sample_count=1, data=b"ab", crc32c=crc32c(b"ab")), "SEQUENCE_GAP"),
        (Chunk(sequence_number=1, start_sample=MOST, sample_count=1, data=b"ab", crc32c=crc32c(b"ab")), "CHUNK_SHAPE"),
        (Chunk(sequence_number=1, sample_count=2**32 - 1, data=b"ab", crc32c=crc32c(b"ab")), "CHUNK_SHAPE"),
        (Request(gap=ingest_pb2.Gap(sequence_number=1, last_sequence_number=MOST, sample_count=9)), "CHUNK_SHAPE"),
        (Request(gap=ingest_pb2.Gap(sequence_number=1, sample_count=MOST)), "CHUNK_SHAPE"),
        (Request(gap=ingest_pb2.Gap(sequence_number=1, sample_count=3600 * RATE + 1)), "GAP_TOO_LONG"),
        (Request(finish=ingest_pb2.Finish(total_samples=MOST)), "FINISH_MISMATCH"),
        (Request(finish=ingest_pb2.Finish(last_sequence_number=MOST)), "SEQUENCE_GAP"),
    ],
)
def test_the_largest_numbers_overflow_nothing(
    shared_server: ServerThread, request: pytest.FixtureRequest, request_: Request | Chunk, reason: str
) -> None:
    """Numbers at the end of their type are refused by the rule that they break."""
    number = 100 + abs(hash(request.node.name)) % 10**6
    stream = Stream(shared_server.channel, setup(session_name(number=number)))
    stream.send(request_)
    assert stream.fails_with()[1] == reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(shared_server: ServerThread, value: float) -> None:
    """One sample that is not finite ends the stream; the chunk is not stored."""
    data = np.array([0, value, 0], "<f4").tobytes()
    first = setup(session_name("west", 7), encoding=ingest_pb2.AudioFormat.ENCODING_FLOAT32)
    stream = Stream(shared_server.channel, first)
    stream.send(Chunk(sequence_number=1, sample_count=3, data=data, crc32c=crc32c(data)))
    assert stream.fails_with()[1] == "NOT_FINITE"


@pytest.mark.parametrize("junk", [b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x0f", b"\x08"])
def test_what_is_no_message_ends_only_its_own_call(shared_server: ServerThread, junk: bytes) -> None:
    """Bytes that are no protobuf end their call with an error, and a stream beside it goes on."""
    beside = Stream(shared_server.channel, setup(session_name("east", 900 + len(junk))))
    assert beside.read().HasField("setup_ack")
    raw: Any = shared_server.channel.stream_stream("/songserve.v1.IngestService/StreamAudio")
    with pytest.raises(grpc.RpcError) as error:
        list(raw(iter([junk]), timeout=30))
    assert error.value.code().name in {"INTERNAL", "INVALID_ARGUMENT", "UNKNOWN"}
    beside.send(finish_message([]))
    assert list(beside)[-1].ack.finished
    beside.half_close()
