"""QueryFrequencies over a port: a season by the hour comes in pages that every client takes, and holds nobody up."""

import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import insert

from serving import ServerThread, failure
from songserve.clients.connection import Connection, Server
from songserve.clients.songs import SongClient
from songserve.frequencies import Frequency
from songserve.responses import frequency_page
from songserve.schema import EVER, buckets
from songserve.tally import Tally
from songserve.times import DAY_MS, HOUR_MS
from songserve.v1 import songs_pb2, songs_pb2_grpc
from stores import Opened

N_STATIONS, N_HOURS = 30, 100 * 24
BEGAN_MS = 20_580 * DAY_MS
BEGAN = datetime.fromtimestamp(BEGAN_MS / 1000, UTC)
RECEIVED_BYTES = 4 * 2**20
"""What clients of gRPC take unless they are told otherwise."""
TYPES = {f"T{number:015d}": 2000 - number for number in range(10)}
"""Songs of an hour by type, with ids as long as they can be."""


def station(number: int) -> str:
    """Return a name as long as it can be."""
    return f"{number:02d}".rjust(63, "s")


def seconds(number: int, hour: int) -> float:
    """Return the effort of a station's hour, another for each."""
    return 1000 + number + hour / 4096


def fill(data_dir: Path, n_hours: int = N_HOURS) -> None:
    """Put a season of all stations into a store, as counts without their songs."""
    text = Tally(songs=TYPES).write()
    rows = [
        {
            "width_ms": width_ms,
            "station": station(number),
            "start_ms": start_ms,
            "recorded_s": recorded_s,
            "tally": text,
        }
        for number in range(N_STATIONS)
        for width_ms, start_ms, recorded_s in (
            (EVER, 0, 1.0),
            *((HOUR_MS, BEGAN_MS + hour * HOUR_MS, seconds(number, hour)) for hour in range(n_hours)),
        )
    ]
    with Opened(data_dir) as opened, opened.directory.writer.begin() as connection:
        connection.execute(insert(buckets), rows)


def by_the_hour(**fields: Any) -> songs_pb2.QueryFrequenciesRequest:
    """Return the question for every hour."""
    return songs_pb2.QueryFrequenciesRequest(bucket=Duration(seconds=3600), **fields)


@pytest.mark.timeout(240)
def test_a_season_by_the_hour_arrives_whole(start_server: Any, tmp_path: Path) -> None:
    """72,000 buckets come in pages far below what a client takes, each bucket once and with its own effort, in order."""
    fill(tmp_path / "data")
    server: ServerThread = start_server()
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    request, found, n_pages = by_the_hour(), list[tuple[str, int, float]](), 0
    while n_pages == 0 or request.page_token:
        page = stub.QueryFrequencies(request, timeout=60)
        assert page.ByteSize() < 0.6 * RECEIVED_BYTES
        found += [(one.station, one.start_time.ToMilliseconds(), one.recorded_s) for one in page.buckets]
        request.page_token, n_pages = page.next_page_token, n_pages + 1
    assert n_pages > 10
    assert found == [
        (f"stations/{station(number)}", BEGAN_MS + hour * HOUR_MS, seconds(number, hour))
        for number in range(N_STATIONS)
        for hour in range(N_HOURS)
    ]
    with Connection(Server(server.addresses.grpc)) as connection:
        rows = list(SongClient(connection).frequencies(start=BEGAN, bucket=timedelta(hours=1)))
    assert [(f"stations/{row.station}", row.start, row.recorded_s) for row in rows] == [
        (name, datetime.fromtimestamp(start_ms / 1000, UTC), recorded_s) for name, start_ms, recorded_s in found
    ]
    assert all(row.counts == TYPES for row in rows)


def test_the_size_of_a_page_is_the_client_s(start_server: Any, tmp_path: Path) -> None:
    """A page has as many buckets as were asked for; the last has no token, and a token of another question is refused."""
    fill(tmp_path / "data", n_hours=2)
    stub: Any = songs_pb2_grpc.SongServiceStub(start_server().channel)
    page = stub.QueryFrequencies(by_the_hour(page_size=2 * N_STATIONS - 1))
    assert len(page.buckets) == 2 * N_STATIONS - 1
    rest = stub.QueryFrequencies(by_the_hour(page_size=1, page_token=page.next_page_token))
    assert (len(rest.buckets), rest.next_page_token) == (1, "")
    assert stub.QueryFrequencies(by_the_hour(page_size=2 * N_STATIONS)).next_page_token == ""
    first = stub.QueryFrequencies(songs_pb2.QueryFrequenciesRequest(page_size=1))
    second = stub.QueryFrequencies(songs_pb2.QueryFrequenciesRequest(page_token=first.next_page_token))
    assert (len(first.buckets), len(second.buckets)) == (1, N_STATIONS - 1)
    for request in (
        by_the_hour(page_token=first.next_page_token),
        by_the_hour(page_token="s00.99999999999999999999"),  # noqa: S106 - no secret
        songs_pb2.QueryFrequenciesRequest(page_token=page.next_page_token),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stub.QueryFrequencies(request)
        assert failure(refused.value)[:2] == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


def test_a_page_that_takes_long_holds_no_other_call_up(
    start_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the parts of a page are put together, which takes as long as this test likes, other calls are answered."""
    fill(tmp_path / "data", n_hours=1)
    begun, may_end = threading.Event(), threading.Event()

    def slow(found: Iterable[Frequency], size: int) -> songs_pb2.QueryFrequenciesResponse:
        begun.set()
        assert may_end.wait(60)
        return frequency_page(found, size)

    monkeypatch.setattr("songserve.servicers.songs.frequency_page", slow)
    stub: Any = songs_pb2_grpc.SongServiceStub(start_server().channel)
    waiting = stub.QueryFrequencies.future(by_the_hour(), timeout=60)
    try:
        assert begun.wait(30)
        assert stub.ListSongs(songs_pb2.ListSongsRequest(), timeout=20).songs == []
        assert not waiting.done()
    finally:
        may_end.set()
    assert len(waiting.result(30).buckets) == N_STATIONS
