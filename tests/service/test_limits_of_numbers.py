"""Numbers at the ends of their ranges, and bytes that are no message."""

import io
import time
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

import grpc
import numpy as np
import pytest
import soundfile
from google_crc32c import value as crc32c

from serving import START_MS, Chunk, Request, ServerThread, Stream, finish_message, session_name, setup
from songcore.errors import SongError
from songserve.ingest_requests import read_setup
from songserve.intake import MAX_CHUNK_ENERGY, Finish, Gap, Intake
from songserve.intake import Chunk as Sound
from songserve.records import AudioFormat, SessionName, SessionOpening, SessionRecord
from songserve.refusal import Refusal
from songserve.sound import samples_of
from songserve.v1 import ingest_pb2

RATE = 24_000
DAY_MS = 86_400_000
NUMBERS = count(2_000_000)
"""Of sessions that nothing else uses."""
OPENING = SessionOpening(SessionName("north", UUID(int=1)), AudioFormat("linear16", RATE, 1, None), START_MS)


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


@pytest.mark.parametrize(
    ("rate", "start_ms", "reason"),
    [
        (8_000, None, ""),
        (7_999, None, "FORMAT_UNSUPPORTED"),
        (384_000, None, ""),
        (384_001, None, "FORMAT_UNSUPPORTED"),
        (RATE, 0, ""),
        (RATE, -1, "SETUP_INVALID"),
        (RATE, DAY_MS - 60_000, ""),
        (RATE, DAY_MS + 60_000, "SETUP_INVALID"),
    ],
)
def test_a_session_is_let_in_up_to_there(
    shared_server: ServerThread, rate: int, start_ms: int | None, reason: str
) -> None:
    """Over a port; times of a day ahead or so count from now, as the server's clock goes on meanwhile."""
    if start_ms is None:
        start_ms = START_MS
    elif start_ms > 0:
        start_ms += round(time.time() * 1000)
    session = session_name(number=next(NUMBERS))
    stream = Stream(shared_server.channel, setup(session, rate=rate, start_ms=start_ms))
    if reason:
        assert stream.fails_with()[:2] == ("INVALID_ARGUMENT", reason)
    else:
        assert stream.read().HasField("setup_ack")
        stream.call.cancel()


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


@pytest.mark.parametrize("item", [Sound(0, 0, 1, b"ab", crc32c(b"ab")), Gap(0, 0, 0, 1), Gap(0, 1, 0, 1)])
def test_numbers_begin_at_1(item: Sound | Gap) -> None:
    """0, which a client says that sets no number, is no chunk that was had before: at the beginning, later, after the end."""
    intake = Intake(SessionRecord(OPENING, writer_epoch=1), max_chunk_bytes=2**18)
    intake.finish(Finish(0, 0))  # nothing at all, which 0 stands for here, is a session
    later = Intake(SessionRecord(OPENING, writer_epoch=1, committed_sequence_number=7), max_chunk_bytes=2**18)
    for one in (Intake(SessionRecord(OPENING, writer_epoch=1), max_chunk_bytes=2**18), later, intake):
        with pytest.raises(Refusal, match="begin at 1") as refused:
            one.accept(item)
        assert (refused.value.reason, refused.value.metadata) == ("CHUNK_SHAPE", {"sequence_number": "0"})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, -3e38])
def test_numbers_that_are_none_are_refused(shared_server: ServerThread, value: float) -> None:
    """One sample that is not finite or could not be sound ends the stream and names its chunk, which a gap may replace."""
    good, bad = (np.array([0, level, 0], "<f4").tobytes() for level in (2.0**31, value))
    first = setup(session_name("west", next(NUMBERS)), encoding=ingest_pb2.AudioFormat.ENCODING_FLOAT32)
    stream = Stream(shared_server.channel, first)
    stream.send(Chunk(sequence_number=1, sample_count=3, data=good, crc32c=crc32c(good)))
    stream.send(Chunk(sequence_number=2, start_sample=3, sample_count=3, data=bad, crc32c=crc32c(bad)))
    assert stream.fails_with()[1:] == ("NOT_FINITE", {"sequence_number": "2"})


@pytest.mark.parametrize(("n_channels", "channel"), [(1, None), (2, None), (2, 2), (64, None)])
def test_what_comes_in_can_be_listened_to(n_channels: int, channel: int | None) -> None:
    """Samples just below the bound of a chunk's squares, in all or in one channel, are read; just above none comes in."""
    audio_format = AudioFormat("float32", RATE, n_channels, channel)
    record = SessionRecord(replace(OPENING, audio_format=audio_format), writer_epoch=1)
    noise = np.random.default_rng(1).normal(size=(3000, n_channels))
    lone = np.where(np.arange(n_channels) == n_channels - 1, noise, 0)
    for shape in (noise, lone, np.ones_like(noise)):
        for scale, fits in ((0.999, True), (1.001, False)):
            samples = (shape * np.sqrt(scale * MAX_CHUNK_ENERGY / np.square(shape).sum())).astype("<f4")
            data = samples.tobytes()
            chunk, intake = Sound(1, 0, len(samples), data, crc32c(data)), Intake(record, max_chunk_bytes=2**20)
            if fits:
                assert intake.accept(chunk)
                assert np.isfinite(samples_of(data, audio_format)).all()
                continue
            with pytest.raises(Refusal) as refused:
                intake.accept(chunk)
            assert refused.value.reason == "NOT_FINITE"


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
