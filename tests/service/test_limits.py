"""Limits of the service, each at the limit and one past it, over a real port where there is one."""

import io
import socket
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from google.rpc.error_details_pb2 import RetryInfo
from google_crc32c import value as crc32c
from grpc_status import rpc_status

from bundles import soundscape
from serving import (
    Chunk,
    Request,
    ServerProcess,
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
from songcore.errors import ConfigError
from songserve.database import DataDirectory
from songserve.refusal import Refusal
from songserve.security.channel import MAX_PING_STRIKES
from songserve.settings import load_settings
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, songs_pb2, songs_pb2_grpc
from songstation.sources import LEAST_SERVER_CHUNK_BYTES, MAX_CHUNK_SAMPLES
from stores import Opened, opening

RATE = 24_000
DAY_MS = 86_400_000
CHUNKS = chunk_messages(np.zeros(3 * RATE, np.float32), [RATE // 2])
"""Of half a second."""
LEAST_CHUNK_BYTES = 262_144
"""That `max_chunk_bytes` may be set to."""
SETTINGS, PING, GO_AWAY = 4, 6, 7
"""Types of HTTP/2 frames."""
INITIAL_WINDOW_SIZE = 4
"""Of a frame of settings."""


def list_songs(channel: grpc.Channel, request: songs_pb2.ListSongsRequest, **options: Any) -> tuple[str, str]:
    """Return code and reason of a call."""
    stub: Any = songs_pb2_grpc.SongServiceStub(channel)
    try:
        stub.ListSongs(request, **options)
    except grpc.RpcError as error:
        return failure(error)[:2]
    return "OK", ""


# Messages, metadata, connections


def sized(n_bytes: int) -> songs_pb2.ListSongsRequest:
    """Return a request of exactly so many bytes."""
    request = songs_pb2.ListSongsRequest(page_token="x" * (n_bytes - 16))
    request.page_token += "x" * (n_bytes - request.ByteSize())
    assert request.ByteSize() == n_bytes
    return request


def test_a_message_has_a_largest_size(start_server: Callable[..., ServerThread]) -> None:
    """The last byte that fits is read, and its token found wrong; one more is refused unread."""
    server = start_server(max_message_kb=320, max_chunk_bytes=256 * 1024)
    assert list_songs(server.channel, sized(320 * 1024)) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    assert list_songs(server.channel, sized(320 * 1024 + 1)) == ("RESOURCE_EXHAUSTED", "")


def test_a_chunk_has_a_largest_size(start_server: Callable[..., ServerThread]) -> None:
    """A chunk of exactly max_chunk_bytes is stored; one with a sample more ends the stream."""
    server, most = start_server(max_chunk_bytes=LEAST_CHUNK_BYTES), LEAST_CHUNK_BYTES // 2
    for n_samples, number in ((most, 1), (most + 1, 2)):
        data = bytes(2 * n_samples)
        stream = Stream(server.channel, setup(session_name(number=number)))
        stream.send(Chunk(sequence_number=1, sample_count=n_samples, data=data, crc32c=crc32c(data)))
        stream.send(Request(finish=ingest_pb2.Finish(last_sequence_number=1, total_samples=n_samples)))
        if n_samples == most:
            assert list(stream)[-1].ack.finished
            stream.half_close()
        else:
            assert stream.fails_with()[:2] == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")


def test_a_flac_chunk_grows_to_four_times_that(start_server: Callable[..., ServerThread]) -> None:
    """Silence that takes four times max_chunk_bytes once it is decoded is stored; a sample more is refused."""
    server, most = start_server(max_chunk_bytes=LEAST_CHUNK_BYTES), 4 * LEAST_CHUNK_BYTES // 2
    for n_samples in (most, most + 1):
        file = io.BytesIO()
        soundfile.write(file, np.zeros(n_samples, np.int16), RATE, format="FLAC")
        data = file.getvalue()
        chunk = Chunk(sequence_number=1, sample_count=n_samples, data=data, crc32c=crc32c(data))
        first = setup(session_name(number=n_samples), encoding=ingest_pb2.AudioFormat.ENCODING_FLAC)
        stream = Stream(server.channel, first)
        stream.send(chunk, finish_message([chunk]))
        if n_samples == most:
            assert list(stream)[-1].ack.committed_sample == most
            stream.half_close()
        else:
            assert stream.fails_with()[:2] == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")


def test_the_largest_chunk_fits_into_a_message() -> None:
    """Settings under which no chunk of the announced size could come are refused."""
    given = {"bundle": Path("b"), "data_dir": Path("d"), "max_message_kb": 264}
    assert load_settings({**given, "max_chunk_bytes": 260 * 1024}).max_message_kb == 264
    with pytest.raises(ConfigError, match="max_chunk_bytes"):
        load_settings({**given, "max_chunk_bytes": 260 * 1024 + 1})


def test_what_stations_have_cut_fits_into_any_server() -> None:
    """The least that a server may be told to take is what stations count on; a byte less is refused."""
    given = {"bundle": Path("b"), "data_dir": Path("d")}
    assert 2 * MAX_CHUNK_SAMPLES <= LEAST_SERVER_CHUNK_BYTES == LEAST_CHUNK_BYTES
    assert load_settings({**given, "max_chunk_bytes": LEAST_CHUNK_BYTES}).max_chunk_bytes == LEAST_CHUNK_BYTES
    with pytest.raises(ConfigError, match="max_chunk_bytes"):
        load_settings({**given, "max_chunk_bytes": LEAST_CHUNK_BYTES - 1})


def most_metadata(server: ServerThread) -> int:
    """Return the length of the longest value that a call may carry beside what gRPC itself says of it."""

    def fits(n_bytes: int) -> bool:
        code, _ = list_songs(server.channel, songs_pb2.ListSongsRequest(), metadata=[("x", "y" * n_bytes)])
        assert code in {"OK", "RESOURCE_EXHAUSTED"}
        return code == "OK"

    most = server.settings.max_metadata_kb * 1024
    return bisect_left(range(most), x=True, key=lambda n_bytes: not fits(n_bytes)) - 1


def test_metadata_has_a_largest_size(start_server: Callable[..., ServerThread], tmp_path: Path) -> None:
    """A value and what belongs to a call fill the limit to the byte: a limit of 4 KiB more takes just that much more."""
    less, more = (start_server(tmp_path / str(size), max_metadata_kb=size) for size in (4, 8))
    assert most_metadata(less) > 3 * 1024
    assert most_metadata(more) - most_metadata(less) == 4 * 1024


def test_a_bomb_is_not_unpacked(bundle_dir: Path, tmp_path: Path) -> None:
    """128 MiB of zeros in a small compressed message are refused, and the server's memory never holds them."""

    def peak_mb(pid: int) -> float:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

    with ServerProcess(bundle_dir, tmp_path) as server:
        stream = Stream(server.channel, setup())
        assert stream.read().HasField("setup_ack")
        before = peak_mb(server.process.pid)
        stub: Any = ingest_pb2_grpc.IngestServiceStub(server.channel)
        bomb = Request(chunk=Chunk(sequence_number=1, data=bytes(128 * 2**20)))
        with pytest.raises(grpc.RpcError) as error:
            list(stub.StreamAudio(iter([setup(session_name("south", 2)), bomb]), compression=grpc.Compression.Gzip))
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert peak_mb(server.process.pid) - before < 32
        stream.send(*CHUNKS[:1], finish_message(CHUNKS[:1]))
        assert list(stream)[-1].ack.finished
        stream.half_close()


def test_calls_of_one_connection_wait_for_one_another(start_server: Callable[..., ServerThread]) -> None:
    """With as many calls as a connection may have the next waits, and goes on when one ends."""
    server = start_server(max_calls_per_connection=2)
    streams = [Stream(server.channel, setup(session_name(number=number))) for number in (1, 2)]
    for stream in streams:
        assert stream.read().HasField("setup_ack")
    third = Stream(server.channel, setup(session_name(number=3)))
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    with pytest.raises(grpc.RpcError) as error:
        stub.ListSongs(songs_pb2.ListSongsRequest(), timeout=0.3)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    streams[0].send(finish_message([]))
    assert list(streams[0])[-1].ack.finished
    assert third.read().HasField("setup_ack")
    for stream in (*streams, third):
        stream.half_close()


def test_an_old_connection_is_replaced(start_server: Callable[..., ServerThread]) -> None:
    """Its stream ends as if the network had gone, what was committed stays, and the next connection resumes."""
    server = start_server(max_connection_age_s=0.5, connection_grace_s=0.1)
    stream = Stream(server.channel, setup())
    stream.send(*CHUNKS[:6])
    assert stream.fails_with()[0] == "UNAVAILABLE"
    again = Stream(server.channel, setup())
    answer = again.read().setup_ack
    committed = [response.ack.committed_sequence_number for response in stream.responses if response.HasField("ack")]
    assert answer.committed_sequence_number >= max(committed, default=0)
    again.half_close()


@contextmanager
def connected(server: ServerThread) -> Iterator[tuple[socket.socket, Iterator[tuple[int, int, bytes]]]]:
    """Connect as HTTP/2 does; give the connection, and type, flags and content of each frame (RFC 9113, section 4.1)."""

    def frames(file: Any) -> Iterator[tuple[int, int, bytes]]:
        while header := file.read(9):
            yield header[3], header[4], file.read(int.from_bytes(header[:3], "big"))

    host, port = server.addresses.grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0]) + bytes(4))
        yield connection, frames(connection.makefile("rb"))


@pytest.mark.parametrize("lookahead_kb", [16, 128])
def test_what_lies_unread_is_limited(start_server: Callable[..., ServerThread], lookahead_kb: int) -> None:
    """The window that the server opens for each call, beyond which no client may send, is the setting."""
    with connected(start_server(lookahead_kb=lookahead_kb)) as (_, frames):
        content = next(content for kind, _, content in frames if kind == SETTINGS)
    announced = dict(struct.iter_unpack(">HI", content))
    assert announced[INITIAL_WINDOW_SIZE] == lookahead_kb * 1024


def test_too_many_pings_end_a_connection(server: ServerThread) -> None:
    """The first ping and two early ones are answered; the third early one ends the connection, with a reason."""
    ping = bytes([0, 0, 8, PING]) + bytes(13)
    with connected(server) as (connection, frames):
        told = ((kind, content) for kind, _, content in frames if kind in {PING, GO_AWAY})
        for _ in range(1 + MAX_PING_STRIKES):
            connection.sendall(ping)
            assert next(told) == (PING, bytes(8))
        connection.sendall(ping)
        kind, content = next(told)
        if kind == PING:  # answered, and then ended
            kind, content = next(told)
    assert kind == GO_AWAY
    assert content.endswith(b"too_many_pings")


# Time


def test_a_heartbeat_keeps_an_idle_stream(start_server: Any) -> None:
    """A stream that says something within each idle_timeout_s lives; without any message it ends with IDLE."""
    server = start_server(idle_timeout_s=3.0)
    stream = Stream(server.channel, setup())
    stream.read()
    for _ in range(12):
        time.sleep(0.3)
        stream.send(Request(heartbeat=ingest_pb2.Heartbeat(spool_bytes=7)))
    stream.send(finish_message([]))
    assert list(stream)[-1].ack.finished
    stream.half_close()
    silent = Stream(server.channel, setup(session_name(number=2)))
    assert silent.fails_with()[:2] == ("DEADLINE_EXCEEDED", "IDLE")


def test_a_setup_comes_in_time(start_server: Any) -> None:
    """A stream whose setup follows within setup_timeout_s is served; one that never says who it is ends."""
    server = start_server(setup_timeout_s=3.0)
    stream, silent = Stream(server.channel), Stream(server.channel)
    time.sleep(0.3)
    stream.send(setup(), finish_message([]))
    assert list(stream)[-1].ack.finished
    stream.half_close()
    assert silent.fails_with()[:2] == ("DEADLINE_EXCEEDED", "SETUP_TIMEOUT")


# The disk


def test_clips_leave_room_for_streams_to_begin(start_server: Callable[..., ServerThread], tmp_path: Path) -> None:
    """Where clips are not written any more for want of disk, sessions are still opened, and their songs stored."""
    with Opened(tmp_path / "data") as opened:
        reserve = round(0.4 * opened.directory.free_bytes)
    server = start_server(min_free_disk_mb=reserve // 2**20)
    samples, _ = soundscape([0, 1], 5)
    responses = stream_all(server.channel, samples, [24_000])
    n_songs = sum(response.HasField("song") for response in responses)
    assert n_songs > 0
    assert f'songstream_clips_total{{outcome="disk_low"}} {float(n_songs)}' in scrape(server)


def test_what_is_left_of_the_disk_is_for_open_streams(
    start_server: Callable[..., ServerThread], tmp_path: Path
) -> None:
    """Between the reserve and twice of it no stream begins, with a delay to come back after; writes and questions go on."""
    with Opened(tmp_path / "data") as opened:
        reserve = round(0.7 * opened.directory.free_bytes)
    with Opened(tmp_path / "data", min_free_bytes=reserve) as opened:
        opened.store.open_session(opening()).result(10)
        with pytest.raises(Refusal, match="needed"):
            opened.store.check_disk(n_reserves=2)
    server = start_server(min_free_disk_mb=reserve // 2**20)
    stream = Stream(server.channel, setup())
    assert stream.fails_with()[:2] == ("RESOURCE_EXHAUSTED", "DISK_LOW")
    delay = RetryInfo()
    assert any(detail.Unpack(delay) for detail in rpc_status.from_call(stream.call).details)
    assert delay.retry_delay.seconds == 60
    assert list_songs(server.channel, songs_pb2.ListSongsRequest()) == ("OK", "")


def test_the_reserve_ends_at_its_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With just the reserve free something is written, and with twice of it a stream begins; with a byte less neither."""
    with Opened(tmp_path / "data", min_free_bytes=1000) as opened:
        for n_reserves in (1, 2):
            monkeypatch.setattr(DataDirectory, "free_bytes", 1000 * n_reserves)
            opened.store.check_disk(n_reserves=n_reserves)
            monkeypatch.setattr(DataDirectory, "free_bytes", 1000 * n_reserves - 1)
            with pytest.raises(Refusal, match="needed"):
                opened.store.check_disk(n_reserves=n_reserves)


def test_the_reserve_of_clips_ends_at_its_last_byte(
    start_server: Callable[..., ServerThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With just three reserves free each song has its clip; with a byte less none, and the songs are stored all the same."""
    server, samples = start_server(min_free_disk_mb=1), soundscape([0, 1], 5)[0]
    for number, (free, outcome) in enumerate(((3 * 2**20, "written"), (3 * 2**20 - 1, "disk_low")), 1):
        monkeypatch.setattr(DataDirectory, "free_bytes", free)
        responses = stream_all(server.channel, samples, [RATE], setup(session_name(number=number)))
        assert sum(response.HasField("song") for response in responses) == 2
        assert f'songstream_clips_total{{outcome="{outcome}"}} 2.0' in scrape(server)
