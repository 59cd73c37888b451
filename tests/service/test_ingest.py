"""StreamAudio over a real port: the rules of protos/songserve/v1/ingest.proto."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google_crc32c import value as crc32c

from bundles import soundscape
from serving import (
    START_MS,
    Chunk,
    Request,
    ServerThread,
    Stream,
    changed,
    chunk_messages,
    finish_message,
    scrape,
    session_name,
    setup,
    stream_all,
)
from songserve import ingest_requests
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, songs_pb2, songs_pb2_grpc, types_pb2

RATE = 24_000


@pytest.fixture(scope="module")
def samples() -> Any:
    """Return a soundscape of four songs."""
    return soundscape([0, 1, 2, 3], 5)[0]


def songs_in(responses: list[ingest_pb2.StreamAudioResponse]) -> list[types_pb2.Song]:
    """Return the songs among responses."""
    return [response.song.song for response in responses if response.HasField("song")]


def stored_songs(server: ServerThread) -> list[types_pb2.Song]:
    """Return every song of the store."""
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    return list(stub.ListSongs(songs_pb2.ListSongsRequest(page_size=1000, include_noise=True)).songs)


def status_of(server: ServerThread) -> ingest_pb2.SessionStatus:
    """Return the status of the first session."""
    stub: Any = ingest_pb2_grpc.IngestServiceStub(server.channel)
    status: ingest_pb2.SessionStatus = stub.GetSessionStatus(ingest_pb2.GetSessionStatusRequest(session=session_name()))
    return status


def test_session_gives_songs_and_a_final_ack(server: ServerThread, samples: Any) -> None:
    """A streamed session answers with setup_ack, its songs once stored, and a last ack that commits everything."""
    responses = stream_all(server.channel, samples, [RATE])
    assert responses[0].setup_ack.expected_sequence_number == 1
    songs = songs_in(responses)
    assert len(songs) == 4
    assert [song.name for song in songs] == [song.name for song in stored_songs(server)]
    last = responses[-1].ack
    assert last.finished
    assert last.committed_sample == len(samples)
    for song in songs:
        expected_ms = START_MS + round(song.onset_sample * 1000 / RATE)
        assert song.start_time.ToMilliseconds() == expected_ms
        assert song.station == "stations/north"


def test_a_session_keeps_the_clock_that_dated_it(server: ServerThread) -> None:
    """What set the clock at the first setup, and how far it may have been off, stays: a resume does not date anew."""
    opening, resume = setup(), setup()
    opening.setup.clock_source = ingest_pb2.CLOCK_SOURCE_RTC
    opening.setup.clock_error.FromMilliseconds(1500)
    resume.setup.clock_source = ingest_pb2.CLOCK_SOURCE_GNSS
    for request in (opening, resume):
        stream = Stream(server.channel, request)
        assert stream.read().HasField("setup_ack")
        stream.half_close()
        status = status_of(server)
        assert status.clock_source == ingest_pb2.CLOCK_SOURCE_RTC
        assert status.clock_error.ToMilliseconds() == 1500


@pytest.mark.parametrize("seconds", [-1, ingest_requests.MAX_CLOCK_ERROR_S + 1, 2**63 - 1])
def test_an_error_that_no_clock_has_is_refused(server: ServerThread, seconds: int) -> None:
    """Nothing is stored that could not be told again; a century is."""
    for error_s, fits in ((ingest_requests.MAX_CLOCK_ERROR_S, True), (seconds, False)):
        opening = setup()
        opening.setup.clock_error.seconds = error_s
        stream = Stream(server.channel, opening)
        if fits:
            assert stream.read().HasField("setup_ack")
            stream.half_close()
            assert status_of(server).clock_error.seconds == error_s
        else:
            assert stream.fails_with()[:2] == ("INVALID_ARGUMENT", "SETUP_INVALID")


def test_a_clock_that_no_server_knows_is_refused(server: ServerThread) -> None:
    """In a setup as in a heartbeat, each with the reason of such messages."""
    unknown = setup()
    unknown.setup.clock_source = 99  # type: ignore[assignment]  # what a newer client may send
    assert Stream(server.channel, unknown).fails_with()[:2] == ("INVALID_ARGUMENT", "SETUP_INVALID")
    stream = Stream(server.channel, setup())
    beat = ingest_pb2.StreamAudioRequest()
    beat.heartbeat.clock_source = 99  # type: ignore[assignment]  # as above
    stream.send(beat)
    assert stream.fails_with()[:2] == ("INVALID_ARGUMENT", "MESSAGE_INVALID")


def test_acks_are_monotone_and_never_ahead_of_what_came_in(start_server: Any, samples: Any) -> None:
    """Acks only grow, and committed never passes received."""
    server = start_server(max_in_flight_chunks=8)
    acks = [response.ack for response in stream_all(server.channel, samples, [6000]) if response.HasField("ack")]
    assert len(acks) > 3
    for before, after in itertools.pairwise(acks):
        assert after.received_sequence_number >= before.received_sequence_number
        assert after.committed_sequence_number >= before.committed_sequence_number
        assert after.committed_sequence_number <= after.received_sequence_number


def test_repeated_chunks_are_acknowledged_and_not_heard_twice(server: ServerThread, samples: Any) -> None:
    """Chunks sent twice change neither songs nor watermark, and are answered."""
    chunks = chunk_messages(samples, [RATE])
    stream = Stream(server.channel, setup())
    for chunk in chunks:
        stream.send(chunk, chunk)
    stream.send(finish_message(chunks))
    assert len(songs_in(list(stream))) == 4
    stream.half_close()
    again = Stream(server.channel, setup())
    assert again.read().setup_ack.finished
    again.send(chunks[0])
    assert again.read().ack.committed_sequence_number == len(chunks)
    again.send(finish_message(chunks))
    assert [response.ack.finished for response in again] == [True]
    again.half_close()
    assert len(stored_songs(server)) == 4


def test_a_missing_chunk_names_the_expected_one(server: ServerThread, samples: Any) -> None:
    """A number above the expected one ends the stream and says where to go on; what came before is committed."""
    chunks = chunk_messages(samples, [RATE])
    stream = Stream(server.channel, setup())
    stream.send(*chunks[:4], chunks[5])
    assert stream.fails_with() == ("OUT_OF_RANGE", "SEQUENCE_GAP", {"expected": "5"})
    assert status_of(server).committed_sequence_number > 0


_numbers = itertools.count(1000)


def fresh_session() -> str:
    """Return the name of a session that no other test uses."""
    return session_name(number=next(_numbers))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"crc32c": 1}, ("INVALID_ARGUMENT", "CHUNK_CORRUPT", {"sequence_number": "2"})),
        ({"sample_count": 7}, ("INVALID_ARGUMENT", "CHUNK_SHAPE", {"sequence_number": "2"})),
        ({"start_sample": 7}, ("INVALID_ARGUMENT", "CHUNK_SHAPE", {"sequence_number": "2"})),
        ({"sample_count": 0, "data": b"", "crc32c": 0}, ("INVALID_ARGUMENT", "CHUNK_SHAPE", {"sequence_number": "2"})),
        ({"sequence_number": 2**64 - 1}, ("OUT_OF_RANGE", "SEQUENCE_GAP", {"expected": "2"})),
        (
            {"data": bytes(600_000), "crc32c": crc32c(bytes(600_000)), "sample_count": 300_000},
            ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", {"max_chunk_bytes": "524288"}),
        ),
        ({"data": bytes(2_000_000)}, ("RESOURCE_EXHAUSTED", "", {})),
    ],
)
def test_a_bad_chunk_is_refused_and_others_go_on(
    shared_server: ServerThread, samples: Any, fields: dict[str, Any], expected: tuple[str, str, dict[str, str]]
) -> None:
    """A chunk that breaks a rule ends its stream with the documented status, and no other stream notices."""
    chunks = chunk_messages(samples, [RATE])
    other = Stream(shared_server.channel, setup(fresh_session()))
    other.send(*chunks[:3])
    bad = Stream(shared_server.channel, setup(fresh_session()))
    bad.send(chunks[0], changed(chunks[1], **fields))
    assert bad.fails_with() == expected
    other.send(*chunks[3:], finish_message(chunks))
    assert len(songs_in(list(other))) == 4
    other.half_close()


def test_one_number_for_two_contents_is_refused(server: ServerThread, samples: Any) -> None:
    """A chunk sent again with other content under its number is SEQUENCE_REUSED."""
    chunks = chunk_messages(samples, [RATE])
    data = bytes(len(chunks[0].data))
    stream = Stream(server.channel, setup())
    stream.send(chunks[0], changed(chunks[0], data=data, crc32c=crc32c(data)))
    assert stream.fails_with() == ("FAILED_PRECONDITION", "SEQUENCE_REUSED", {"sequence_number": "1"})


def test_floats_must_be_finite(server: ServerThread) -> None:
    """A FLOAT32 chunk with a NaN is refused by number."""
    values = np.zeros(100, "<f4")
    values[50] = np.nan
    data = values.tobytes()
    stream = Stream(server.channel, setup(encoding=ingest_pb2.AudioFormat.ENCODING_FLOAT32))
    stream.send(Chunk(sequence_number=1, sample_count=100, data=data, crc32c=crc32c(data)))
    assert stream.fails_with() == ("INVALID_ARGUMENT", "NOT_FINITE", {"sequence_number": "1"})


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (Request(), ("INVALID_ARGUMENT", "SETUP_INVALID")),
        (Request(chunk=Chunk(sequence_number=1)), ("INVALID_ARGUMENT", "SETUP_INVALID")),
        (setup("stations/../sessions/1"), ("INVALID_ARGUMENT", "SETUP_INVALID")),
        (setup("stations/north/sessions/1"), ("INVALID_ARGUMENT", "SETUP_INVALID")),
        (setup(start_ms=-1), ("INVALID_ARGUMENT", "SETUP_INVALID")),
        (setup(start_ms=5_000_000_000_000), ("INVALID_ARGUMENT", "SETUP_INVALID")),
        (setup(encoding=ingest_pb2.AudioFormat.ENCODING_UNSPECIFIED), ("INVALID_ARGUMENT", "FORMAT_UNSUPPORTED")),
        (setup(rate=7_999), ("INVALID_ARGUMENT", "FORMAT_UNSUPPORTED")),
        (setup(rate=384_001), ("INVALID_ARGUMENT", "FORMAT_UNSUPPORTED")),
        (setup(n_channels=0), ("INVALID_ARGUMENT", "FORMAT_UNSUPPORTED")),
        (setup(n_channels=2, channel=3), ("INVALID_ARGUMENT", "FORMAT_UNSUPPORTED")),
    ],
)
def test_a_stream_begins_with_a_setup_that_makes_sense(
    shared_server: ServerThread, first: Request, expected: tuple[str, str]
) -> None:
    """Anything else as the first message is refused."""
    assert Stream(shared_server.channel, first).fails_with()[:2] == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (setup(), ("INVALID_ARGUMENT", "SETUP_REPEATED")),
        (Request(), ("INVALID_ARGUMENT", "MESSAGE_INVALID")),
        (Request(finish=ingest_pb2.Finish(last_sequence_number=1)), ("OUT_OF_RANGE", "SEQUENCE_GAP")),
        (Request(finish=ingest_pb2.Finish(total_samples=1)), ("INVALID_ARGUMENT", "FINISH_MISMATCH")),
        (
            Request(gap=ingest_pb2.Gap(sequence_number=1, sample_count=24_000 * 3600 + 1)),
            ("INVALID_ARGUMENT", "GAP_TOO_LONG"),
        ),
        (Request(gap=ingest_pb2.Gap(sequence_number=1)), ("INVALID_ARGUMENT", "CHUNK_SHAPE")),
        (
            Request(gap=ingest_pb2.Gap(sequence_number=1, sample_count=9, last_sequence_number=2**64 - 1)),
            ("INVALID_ARGUMENT", "CHUNK_SHAPE"),
        ),
    ],
)
def test_messages_after_the_setup_make_sense(
    shared_server: ServerThread, message: Request, expected: tuple[str, str]
) -> None:
    """A second setup, an empty message, a wrong finish and an endless gap are refused."""
    stream = Stream(shared_server.channel, setup(fresh_session()))
    stream.send(message)
    assert stream.fails_with()[:2] == expected


def test_a_newer_stream_takes_the_session_over(server: ServerThread, samples: Any) -> None:
    """The older of two streams of a session is fenced off, the newer resumes at the watermark, songs are as in one run."""
    chunks = chunk_messages(samples, [RATE])
    older = Stream(server.channel, setup())
    older.send(*chunks[:5])
    older.read_until_committed(2)
    newer = Stream(server.channel, setup())
    answer = newer.read().setup_ack
    assert answer.writer_epoch == 2
    assert older.fails_with()[:2] == ("ABORTED", "WRITER_FENCED")
    newer.send(*chunks[answer.expected_sequence_number - 1 :], finish_message(chunks))
    list(newer)
    newer.half_close()
    assert len(stored_songs(server)) == 4


@pytest.mark.parametrize("other", [setup(rate=48_000), setup(start_ms=START_MS + 1), setup(n_channels=2)])
def test_a_session_keeps_its_format(server: ServerThread, other: Request) -> None:
    """Resuming with another format or start time is refused."""
    first = Stream(server.channel, setup())
    first.read()
    first.half_close()
    assert songs_in(list(first)) == []
    assert Stream(server.channel, other).fails_with()[:2] == ("FAILED_PRECONDITION", "FORMAT_CHANGED")


def test_a_refused_stream_leaves_the_older_one_alone(server: ServerThread, samples: Any) -> None:
    """A second stream of a session with another format is refused, and the first goes on to its end."""
    chunks = chunk_messages(samples, [RATE])
    first = Stream(server.channel, setup())
    first.send(*chunks[:5])
    first.read_until_committed(2)
    assert Stream(server.channel, setup(rate=48_000)).fails_with()[1] == "FORMAT_CHANGED"
    first.send(*chunks[5:], finish_message(chunks))
    list(first)
    first.half_close()
    assert len(stored_songs(server)) == 4


def test_a_finished_session_takes_no_more(server: ServerThread, samples: Any) -> None:
    """A new chunk after finish is refused."""
    chunks = chunk_messages(samples, [RATE])
    stream_all(server.channel, samples[: 2 * RATE], [RATE])
    stream = Stream(server.channel, setup())
    stream.send(chunks[2])
    assert stream.fails_with()[:2] == ("FAILED_PRECONDITION", "SESSION_FINISHED")


def test_an_empty_session_can_be_finished(server: ServerThread) -> None:
    """A session without a chunk ends well."""
    responses = stream_all(server.channel, np.zeros(0, np.float32), [])
    assert responses[-1].ack.finished
    assert stored_songs(server) == []


def test_a_gap_keeps_the_clock_and_is_no_effort(server: ServerThread, samples: Any) -> None:
    """Songs after a declared gap lie where they would without it, and its time does not count as recorded."""
    n_gap = 90 * RATE
    before, after = chunk_messages(samples, [RATE]), chunk_messages(samples, [RATE])
    number, end = len(before), len(samples)
    gap = ingest_pb2.Gap(
        sequence_number=number + 1,
        last_sequence_number=number + 3,
        start_sample=end,
        sample_count=n_gap,
        reason=ingest_pb2.Gap.REASON_DEVICE_OVERRUN,
    )
    after = [
        changed(
            chunk, sequence_number=number + 3 + chunk.sequence_number, start_sample=chunk.start_sample + end + n_gap
        )
        for chunk in after
    ]
    stream = Stream(server.channel, setup())
    stream.send(*before, Request(gap=gap), *after, finish_message(after))
    songs = songs_in(list(stream))
    stream.half_close()
    assert len(songs) == 8
    for early, late in zip(songs[:4], songs[4:], strict=True):
        assert abs(late.onset_sample - early.onset_sample - end - n_gap) < RATE // 10
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    (bucket,) = stub.QueryFrequencies(songs_pb2.QueryFrequenciesRequest()).buckets
    assert bucket.recorded_s == pytest.approx(2 * len(samples) / RATE)


def test_a_gap_is_counted_once_it_is_committed(bundle: Any, tmp_path: Path, samples: Any) -> None:
    """Sent again after a broken connection it counts once, and a restart forgets nothing."""
    chunks = chunk_messages(samples, [RATE])
    gap = ingest_pb2.Gap(sequence_number=1, sample_count=RATE // 2, reason=ingest_pb2.Gap.REASON_DEVICE_LOST)
    later = [
        changed(chunk, sequence_number=chunk.sequence_number + 1, start_sample=chunk.start_sample + RATE // 2)
        for chunk in chunks
    ]

    def declared_s(server: ServerThread) -> dict[str, float]:
        found = re.findall(
            r'^songstream_ingest_declared_gap_seconds_total{reason="(\w+)"} (\S+)', scrape(server), re.MULTILINE
        )
        assert len(found) == len(ingest_pb2.Gap.Reason.keys())
        return {reason: float(seconds) for reason, seconds in found if float(seconds)}

    with ServerThread(bundle, tmp_path) as server:
        broken = Stream(server.channel, setup())
        broken.send(Request(gap=gap))
        broken.read_until_received(1)
        assert declared_s(server) == {}
        broken.call.cancel()
        broken.half_close()
        stream = Stream(server.channel, setup())
        assert stream.read().setup_ack.expected_sequence_number == 1
        stream.send(Request(gap=gap), *later, finish_message(later))
        assert list(stream)[-1].ack.finished
        stream.half_close()
        assert declared_s(server) == {"device_lost": 0.5}
    with ServerThread(bundle, tmp_path) as server:
        assert declared_s(server) == {"device_lost": 0.5}


def test_streams_are_limited(start_server: Any) -> None:
    """One stream more than the limit is refused while the first goes on."""
    server = start_server(max_streams=1)
    first = Stream(server.channel, setup())
    first.read()
    assert Stream(server.channel, setup(session_name("south", 2))).fails_with()[:2] == (
        "RESOURCE_EXHAUSTED",
        "STREAM_LIMIT",
    )
    first.send(finish_message([]))
    assert [response.ack.finished for response in first] == [True]
    first.half_close()


def test_draining_commits_and_says_go_away(bundle: Any, tmp_path: Path, samples: Any) -> None:
    """On the way out the server commits what came in, announces it, and ends streams with DRAINING."""
    chunks = chunk_messages(samples, [RATE])
    with ServerThread(bundle, tmp_path) as server:
        stream = Stream(server.channel, setup())
        stream.send(*chunks[:6])
        stream.read_until_committed(1)
        server.stop()
        assert stream.fails_with()[:2] == ("UNAVAILABLE", "DRAINING")
        assert any(response.HasField("go_away") for response in stream.responses)
    with ServerThread(bundle, tmp_path) as server:
        status = status_of(server)
        assert status.committed_sequence_number >= 3
        rest = Stream(server.channel, setup())
        rest.send(*chunks[status.committed_sequence_number :], finish_message(chunks))
        list(rest)
        rest.half_close()
        assert len(stored_songs(server)) == 4
