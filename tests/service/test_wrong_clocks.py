"""Times that cannot be, on a stream: a wrong clock loses no sound, and what is no time is refused before anything is taken."""

import time
from dataclasses import replace
from math import inf, isnan, nan
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bundles import soundscape
from serving import (
    START_MS,
    Chunk,
    Request,
    Response,
    ServerThread,
    Stream,
    chunk_messages,
    finish_message,
    scrape,
    setup,
)
from songcore.errors import SongError
from songserve.ingest_requests import check_time
from songserve.intake import Chunk as Sound
from songserve.intake import Gap
from songserve.notices import CLOCK_AHEAD_S, is_far_ahead
from songserve.records import AudioFormat, SessionName, SessionOpening
from songserve.refusal import Refusal
from songserve.requests import milliseconds
from songserve.times import DAY_MS
from songserve.v1 import ingest_pb2

RATE = 24_000
SAMPLES = soundscape([0, 1], 5)[0]
FIRST_S, LAST_S = -62_135_596_800, 253_402_300_799
"""Where the year 1 begins and the year 9999 ends."""
LATEST = Timestamp(seconds=LAST_S, nanos=999_999_999)
NEVER = (Timestamp(seconds=LAST_S + 1), Timestamp(seconds=FIRST_S - 1), Timestamp(nanos=-1))
Kind = ingest_pb2.SessionEvent.Kind


def chunks_captured(at: Timestamp) -> list[Chunk]:
    """Return sound of which every chunk was captured at one time."""
    chunks = chunk_messages(SAMPLES, [RATE])
    for chunk in chunks:
        chunk.capture_time.CopyFrom(at)
    return chunks


def offsets_told(responses: list[Response]) -> list[float]:
    """Return by how many seconds the station's clock is said to be off, for each time that it is."""
    events = [response.session_event for response in responses if response.HasField("session_event")]
    return [event.clock_offset.ToNanoseconds() / 1e9 for event in events if event.kind == Kind.KIND_CLOCK]


def gauge(server: ServerThread, name: str) -> float | None:
    """Return what a metric says of the station, None for nothing."""
    start = f'songstream_station_{name}{{station="north"}} '
    lines = scrape(server).splitlines()
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), None)


@pytest.mark.parametrize(
    ("at", "fits"),
    [
        (Timestamp(seconds=FIRST_S), True),
        (LATEST, True),
        *((at, False) for at in NEVER),
        (Timestamp(nanos=1_000_000_000), False),
        (Timestamp(seconds=2**63 - 1), False),
        (Timestamp(seconds=-(2**63)), False),
    ],
)
def test_times_are_of_the_years_1_to_9999(at: Timestamp, *, fits: bool) -> None:
    """What a Timestamp may be by its definition is read; all else is refused with the reason of its place."""
    if fits:
        assert milliseconds(at) == at.seconds * 1000 + at.nanos // 1_000_000
        return
    with pytest.raises(SongError) as refused:
        milliseconds(at, reason="CHUNK_SHAPE")
    assert refused.value.reason == "CHUNK_SHAPE"


@pytest.mark.parametrize("at", NEVER, ids=["year 10,000", "year 0", "nanos"])
def test_a_chunk_with_no_time_is_not_taken(server: ServerThread, at: Timestamp) -> None:
    """The chunk is refused, and counted so, before anything is taken in; the session goes on with the same number."""
    stream = Stream(server.channel, setup())
    stream.send(chunk_messages(SAMPLES, [RATE])[0], chunks_captured(at)[1])
    assert stream.fails_with() == ("INVALID_ARGUMENT", "CHUNK_SHAPE", {"sequence_number": "2"})
    text = scrape(server)
    for outcome in ("accepted", "rejected"):
        assert f'songstream_ingest_chunks_total{{outcome="{outcome}"}} 1.0' in text
    again = Stream(server.channel, setup())
    answer = again.read().setup_ack
    assert answer.expected_sequence_number <= 2
    chunks = chunk_messages(SAMPLES, [RATE])
    again.send(*chunks[answer.expected_sequence_number - 1 :], finish_message(chunks))
    assert list(again)[-1].ack.finished
    again.half_close()


@pytest.mark.parametrize(("ahead_s", "told"), [(CLOCK_AHEAD_S - 600, False), (CLOCK_AHEAD_S + 600, True)])
def test_sound_captured_in_the_future_is_heard(server: ServerThread, ahead_s: float, *, told: bool) -> None:
    """More than a day ahead tells nothing of drift and is told once, though every chunk says so; no song is missing."""
    at = Timestamp()
    at.FromMilliseconds(round((time.time() + ahead_s) * 1000))
    chunks = chunks_captured(at)
    stream = Stream(server.channel, setup())
    stream.send(*chunks, finish_message(chunks))
    responses = list(stream)
    stream.half_close()
    assert responses[-1].ack.finished
    assert sum(response.HasField("song") for response in responses) == 2
    assert offsets_told(responses) == ([pytest.approx(ahead_s, abs=60)] if told else [])
    assert (gauge(server, "sample_clock_offset_seconds") is None) == told


def test_the_latest_time_is_one(server: ServerThread) -> None:
    """A clock at the end of the year 9999, in chunks and heartbeats, costs nothing but what is told of it."""
    chunks = chunks_captured(LATEST)
    beat = Request(heartbeat=ingest_pb2.Heartbeat(create_time=LATEST, spool_oldest_time=LATEST))
    stream = Stream(server.channel, setup())
    stream.send(beat, *chunks, beat, finish_message(chunks))
    responses = list(stream)
    stream.half_close()
    assert responses[-1].ack.finished
    expected = pytest.approx(LAST_S - time.time(), abs=600)
    told = offsets_told(responses)
    assert 1 <= len(told) <= 2
    assert told[0] == expected
    assert gauge(server, "clock_offset_seconds") == expected


def test_the_day_ends_at_its_last_moment() -> None:
    """Exactly a day ahead may be, the next moment not."""
    assert not is_far_ahead(1000.0 + CLOCK_AHEAD_S, 1000.0)
    assert is_far_ahead(1000.001 + CLOCK_AHEAD_S, 1000.0)


@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("start_ms", [START_MS - 90 * DAY_MS, START_MS, START_MS + DAY_MS - 1001])
def test_sound_ends_a_day_from_now_at_the_latest(rate: int, start_ms: int) -> None:
    """By the session's start and its count of samples, to the sample; chunks as gaps."""
    opening = SessionOpening(SessionName("north", UUID(int=1)), AudioFormat("linear16", rate, 1, None), start_ms)
    n_samples = (START_MS + DAY_MS - start_ms) * rate // 1000
    for item in (Gap(7, 7, n_samples - 9, 9), Sound(7, n_samples - 9, 9, b"", 0)):
        check_time(item, opening, now_ms=START_MS)
        with pytest.raises(SongError, match="more than a day from now") as refused:
            check_time(replace(item, sample_count=10), opening, now_ms=START_MS)
        assert isinstance(refused.value, Refusal)
        assert (refused.value.reason, refused.value.metadata) == ("CHUNK_SHAPE", {"sequence_number": "7"})


def test_gaps_do_not_run_into_the_future(server: ServerThread) -> None:
    """Declared one after another they end a day from now: the 25th hour is refused, and those before are committed."""
    stream = Stream(server.channel, setup(start_ms=round(time.time() * 1000)))
    hours = [
        ingest_pb2.Gap(sequence_number=number + 1, start_sample=number * 3600 * RATE, sample_count=3600 * RATE)
        for number in range(25)
    ]
    stream.send(*(Request(gap=hour) for hour in hours))
    stream.half_close()
    assert stream.fails_with() == ("INVALID_ARGUMENT", "CHUNK_SHAPE", {"sequence_number": "25"})
    text = scrape(server)
    assert 'songstream_ingest_declared_gap_seconds_total{reason="unspecified"} 86400.0' in text
    assert 'songstream_ingest_chunks_total{outcome="rejected"} 1.0' in text


def test_sound_does_not_run_into_the_future(server: ServerThread) -> None:
    """A session may begin nearly a day from now, for a clock that is wrong; sent faster than it is sung it comes to an end."""
    chunks = chunk_messages(np.zeros(60 * RATE, np.float32), [10 * RATE])
    stream = Stream(server.channel, setup(start_ms=round(time.time() * 1000) + DAY_MS - 25_000))
    stream.send(*chunks)
    stream.half_close()
    code, reason, metadata = stream.fails_with()
    assert (code, reason) == ("INVALID_ARGUMENT", "CHUNK_SHAPE")
    assert 3 <= int(metadata["sequence_number"]) <= 6


def test_what_a_station_cannot_know_is_not_shown(server: ServerThread) -> None:
    """Measurements that are no numbers change nothing, an age of the spool that cannot be is unknown; the stream goes on."""
    good: Any = ingest_pb2.Heartbeat(supply_volts=3.5, temperature_celsius=-4.0)
    good.spool_oldest_time.FromSeconds(1_700_000_000)
    stream = Stream(server.channel, setup())
    stream.send(Request(heartbeat=good))
    for number, value in enumerate((nan, inf, -inf), 2):
        beat: Any = ingest_pb2.Heartbeat(spool_bytes=number, supply_volts=value, temperature_celsius=value)
        beat.spool_oldest_time.FromSeconds(round(time.time() + CLOCK_AHEAD_S + 600))
        stream.send(Request(heartbeat=beat))
    stream.send(finish_message([]))
    assert list(stream)[-1].ack.finished
    stream.half_close()
    assert gauge(server, "spool_bytes") == 4
    assert gauge(server, "supply_volts") == 3.5
    assert gauge(server, "temperature_celsius") == -4
    oldest = gauge(server, "spool_oldest_timestamp_seconds")
    assert oldest is not None
    assert isnan(oldest)
