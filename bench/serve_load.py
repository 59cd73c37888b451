"""The load generator of bench/serve.py, a process of its own so that its work is not counted as the server's.

Streams recordings in real time, the beginnings spread over one chunk, and writes what it saw as JSON to standard output:
when each chunk was handed over, when each ack and song came.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import numpy as np
from google_crc32c import value as crc32c

from songserve.v1 import ingest_pb2, ingest_pb2_grpc

Request = ingest_pb2.StreamAudioRequest


@dataclass(frozen=True)
class Load:
    """What to stream: recording i goes to the streams i, i + n_recordings, ..."""

    address: str
    recordings: list[str]
    n_streams: int
    rate_hz: int
    chunk_samples: int
    ca: str = ""
    """Authority of the server's certificate, PEM; unencrypted without."""
    tokens: list[str] = field(default_factory=list)
    """Of each stream's station, when the server asks for them."""


@dataclass
class Seen:
    """What one stream saw; times in seconds of one clock."""

    handed_over: list[float] = field(default_factory=list)
    acks: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, received and committed sequence numbers."""
    songs: list[tuple[float, str, int, int]] = field(default_factory=list)
    """Time, name, onset and offset in samples of the bundle."""
    error: str = ""


def bearer(token: str) -> list[tuple[str, str]]:
    """Return the metadata of a call with a token."""
    return [("authorization", f"Bearer {token}")]


def session_name(number: int) -> str:
    """Return the session of a stream."""
    return f"stations/bench-{number}/sessions/{UUID(int=number + 1)}"


async def stream(load: Load, stub: Any, number: int, chunks: list[bytes], begin: float) -> Seen:
    """Stream one recording in real time from the monotonic time ``begin`` on."""
    seen = Seen()
    call = stub.StreamAudio(metadata=bearer(load.tokens[number]) if load.tokens else ())
    setup = ingest_pb2.Setup(
        session=session_name(number),
        audio_format=ingest_pb2.AudioFormat(
            encoding=ingest_pb2.AudioFormat.ENCODING_LINEAR16, sample_rate_hz=load.rate_hz, channel_count=1
        ),
        client="bench",
    )
    setup.capture_start_time.GetCurrentTime()
    await call.write(Request(setup=setup))
    await call.read()

    async def receive() -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            now = time.monotonic()
            if response.HasField("ack"):
                seen.acks.append((now, response.ack.received_sequence_number, response.ack.committed_sequence_number))
            elif response.HasField("song"):
                song = response.song.song
                seen.songs.append((now, song.name, song.onset_sample, song.offset_sample))

    receiver = asyncio.create_task(receive())
    try:
        position = 0
        for index, data in enumerate(chunks):
            # A chunk exists when its last sample was captured.
            await asyncio.sleep(begin + (index + 1) * load.chunk_samples / load.rate_hz - time.monotonic())
            count = len(data) // 2
            chunk = ingest_pb2.Chunk(
                sequence_number=index + 1, start_sample=position, sample_count=count, data=data, crc32c=crc32c(data)
            )
            seen.handed_over.append(time.monotonic())
            await call.write(Request(chunk=chunk))
            position += count
        finish = ingest_pb2.Finish(last_sequence_number=len(chunks), total_samples=position)
        await call.write(Request(finish=finish))
        await receiver
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        receiver.cancel()
        seen.error = f"{await call.code()}: {await call.details()}"
    return seen


async def run(load: Load) -> list[dict[str, Any]]:
    """Run every stream at once; one channel for ten streams, as stations would have one each."""
    size = load.chunk_samples * 2
    recordings = [np.load(path).tobytes() for path in load.recordings]
    chunked = [[data[begin : begin + size] for begin in range(0, len(data), size)] for data in recordings]
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [_channel(load, options) for _ in range(-(-load.n_streams // 10))]
    stubs = [ingest_pb2_grpc.IngestServiceStub(channel) for channel in channels]
    # Late enough that every stream is set up before the first begins.
    begin = time.monotonic() + 1 + load.n_streams * 0.01
    spread = load.chunk_samples / load.rate_hz / load.n_streams
    streams = [
        stream(load, stubs[number // 10], number, chunked[number % len(chunked)], begin + number * spread)
        for number in range(load.n_streams)
    ]
    seen = await asyncio.gather(*streams)
    for channel in channels:
        await channel.close()
    return [asdict(one) | {"begin": begin + number * spread} for number, one in enumerate(seen)]


def _channel(load: Load, options: list[tuple[str, int]]) -> grpc.aio.Channel:
    if not load.ca:
        return grpc.aio.insecure_channel(load.address, options=options)
    return grpc.aio.secure_channel(load.address, grpc.ssl_channel_credentials(load.ca.encode()), options=options)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Load(**json.loads(Path(sys.argv[1]).read_text()))))))
