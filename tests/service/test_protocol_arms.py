"""Every arm of the protocol over a real port: events, credit, FLAC, leases, finishing without a stream, guesses."""

import io
import time
import urllib.request
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from google_crc32c import value as crc32c

from bundles import soundscape
from serving import (
    START_MS,
    Chunk,
    Request,
    Response,
    ServerThread,
    Stream,
    chunk_messages,
    failure,
    finish_message,
    scrape,
    session_name,
    setup,
    stream_all,
)
from songcore.arrays import FloatArray
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, songs_pb2, songs_pb2_grpc

RATE = 24_000
SAMPLES = soundscape([0, 1, 2, 3], 5)[0]
Kind = ingest_pb2.SessionEvent.Kind


def flac_chunks(samples: FloatArray, size: int) -> list[Chunk]:
    """Return mono samples (n,) as chunks that are each a FLAC stream."""
    chunks = chunk_messages(samples, [size])
    for chunk in chunks:
        chunk.data = flac(np.frombuffer(chunk.data, "<i2"))
        chunk.crc32c = crc32c(chunk.data)
    return chunks


def flac(samples: Any, *, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    """Return samples (n,) or (n, n_channels) int16 as one FLAC stream."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype=subtype)
    return file.getvalue()


def stub(server: ServerThread) -> Any:
    """Return the stub of sessions."""
    return ingest_pb2_grpc.IngestServiceStub(server.channel)


def finish(server: ServerThread, last: int, total: int, number: int = 1) -> Any:
    """Finish a session without a stream."""
    request = ingest_pb2.FinishSessionRequest(
        session=session_name(number=number), last_sequence_number=last, total_samples=total
    )
    return stub(server).FinishSession(request, timeout=30)


def refused(server: ServerThread, last: int, total: int, number: int = 1) -> tuple[str, str, dict[str, str]]:
    """Return how finishing without a stream is refused."""
    with pytest.raises(grpc.RpcError) as error:
        finish(server, last, total, number)
    return failure(error.value)


def stored(server: ServerThread) -> list[Any]:
    """Return every song of the store."""
    songs: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    return list(songs.ListSongs(songs_pb2.ListSongsRequest(page_size=1000, include_noise=True)).songs)


def events(responses: list[Response]) -> list[ingest_pb2.SessionEvent]:
    """Return the events among responses."""
    return [response.session_event for response in responses if response.HasField("session_event")]


def with_setup(request: Request, **fields: Any) -> Request:
    """Return a setup with other fields."""
    copy = Request()
    copy.CopyFrom(request)
    for name, value in fields.items():
        setattr(copy.setup, name, value)
    return copy


def metric(server: ServerThread, name: str) -> float:
    """Return the sum of a metric over its labels."""
    with urllib.request.urlopen(server.addresses.metrics) as page:  # noqa: S310 - our own server
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def test_a_backlog_does_not_set_the_committed_time_back(server: ServerThread) -> None:
    """The gauge is the live stream's: a stream of the backlog, before or after it, does not move it."""
    name = "songstream_station_committed_timestamp_seconds"

    def backlog(number: int) -> None:
        late = setup(session_name(number=number), start_ms=START_MS - 3_600_000)
        stream_all(server.channel, SAMPLES, [RATE], with_setup(late, lane=ingest_pb2.LANE_BACKFILL))

    backlog(2)
    assert metric(server, name) == 0
    stream_all(server.channel, SAMPLES, [RATE])
    until_s = START_MS / 1000 + len(SAMPLES) / RATE
    assert metric(server, name) == pytest.approx(until_s, abs=0.01)
    backlog(3)
    assert metric(server, name) == pytest.approx(until_s, abs=0.01)


def test_flac_gives_the_rows_of_pcm(start_server: Any, tmp_path: Any) -> None:
    """The same samples as FLAC and as 16-bit integers give the same songs, under the same names."""
    plain, packed = start_server(tmp_path / "pcm"), start_server(tmp_path / "flac")
    stream_all(plain.channel, SAMPLES, [RATE // 2])
    chunks = flac_chunks(SAMPLES, RATE // 2)
    stream = Stream(packed.channel, setup(encoding=ingest_pb2.AudioFormat.ENCODING_FLAC))
    stream.send(*chunks, finish_message(chunks))
    assert list(stream)[-1].ack.finished
    stream.half_close()
    assert len(stored(plain)) == 4
    assert stored(packed) == stored(plain)


@pytest.mark.parametrize(
    ("data", "sample_count", "reason"),
    [
        (flac(np.zeros(500, np.int16)), 499, "CHUNK_SHAPE"),
        (flac(np.zeros(500, np.int16), rate=48_000), 500, "CHUNK_SHAPE"),
        (flac(np.zeros((500, 2), np.int16)), 500, "CHUNK_SHAPE"),
        (flac(np.zeros(500, np.int32), subtype="PCM_24"), 500, "CHUNK_SHAPE"),
        (b"RIFF" + bytes(60), 500, "CHUNK_CORRUPT"),
        (b"fLaC", 500, "CHUNK_CORRUPT"),
        (flac(np.arange(5000, dtype=np.int16))[:60], 5000, "CHUNK_CORRUPT"),
    ],
)
def test_flac_that_lies_is_refused(shared_server: ServerThread, data: bytes, sample_count: int, reason: str) -> None:
    """A chunk that is no FLAC, of another rate, length, width or channels, or cut off names itself."""
    first = setup(session_name(number=crc32c(data)), encoding=ingest_pb2.AudioFormat.ENCODING_FLAC)
    stream = Stream(shared_server.channel, first)
    stream.send(Chunk(sequence_number=1, sample_count=sample_count, data=data, crc32c=crc32c(data)))
    stream.half_close()
    assert stream.fails_with()[1] == reason


def test_a_session_can_be_finished_without_a_stream(server: ServerThread) -> None:
    """FinishSession says what is missing, uses what a connected stream sent, and may be asked again."""
    chunks = chunk_messages(SAMPLES, [RATE])
    last, total = len(chunks), len(SAMPLES)
    assert refused(server, last, total)[:2] == ("NOT_FOUND", "SESSION_UNKNOWN")
    stream = Stream(server.channel, setup())
    stream.send(*chunks[:5])
    stream.read_until_committed(3)
    assert refused(server, last, total) == ("OUT_OF_RANGE", "SEQUENCE_GAP", {"expected": "6"})
    stream.send(*chunks[5:])
    for response in stream:
        if response.ack.received_sequence_number == last:
            break
    assert refused(server, last, total - 1)[:2] == ("INVALID_ARGUMENT", "FINISH_MISMATCH")
    status = finish(server, last, total)
    assert (status.finished, status.committed_sample, status.n_songs) == (True, total, 4)
    assert list(stream)[-1].ack.finished
    stream.half_close()
    again = finish(server, last, total)
    assert (again.finished, again.committed_sequence_number) == (True, last)
    assert refused(server, last, total + 1)[:2] == ("INVALID_ARGUMENT", "FINISH_MISMATCH")


def test_a_session_of_gaps_is_finished_alone(server: ServerThread) -> None:
    """With everything committed and no stream connected, FinishSession closes the session by itself."""
    stream = Stream(server.channel, setup())
    stream.send(Request(gap=ingest_pb2.Gap(sequence_number=1, sample_count=RATE)))
    stream.half_close()
    assert [event.kind for event in events(list(stream))] == [Kind.KIND_GAP]
    status = finish(server, 1, RATE)
    assert status.finished
    assert not status.connected


def test_status_tells_what_is_only_in_memory(server: ServerThread) -> None:
    """GetSessionStatus tells received beside committed, the bundle, where listening goes on, and a resume token."""
    chunks = chunk_messages(SAMPLES, [RATE // 2])
    stream = Stream(server.channel, setup())
    stream.send(*chunks[:9])
    stream.read_until_committed(2)
    status = stub(server).GetSessionStatus(ingest_pb2.GetSessionStatusRequest(session=session_name()))
    assert status.connected
    assert 2 <= status.committed_sequence_number <= status.received_sequence_number <= 9
    assert status.open_since_sample >= status.committed_sample
    assert status.model_bundle.startswith("modelBundles/")
    assert status.resume_token
    stream.half_close()


def test_a_hole_is_answered_with_the_gap_to_declare(server: ServerThread) -> None:
    """A client that no longer has what is expected is told which gap to send, and goes on behind it."""
    chunks = chunk_messages(SAMPLES, [RATE])
    first = with_setup(setup(), first_available_sequence_number=4, first_available_sample=3 * RATE)
    stream = Stream(server.channel, first)
    missing = stream.read().setup_ack.missing
    assert (missing.sequence_number, missing.last_sequence_number) == (1, 3)
    assert (missing.start_sample, missing.sample_count) == (0, 3 * RATE)
    assert missing.reason == ingest_pb2.Gap.REASON_SPOOL_EXPIRED
    stream.send(Request(gap=missing), *chunks[3:], finish_message(chunks))
    responses = list(stream)
    stream.half_close()
    assert responses[-1].ack.finished
    (gap,) = [event for event in events(responses) if event.kind == Kind.KIND_GAP]
    assert (gap.start_sample, gap.sample_count, gap.gap_reason) == (0, 3 * RATE, ingest_pb2.Gap.REASON_SPOOL_EXPIRED)


@pytest.mark.parametrize(
    ("number", "sample", "reason"),
    [(4, 2, "SETUP_INVALID"), (0, 9, "SETUP_INVALID"), (2**63, 2**63, "SETUP_INVALID"), (4, 2**40, "GAP_TOO_LONG")],
)
def test_a_hole_that_cannot_be_is_refused(shared_server: ServerThread, number: int, sample: int, reason: str) -> None:
    """More chunks than samples, a sample of no chunk, and a hole too long for a session are refused at the setup."""
    first = setup(session_name(number=number + sample + 77))
    first = with_setup(first, first_available_sequence_number=number, first_available_sample=sample)
    assert Stream(shared_server.channel, first).fails_with()[:2] == ("INVALID_ARGUMENT", reason)


def test_an_older_database_is_noticed_by_the_resume_token(server: ServerThread) -> None:
    """A token of an ack that the database does not know brings KIND_REWOUND, one it knows does not."""
    chunks = chunk_messages(SAMPLES, [RATE])
    stream = Stream(server.channel, setup())
    stream.send(*chunks)
    token = stream.read_until_committed(4)[-1].ack.resume_token
    stream.half_close()
    list(stream)
    for given, expected in ((token, []), ("1.99", [Kind.KIND_REWOUND])):
        resumed = Stream(server.channel, with_setup(setup(), resume_token=given))
        resumed.half_close()
        assert [event.kind for event in events(list(resumed))] == expected
    bad = Stream(server.channel, with_setup(setup(), resume_token="x"))  # noqa: S106 - no secret
    assert bad.fails_with()[:2] == ("INVALID_ARGUMENT", "SETUP_INVALID")
    assert metric(server, "songstream_ingest_rewinds_total") == 1


def test_a_dead_microphone_and_too_much_gain_are_told(server: ServerThread) -> None:
    """Six seconds of one value bring KIND_SILENCE, sound behind them KIND_SOUND, full scale KIND_CLIPPING."""
    loud = np.clip(SAMPLES[: 2 * RATE] * 50, -1, 1)
    chunks = chunk_messages(np.concatenate([np.zeros(6 * RATE, np.float32), loud]), [RATE])
    chunks[-1].clipped_sample_count = 7
    stream = Stream(server.channel, setup())
    stream.send(*chunks, finish_message(chunks))
    told = events(list(stream))
    stream.half_close()
    assert [event.kind for event in told] == [Kind.KIND_SILENCE, Kind.KIND_SOUND, Kind.KIND_CLIPPING]
    assert (told[0].start_sample, told[0].sample_count) == (0, 5 * RATE)
    assert metric(server, "songstream_station_clipped_samples_total") == 7


def test_a_heartbeat_tells_how_the_station_is(server: ServerThread) -> None:
    """Its fields become metrics of the station, and a clock an hour off brings KIND_CLOCK."""
    beat = ingest_pb2.Heartbeat(
        spool_bytes=11,
        spool_room_bytes=13,
        disk_free_bytes=12,
        supply_volts=3.5,
        clock_source=ingest_pb2.CLOCK_SOURCE_GNSS,
    )
    beat.create_time.FromSeconds(int(time.time()) + 3600)
    beat.spool_oldest_time.FromSeconds(1_700_000_000)
    beat.clock_error.FromMilliseconds(20)
    stream = Stream(server.channel, setup())
    stream.send(Request(heartbeat=beat))
    stream.read()
    event = next(response for response in stream if response.HasField("session_event")).session_event
    assert event.kind == Kind.KIND_CLOCK
    assert abs(event.clock_offset.ToSeconds() - 3600) < 60
    for name, value in (
        ("spool_bytes", 11),
        ("spool_room_bytes", 13),
        ("disk_free_bytes", 12),
        ("supply_volts", 3.5),
        ("clock_error_seconds", 0.02),
        ("clock_synchronized", 1),
        ("spool_oldest_timestamp_seconds", 1_700_000_000),
    ):
        assert metric(server, f"songstream_station_{name}") == pytest.approx(value)
    assert metric(server, "songstream_station_temperature_celsius") == 0  # it said nothing: no series
    stream.half_close()


def test_what_a_station_runs_is_one_series(server: ServerThread) -> None:
    """Whatever a client calls itself, the last is shown, shortened, and those before are not."""
    for number, client in enumerate(("station/1", "station/2" + 100 * "x"), 1):
        first = setup(session_name(number=number))
        first.setup.client = client
        assert stream_all(server.channel, np.zeros(100, np.float32), [100], first)[-1].ack.finished
    shown = [line for line in scrape(server).splitlines() if line.startswith("songstream_station_info{")]
    labels = f'sample_rate_hz="24000",station="north",version="{client[:64]}"'
    assert shown == [f"songstream_station_info{{{labels}}} 1.0"]


def test_a_lease_ends_a_stream_and_loses_nothing(start_server: Any) -> None:
    """At the age in setup_ack.lease the server says go_away and ends the stream; the session goes on in the next."""
    server = start_server(lease_s=0.7)
    chunks = chunk_messages(SAMPLES, [RATE])
    stream = Stream(server.channel, setup())
    answer = stream.read().setup_ack
    assert answer.lease.ToMilliseconds() == 700
    stream.send(*chunks[:6])
    assert stream.fails_with()[:2] == ("UNAVAILABLE", "LEASE_EXPIRED")
    (away,) = [response.go_away for response in stream.responses if response.HasField("go_away")]
    assert away.reason == ingest_pb2.GoAway.REASON_LEASE_EXPIRED
    committed = stub(server).GetSessionStatus(ingest_pb2.GetSessionStatusRequest(session=session_name()))
    rest = Stream(server.channel, setup())
    rest.send(*chunks[committed.committed_sequence_number :], finish_message(chunks))
    assert list(rest)[-1].ack.finished
    rest.half_close()
    assert len(stored(server)) == 4


def test_acks_come_when_nothing_else_does(server: ServerThread) -> None:
    """A client that sends nothing hears from the server all the same: every 2 s, and on a busy machine within 15 s."""
    stream = Stream(server.channel, setup())
    assert stream.read().setup_ack.expected_sequence_number == 1
    for _ in range(2):
        began = time.monotonic()
        assert stream.read().ack.max_in_flight_chunks > 0
        assert time.monotonic() - began < 15
    stream.half_close()


def test_guesses_come_while_a_song_is_sung(server: ServerThread) -> None:
    """With RESULT_MODE_PARTIAL guesses precede the song, are revised, have its onset, and are not stored."""
    rng = np.random.default_rng(3)
    song = soundscape([2], 3, gap_s=0.01, noise=0)[0]
    long = np.concatenate(
        [np.zeros(2 * RATE, np.float32), *[song[: int(1.2 * RATE)]] * 4, np.zeros(2 * RATE, np.float32)]
    )
    long = (long + 0.002 * rng.standard_normal(len(long))).astype(np.float32)
    results: dict[int, list[Response]] = {}
    for number, mode in ((1, ingest_pb2.RESULT_MODE_PARTIAL), (2, ingest_pb2.RESULT_MODE_FINAL)):
        chunks = chunk_messages(long, [RATE // 2])
        stream = Stream(server.channel, with_setup(setup(session_name(number=number)), result_mode=mode))
        results[number] = []
        stream.read()
        for chunk in chunks:
            stream.send(chunk)
            time.sleep(0.3)  # as slowly as sound comes, so that steps are short
        stream.send(finish_message(chunks))
        results[number] = [response for response in stream if response.HasField("song")]
        stream.half_close()
    songs = [response.song for response in results[1]]
    partial = [event for event in songs if event.state == ingest_pb2.SongEvent.STATE_PARTIAL]
    final = [event for event in songs if event.state == ingest_pb2.SongEvent.STATE_FINAL]
    assert len(partial) >= 2
    assert [event.revision for event in partial] == list(range(1, len(partial) + 1))
    assert {event.song.onset_sample for event in partial} == {final[0].song.onset_sample}
    assert all(event.song.name == "" and event.song.song_type for event in partial)
    assert songs.index(partial[-1]) < songs.index(final[0])
    assert [event.song.onset_sample for event in final] == [r.song.song.onset_sample for r in results[2]]
    assert [event.song.similarity for event in final] == [r.song.song.similarity for r in results[2]]
    assert all(r.song.state == ingest_pb2.SongEvent.STATE_FINAL for r in results[2])
    assert len(stored(server)) == 2 * len(final)


def test_credit_is_given_and_acknowledged_in_time(start_server: Any) -> None:
    """A client that never sends beyond its credit of two small chunks is never left waiting."""
    server = start_server(max_in_flight_chunks=2)
    chunks = chunk_messages(SAMPLES[: 4 * RATE], [RATE // 10])
    stream = Stream(server.channel, setup())
    credit = stream.read().setup_ack.max_in_flight_chunks
    assert credit == 2
    sent = received = 0
    while received < len(chunks):
        while sent < len(chunks) and sent - received < credit:
            stream.send(chunks[sent])
            sent += 1
        response = stream.read()
        if response.HasField("ack"):
            received, credit = response.ack.received_sequence_number, response.ack.max_in_flight_chunks
    stream.send(finish_message(chunks))
    assert list(stream)[-1].ack.finished
    stream.half_close()


def test_credit_shrinks_while_sound_piles_up(start_server: Any) -> None:
    """A station that comes while the memory for waiting sound is nearly full may send less ahead than one before."""
    server = start_server(max_in_flight_mb=4, max_waiting_kb=4096, listen_window_ms=1000.0)
    first = Stream(server.channel, setup(rate=48_000))
    full = first.read().setup_ack
    assert full.max_in_flight_chunks == server.settings.max_in_flight_chunks
    first.send(*chunk_messages(np.zeros(35 * 48_000, np.float32), [48_000]))
    for number in range(2, 100):
        second = Stream(server.channel, setup(session_name(number=number)))
        credit = second.read().setup_ack
        second.half_close()
        if credit.max_in_flight_chunks < full.max_in_flight_chunks:
            assert credit.max_in_flight_bytes < full.max_in_flight_bytes
            break
    else:
        raise AssertionError("credit never shrank")
    first.half_close()


def test_another_bundle_is_told(bundle: Any, tmp_path: Any) -> None:
    """A session that resumes under a bundle with another segmenter begins with KIND_BUNDLE_CHANGED."""
    from dataclasses import replace

    from bundles import bundle_parts
    from songcore.bundle import write_bundle

    parts = bundle_parts(seed=3)
    stream_config = replace(
        parts.stream, segmenter=parts.stream.segmenter.model_copy(update={"min_evidence_db_s": 4.5})
    )
    other = write_bundle(tmp_path / "other", replace(parts, stream=stream_config))
    chunks = chunk_messages(SAMPLES, [RATE])
    with ServerThread(bundle, tmp_path / "data") as server:
        stream = Stream(server.channel, setup())
        stream.send(*chunks[:6])
        stream.read_until_committed(3)
        stream.half_close()
        list(stream)
    with ServerThread(other, tmp_path / "data") as server:
        stream = Stream(server.channel, setup())
        stream.half_close()
        assert [event.kind for event in events(list(stream))] == [Kind.KIND_BUNDLE_CHANGED]
