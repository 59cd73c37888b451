"""The load generator of bench/serve.py and bench/soak.py, a process of its own so that its work is not the server's.

Streams recordings in real time and writes what it saw as JSON to standard output: when each chunk was handed over, when each
ack and song came.
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
STREAMS_OF_A_CHANNEL = 10
SETUP_S = 1.0
"""Sessions are opened this long before their first chunk."""
STALLED_WINDOW_BYTES = 1024
"""What a stalled client lets the server send ahead, so that answers back up at once and not after minutes."""


@dataclass(frozen=True)
class Plan:
    """What one stream does; the session has the stream's number."""

    recording: int
    """Repeated when the chunks are more than it has."""
    n_chunks: int
    begin_s: float
    """First sample, in seconds of the run."""
    break_after: int | None = None
    """The connection is dropped after this chunk; a new one goes on where the server is."""
    stall_after: int | None = None
    """From this chunk on nothing is read any more, and chunks are sent as fast as the connection takes them, to the end."""


@dataclass(frozen=True)
class Load:
    """What to stream."""

    address: str
    recordings: list[str]
    plans: list[Plan]
    rate_hz: int
    chunk_samples: int
    end_s: float
    """When stalled streams are given up, in seconds of the run."""
    ca: str = ""
    """Authority of the server's certificate, PEM; unencrypted without."""
    tokens: list[str] = field(default_factory=list)
    """Of each stream's station, when the server asks for them."""

    @classmethod
    def read(cls, path: Path) -> "Load":
        """Return what was written as JSON."""
        fields = json.loads(path.read_text())
        return cls(**fields | {"plans": [Plan(**plan) for plan in fields["plans"]]})


@dataclass
class Seen:
    """What one stream saw; times in seconds of one clock."""

    begin: float
    """Capture of the first sample."""
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


class Stream:
    """One stream from its setup to its end."""

    def __init__(self, load: Load, stub: Any, number: int, chunks: list[bytes], start: float) -> None:
        self._load, self._stub, self._number, self._chunks = load, stub, number, chunks
        self._plan, self._chunk_s = load.plans[number], load.chunk_samples / load.rate_hz
        self._end = start + load.end_s
        self._stalled = False
        self._start_ms = round(1000 * (time.time() + start + self._plan.begin_s - time.monotonic()))
        self.seen = Seen(start + self._plan.begin_s)

    async def run(self) -> Seen:
        """Stream in real time; return what was seen."""
        await asyncio.sleep(self.seen.begin - SETUP_S - time.monotonic())
        try:
            if self._plan.break_after:
                await self._connect(self._plan.break_after)
            await self._connect(self._plan.n_chunks)
        except grpc.aio.AioRpcError as error:
            self.seen.error = f"{error.code()}: {error.details()}"
        return self.seen

    async def _connect(self, end: int) -> None:
        """Send the chunks that the server has not committed, up to ``end``; finish there when it is the last."""
        call = self._stub.StreamAudio(metadata=bearer(self._load.tokens[self._number]) if self._load.tokens else ())
        audio_format = ingest_pb2.AudioFormat(
            encoding=ingest_pb2.AudioFormat.ENCODING_LINEAR16, sample_rate_hz=self._load.rate_hz, channel_count=1
        )
        setup = ingest_pb2.Setup(session=session_name(self._number), audio_format=audio_format, client="bench")
        setup.capture_start_time.FromMilliseconds(self._start_ms)
        await call.write(Request(setup=setup))
        response = await call.read()
        if response is grpc.aio.EOF:
            raise await _status(call)
        receiver = asyncio.create_task(self._receive(call))
        try:
            for index in range(response.setup_ack.expected_sequence_number - 1, end):
                self._stalled = self._plan.stall_after is not None and index >= self._plan.stall_after
                await self._send(call, index)
            if end == self._plan.n_chunks and self._plan.stall_after is None:
                total = end * self._load.chunk_samples
                await call.write(Request(finish=ingest_pb2.Finish(last_sequence_number=end, total_samples=total)))
                await receiver
                if await call.code() is not grpc.StatusCode.OK:
                    raise await _status(call)
        except asyncio.InvalidStateError as error:  # the server has ended the call
            raise await _status(call) from error
        except TimeoutError:  # a stalled one
            pass
        finally:
            receiver.cancel()
            call.cancel()

    async def _send(self, call: Any, index: int) -> None:
        """Hand over a chunk once its last sample was captured, or, stalled, as soon as the connection takes it."""
        if not self._stalled:
            await asyncio.sleep(self.seen.begin + (index + 1) * self._chunk_s - time.monotonic())
        data = self._chunks[index % len(self._chunks)]
        count = self._load.chunk_samples
        chunk = ingest_pb2.Chunk(
            sequence_number=index + 1, start_sample=index * count, sample_count=count, data=data, crc32c=crc32c(data)
        )
        if index == len(self.seen.handed_over):  # not sent again
            self.seen.handed_over.append(time.monotonic())
        async with asyncio.timeout(self._end - time.monotonic() if self._stalled else None):
            await call.write(Request(chunk=chunk))

    async def _receive(self, call: Any) -> None:
        # To cancel a read would end the call; one that is under way takes one more answer.
        while not self._stalled and (response := await call.read()) is not grpc.aio.EOF:
            now = time.monotonic()
            if response.HasField("ack"):
                ack = response.ack
                self.seen.acks.append((now, ack.received_sequence_number, ack.committed_sequence_number))
            elif response.HasField("song"):
                song = response.song.song
                self.seen.songs.append((now, song.name, song.onset_sample, song.offset_sample))


async def _status(call: Any) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(await call.code(), metadata, metadata, details=await call.details())


async def run(load: Load) -> list[dict[str, Any]]:
    """Run every stream; one channel for ten streams, as stations would have one each, and one for each stalled one."""
    size = load.chunk_samples * 2
    recordings = [np.load(path).tobytes() for path in load.recordings]
    chunked = [[data[begin : begin + size] for begin in range(0, len(data), size)] for data in recordings]
    # Late enough that every stream is set up before the first begins.
    start = time.monotonic() + SETUP_S + len(load.plans) * 0.01
    channels: dict[int, grpc.aio.Channel] = {}
    streams = []
    for number, plan in enumerate(load.plans):
        stalls = plan.stall_after is not None
        key = ~number if stalls else number // STREAMS_OF_A_CHANNEL
        if key not in channels:
            channels[key] = _channel(load, stalls=stalls)
        stub = ingest_pb2_grpc.IngestServiceStub(channels[key])
        streams.append(Stream(load, stub, number, chunked[plan.recording], start))
    seen = await asyncio.gather(*(stream.run() for stream in streams))
    for channel in channels.values():
        await channel.close()
    return [asdict(one) for one in seen]


def _channel(load: Load, *, stalls: bool) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    if stalls:
        options += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", STALLED_WINDOW_BYTES)]
    if not load.ca:
        return grpc.aio.insecure_channel(load.address, options=options)
    return grpc.aio.secure_channel(load.address, grpc.ssl_channel_credentials(load.ca.encode()), options=options)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Load.read(Path(sys.argv[1]))))))
