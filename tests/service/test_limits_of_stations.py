"""What one station may take: streams at once, and sound for each second."""

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from serving import (
    START_MS,
    Request,
    ServerThread,
    Stream,
    chunk_messages,
    finish_message,
    session_name,
    setup,
)
from songcore.bundle import Bundle
from songserve.refusal import Refusal
from songserve.security.stations import N_REMEMBERED, Budget, StationLimits, StationShares
from songserve.server import _shares
from songserve.servicers.audio_reader import GAP_COST_S
from songserve.settings import ServeSettings
from songserve.v1 import ingest_pb2, ingest_pb2_grpc
from tokens import add_token

RATE = 24_000
DAY_MS = 86_400_000
CHUNKS = chunk_messages(np.zeros(3 * RATE, np.float32), [RATE // 2])
"""Of half a second."""


def stalls(server: ServerThread) -> float:
    """Return how often the server stopped reading."""
    text = urllib.request.urlopen(server.addresses.metrics, timeout=10).read().decode()  # noqa: S310 - our own port
    (found,) = re.findall(r"^songstream_ingest_credit_stalls_total (\S+)", text, re.MULTILINE)
    return float(found)


@pytest.fixture
def known_stations(bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a server with tokens of two stations, and gives it with their metadata."""
    file = tmp_path / "tokens.json"
    metadata = {name: [("authorization", f"Bearer {add_token(file, name)}")] for name in ("north", "south")}
    servers: list[ServerThread] = []

    def start(**settings: Any) -> tuple[ServerThread, dict[str, Any]]:
        servers.append(ServerThread(bundle, tmp_path / "data", token_file=file, **settings).__enter__())
        return servers[0], metadata

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def test_a_station_has_so_many_streams(known_stations: Callable[..., Any]) -> None:
    """The last one that it may have is served and the next refused for a while; a session taken over is not another."""
    server, metadata = known_stations(max_streams_per_station=2)

    def stream(number: int, station: str = "north") -> Stream:
        return Stream(server.channel, setup(session_name(station, number)), metadata=metadata[station])

    first, second = stream(1), stream(2)
    assert first.read().HasField("setup_ack")
    assert second.read().HasField("setup_ack")
    third = stream(3)
    assert third.fails_with()[:2] == ("RESOURCE_EXHAUSTED", "STREAM_LIMIT")
    delay = RetryInfo()
    assert any(detail.Unpack(delay) for detail in rpc_status.from_call(third.call).details)
    assert delay.retry_delay.seconds > 0
    again = stream(2)
    assert again.read().HasField("setup_ack")
    assert second.fails_with()[1] == "WRITER_FENCED"
    other = stream(4, "south")
    assert other.read().HasField("setup_ack")
    again.send(finish_message([]))
    assert list(again)[-1].ack.finished
    third = stream(3)
    assert third.read().HasField("setup_ack")
    for open_stream in (first, again, other, third):
        open_stream.half_close()


def test_a_station_begins_so_many_sessions_a_day(known_stations: Callable[..., Any]) -> None:
    """The last one that it may begin is served and the next refused for a while; one that has begun goes on all the same."""
    server, metadata = known_stations(max_sessions_per_day=2)

    def served(number: int, station: str = "north") -> None:
        stream = Stream(server.channel, setup(session_name(station, number)), metadata=metadata[station])
        assert stream.read().HasField("setup_ack")
        stream.half_close()
        list(stream)

    served(1)
    served(2)
    third = Stream(server.channel, setup(session_name("north", 3)), metadata=metadata["north"])
    assert third.fails_with()[:2] == ("RESOURCE_EXHAUSTED", "SESSION_LIMIT")
    delay = RetryInfo()
    assert any(detail.Unpack(delay) for detail in rpc_status.from_call(third.call).details)
    assert delay.retry_delay.seconds > 0
    served(1)
    served(3, "south")


def test_sessions_come_back_with_time() -> None:
    """One after as much of a day as one of them is of all; a clock that is read late gives none twice."""
    limits = StationLimits(StationShares(n_sessions_per_day=4))
    for _ in range(4):
        assert limits.may_begin_session("north", now=0.0)
        limits.session_begun("north", now=0.0)
    quarter_s = DAY_MS / 4000
    for now in (quarter_s - 1, 0.0, quarter_s - 1):
        assert not limits.may_begin_session("north", now)
    assert limits.may_begin_session("north", quarter_s + 1)
    assert StationLimits().may_begin_session("north", now=0.0)


def test_without_credentials_names_are_not_counted(start_server: Callable[..., ServerThread]) -> None:
    """Where anyone may give any name a share by name protects nobody, and is not kept."""
    server = start_server(max_streams_per_station=1, live_speed=0.001, burst_s=0)
    streams = [Stream(server.channel, setup(session_name(number=number))) for number in (1, 2)]
    for stream in streams:
        stream.send(*CHUNKS[:2], finish_message(CHUNKS[:2]))
        assert list(stream)[-1].ack.finished
        stream.half_close()


def test_a_station_that_sends_too_fast_is_read_more_slowly(known_stations: Callable[..., Any]) -> None:
    """Up to its burst all is read at once; past it reading stops, in this lane and for this station alone."""
    server, metadata = known_stations(live_speed=0.001, backfill_speed=0.001, burst_s=2.0)

    def stream(number: int, *, lane: ingest_pb2.Lane.ValueType = ingest_pb2.LANE_LIVE, who: str = "north") -> Stream:
        first = setup(session_name(who, number))
        first.setup.lane = lane
        return Stream(server.channel, first, metadata=metadata[who])

    at_the_limit = stream(1)
    at_the_limit.send(*CHUNKS[:4], finish_message(CHUNKS[:4]))
    assert list(at_the_limit)[-1].ack.finished
    assert stalls(server) == 0
    past = stream(2)
    past.send(*CHUNKS[:2], finish_message(CHUNKS[:2]))
    while stalls(server) == 0:
        pass
    for beside in (stream(3, lane=ingest_pb2.LANE_BACKFILL), stream(4, who="south")):
        beside.send(*CHUNKS[:4], finish_message(CHUNKS[:4]))
        assert list(beside)[-1].ack.finished
        beside.half_close()
    stub: Any = ingest_pb2_grpc.IngestServiceStub(server.channel)
    request = ingest_pb2.GetSessionStatusRequest(session=session_name("north", 2))
    assert stub.GetSessionStatus(request, metadata=metadata["north"]).received_sequence_number <= 1
    assert stalls(server) == 1
    past.call.cancel()
    for one in (past, at_the_limit):
        one.half_close()


def gaps(n: int, seconds: int = 3600) -> list[Request]:
    """Return so many gaps in a row."""
    n_samples = seconds * RATE
    return [
        Request(gap=ingest_pb2.Gap(sequence_number=number + 1, start_sample=number * n_samples, sample_count=n_samples))
        for number in range(n)
    ]


def gaps_end(n: int, seconds: int = 3600) -> Request:
    """Return the finish behind so many gaps."""
    return Request(finish=ingest_pb2.Finish(last_sequence_number=n, total_samples=n * seconds * RATE))


@pytest.mark.parametrize("seconds", [1, 3600])
def test_gaps_spend_a_station_s_budget(known_stations: Callable[..., Any], seconds: int) -> None:
    """Each counts as a quarter of a second of sound, however long it is; past the burst reading stops."""
    server, metadata = known_stations(live_speed=0.001, burst_s=2.0)
    at_the_limit = Stream(server.channel, setup(session_name("north", 1)), metadata=metadata["north"])
    at_the_limit.send(*gaps(8, seconds), gaps_end(8, seconds))
    assert list(at_the_limit)[-1].ack.finished
    assert stalls(server) == 0
    past = Stream(server.channel, setup(session_name("north", 2)), metadata=metadata["north"])
    past.send(*gaps(2, seconds))
    deadline = time.monotonic() + 30
    while stalls(server) == 0:
        assert time.monotonic() < deadline
    stub: Any = ingest_pb2_grpc.IngestServiceStub(server.channel)
    request = ingest_pb2.GetSessionStatusRequest(session=session_name("north", 2))
    assert stub.GetSessionStatus(request, metadata=metadata["north"]).received_sequence_number <= 1
    past.call.cancel()
    for one in (past, at_the_limit):
        one.half_close()


def test_a_season_s_outage_is_declared_at_once(known_stations: Callable[..., Any]) -> None:
    """The gaps of 90 days fit into the burst: the station that comes back waits for nothing but the store."""
    n_gaps = 90 * 24
    settings = ServeSettings(bundle=Path("b"), data_dir=Path("d"))
    assert StationLimits(_shares(settings)).budget("north", "live", 0).spend(n_gaps * GAP_COST_S, now=0) == 0
    server, metadata = known_stations()
    stream = Stream(
        server.channel, setup(session_name("north"), start_ms=START_MS - 90 * DAY_MS), metadata=metadata["north"]
    )
    stream.send(*gaps(n_gaps), gaps_end(n_gaps))
    last = list(stream)[-1].ack
    stream.half_close()
    assert (last.finished, last.committed_sequence_number) == (True, n_gaps)


def test_a_budget_ends_where_it_says() -> None:
    """What is saved may come at once, the next second of sound costs its share of a second, and saving has an end."""
    budget = Budget(speed=4, burst=10)
    assert budget.spend(10, now=100) == 0
    assert budget.spend(1, now=100) == 0.25
    assert budget.spend(0, now=100.25) == 0
    assert budget.spend(0.001, now=100.25) == pytest.approx(0.00025)
    assert budget.spend(10, now=1e9) == 0
    assert budget.spend(4, now=1e9) == 1
    assert not budget.full(1e9 + 3)
    assert budget.full(1e9 + 3.5)
    assert Budget(speed=0, burst=0).spend(1e9, now=0) == 0


@pytest.mark.parametrize(("lane", "second_s"), [("live", 1 / 4), ("backfill", 1 / 16)])
def test_by_default_ten_minutes_may_come_at_once(lane: str, second_s: float) -> None:
    """After them a second of sound costs a quarter of a second, and one of a backlog a sixteenth."""
    settings = ServeSettings(bundle=Path("b"), data_dir=Path("d"))
    budget = StationLimits(_shares(settings)).budget("north", lane, 0)
    assert budget.spend(600, now=0) == 0
    assert budget.spend(1, now=0) == second_s


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 5)), min_size=1, max_size=40),
    st.floats(0.5, 20),
    st.floats(0, 20),
)
def test_a_budget_holds_over_any_time(arrivals: list[tuple[float, float]], speed: float, burst_s: float) -> None:
    """Who waits as told never has more than burst and speed allow, but for the chunk that came last."""
    budget, now, total, longest = Budget(speed, burst_s), 0.0, 0.0, 0.0
    for pause_s, sound_s in arrivals:
        now += pause_s
        assert total <= burst_s + speed * now + 1e-6
        total, longest = total + sound_s, max(longest, sound_s)
        now += budget.spend(sound_s, now)
    assert total <= burst_s + speed * now + 1e-6


def test_names_that_came_once_are_forgotten() -> None:
    """Thousands of stations that never come again leave nothing behind; one that streams, or has spent, stays."""
    limits = StationLimits(StationShares(n_streams=1, live_speed=1, backfill_speed=1, burst_s=10))
    limits.budget("spender", "live", 0).spend(1e6, 0)
    with limits.streaming("streamer", UUID(int=1), 0):
        for number in range(3 * N_REMEMBERED):
            limits.budget(f"station-{number}", "live", 0)
        assert len(limits._stations) <= N_REMEMBERED
        assert limits.budget("spender", "live", 0).spend(1, 0) > 1e5
        with pytest.raises(Refusal), limits.streaming("streamer", UUID(int=2), 0):
            pass
    with limits.streaming("streamer", UUID(int=2), 0):
        pass
