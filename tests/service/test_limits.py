"""Limits of the service, each at the limit and one past it, over a real port where there is one."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
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
from songserve.refusal import Refusal
from songserve.security.channel import MAX_PING_STRIKES
from songserve.settings import load_settings
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, songs_pb2, songs_pb2_grpc
from stores import Opened, opening

RATE = 24_000
DAY_MS = 86_400_000
CHUNKS = chunk_messages(np.zeros(3 * RATE, np.float32), [RATE // 2])
"""Of half a second."""


def list_songs(channel: grpc.Channel, request: songs_pb2.ListSongsRequest, **options: Any) -> tuple[str, str]:
    """Return code and reason of a call."""
    stub: Any = songs_pb2_grpc.SongServiceStub(channel)
    try:
        stub.ListSongs(request, timeout=30, **options)
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
    server = start_server(max_message_kb=64, max_chunk_bytes=32 * 1024)
    assert list_songs(server.channel, sized(64 * 1024)) == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    assert list_songs(server.channel, sized(64 * 1024 + 1)) == ("RESOURCE_EXHAUSTED", "")


def test_a_chunk_has_a_largest_size(start_server: Callable[..., ServerThread]) -> None:
    """A chunk of exactly max_chunk_bytes is stored; one with a sample more ends the stream."""
    server = start_server(max_chunk_bytes=4096)
    for n_samples, number in ((2048, 1), (2049, 2)):
        data = bytes(2 * n_samples)
        stream = Stream(server.channel, setup(session_name(number=number)))
        stream.send(Chunk(sequence_number=1, sample_count=n_samples, data=data, crc32c=crc32c(data)))
        stream.send(Request(finish=ingest_pb2.Finish(last_sequence_number=1, total_samples=n_samples)))
        if n_samples == 2048:
            assert list(stream)[-1].ack.finished
            stream.half_close()
        else:
            assert stream.fails_with()[:2] == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")


def test_the_largest_chunk_fits_into_a_message() -> None:
    """Settings under which no chunk of the announced size could come are refused."""
    given = {"bundle": Path("b"), "data_dir": Path("d"), "max_message_kb": 64}
    assert load_settings({**given, "max_chunk_bytes": 60 * 1024}).max_message_kb == 64
    with pytest.raises(ConfigError, match="max_chunk_bytes"):
        load_settings({**given, "max_chunk_bytes": 60 * 1024 + 1})


def test_metadata_has_a_largest_size(start_server: Callable[..., ServerThread]) -> None:
    """Half of the limit passes; the limit in one value, with what else belongs to a call, does not."""
    server = start_server(max_metadata_kb=8)
    request = songs_pb2.ListSongsRequest()
    assert list_songs(server.channel, request, metadata=[("x", "y" * 4096)]) == ("OK", "")
    assert list_songs(server.channel, request, metadata=[("x", "y" * 8192)])[0] == "RESOURCE_EXHAUSTED"


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


def test_too_many_pings_end_a_connection(server: ServerThread) -> None:
    """The first ping and two early ones are answered; the third early one ends the connection, with a reason."""
    settings, ping = (4).to_bytes(4, "big"), bytes([0, 0, 8, 6]) + bytes(13)
    host, port = server.addresses.grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + bytes(5))
        frames = connection.makefile("rb")

        def next_frame() -> tuple[int, bytes]:
            """Return type and content of the next frame that is a ping's answer or the end (RFC 9113, section 4.1)."""
            while True:
                header = frames.read(9)
                content = frames.read(int.from_bytes(header[:3], "big"))
                if header[3] in {6, 7}:
                    return header[3], content

        for _ in range(1 + MAX_PING_STRIKES):
            connection.sendall(ping)
            assert next_frame() == (6, bytes(8))
        connection.sendall(ping)
        kind, content = next_frame()
        if kind == 6:  # answered, and then ended
            kind, content = next_frame()
    assert kind == 7
    assert content.endswith(b"too_many_pings")


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
