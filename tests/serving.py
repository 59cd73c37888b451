"""Real servers for tests: one in a thread of this process, one as a process of its own, and a client that speaks plainly."""

import asyncio
import json
import queue
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import grpc
import numpy as np
from google.rpc.error_details_pb2 import ErrorInfo
from google_crc32c import value as crc32c
from grpc_status import rpc_status

from songcore.arrays import FloatArray
from songcore.bundle import Bundle
from songserve.server import Server, serving
from songserve.settings import ServeSettings
from songserve.store import Store
from songserve.v1 import ingest_pb2, ingest_pb2_grpc

START_MS = 1_780_000_000_000
"""Capture start of every test session."""

Chunk = ingest_pb2.Chunk
Request = ingest_pb2.StreamAudioRequest
Response = ingest_pb2.StreamAudioResponse


class ServerThread:
    """A server of this process, in a thread with an event loop of its own; a context manager that drains it."""

    def __init__(
        self, bundle: Bundle, /, data_dir: Path, *, make_store: Callable[..., Store] = Store, **settings: Any
    ) -> None:
        defaults = {"listen": "127.0.0.1:0", "metrics_port": 0, "min_free_disk_mb": 0}
        self.settings = ServeSettings(**{"bundle": "unused", "data_dir": data_dir, **defaults, **settings})
        self._bundle, self._make_store = bundle, make_store
        self._ready: Future[Server] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="server")

    async def _run(self) -> None:
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        try:
            async with serving(self.settings, self._bundle, version="test", make_store=self._make_store) as server:
                self._ready.set_result(server)
                await self._stop.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.addresses = self._ready.result(30).addresses
        except BaseException:
            self._thread.join()
            raise
        self.channel = grpc.insecure_channel(self.addresses.grpc)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()
        self.channel.close()

    def stop(self) -> None:
        """Ask it to drain and end, without waiting for it."""
        self._loop.call_soon_threadsafe(self._stop.set)


class ServerProcess:
    """``songstream serve`` as a process; killed at the end of the block unless it has ended."""

    def __init__(self, bundle_dir: Path, data_dir: Path, *options: str) -> None:
        command = [str(Path(sys.executable).with_name("songstream")), "serve"]
        command += ["--bundle", str(bundle_dir), "--data-dir", str(data_dir)]
        command += ["--listen", "127.0.0.1:0", "--metrics-port", "0", "--device", "cpu", "--json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise AssertionError(f"the server did not start: {errors}")
        self.ready = json.loads(line)
        self.channel = grpc.insecure_channel(self.ready["address"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def scrape(server: ServerThread) -> str:
    """Return the metrics page."""
    with urllib.request.urlopen(server.addresses.metrics) as page:  # noqa: S310 - our own address
        text: str = page.read().decode()
        return text


def stream_ends(server: ServerThread, reason: str) -> int:
    """Return how many audio streams have ended for a reason."""
    pattern = rf'^songstream_ingest_stream_closes_total{{reason="{reason}"}} (\S+)'
    found = re.findall(pattern, scrape(server), re.MULTILINE)
    return int(float(found[0])) if found else 0


def session_name(station: str = "north", number: int = 1) -> str:
    """Return the resource name of a session."""
    return f"stations/{station}/sessions/{UUID(int=number)}"


def setup(
    session: str | None = None,
    *,
    rate: int = 24_000,
    encoding: ingest_pb2.AudioFormat.Encoding.ValueType = ingest_pb2.AudioFormat.ENCODING_LINEAR16,
    n_channels: int = 1,
    channel: int = 0,
    start_ms: int = START_MS,
) -> Request:
    """Return a setup message."""
    message = ingest_pb2.Setup(
        session=session or session_name(),
        audio_format=ingest_pb2.AudioFormat(
            encoding=encoding, sample_rate_hz=rate, channel_count=n_channels, channel=channel
        ),
        client="test",
    )
    message.capture_start_time.FromMilliseconds(start_ms)
    return Request(setup=message)


def pcm16(samples: FloatArray) -> bytes:
    """Return samples (n,) or (n, n_channels) float32 as 16-bit little-endian bytes."""
    return np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def chunk_messages(samples: FloatArray, sizes: Iterable[int]) -> list[Chunk]:
    """Return mono samples (n,) as 16-bit chunks of the given sizes, the last size going on until the end."""
    chunks: list[Chunk] = []
    position, number, size = 0, 1, 0
    remaining = iter(sizes)
    while position < len(samples):
        size = next(remaining, size)
        data = pcm16(samples[position : position + size])
        count = len(data) // 2
        chunks.append(
            Chunk(sequence_number=number, start_sample=position, sample_count=count, data=data, crc32c=crc32c(data))
        )
        position += count
        number += 1
    return chunks


def changed(chunk: Chunk, **fields: Any) -> Chunk:
    """Return a copy of a chunk with other fields."""
    other = Chunk()
    other.CopyFrom(chunk)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def finish_message(chunks: list[Chunk]) -> Request:
    """Return the finish that fits all of the chunks."""
    last = chunks[-1] if chunks else Chunk()
    total = last.start_sample + last.sample_count
    return Request(finish=ingest_pb2.Finish(last_sequence_number=last.sequence_number, total_samples=total))


class Stream:
    """One StreamAudio call: send when you like, then read; ``responses`` holds what `fails_with` read."""

    def __init__(self, channel: grpc.Channel, first: Request | None = None, *, metadata: Any = None) -> None:
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.call: Any = ingest_pb2_grpc.IngestServiceStub(channel).StreamAudio(
            iter(self._requests.get, None), timeout=60, metadata=metadata
        )
        self.responses: list[Response] = []
        if first:
            self.send(first)

    def send(self, *requests: Request | Chunk) -> None:
        """Send messages; chunks are wrapped."""
        for request in requests:
            self._requests.put(Request(chunk=request) if isinstance(request, Chunk) else request)

    def half_close(self) -> None:
        """Say that nothing follows."""
        self._requests.put(None)

    def __iter__(self) -> Iterator[Response]:
        return iter(self.call)

    def read(self) -> Response:
        """Return the next response."""
        response: Response = next(iter(self.call))
        return response

    def read_until_committed(self, sequence_number: int) -> list[Response]:
        """Return the responses up to the ack that commits the chunk."""
        responses = []
        for response in self.call:
            responses.append(response)
            if response.ack.committed_sequence_number >= sequence_number:
                return responses
        raise AssertionError(f"the stream ended before chunk {sequence_number} was committed")

    def read_until_received(self, sequence_number: int) -> list[Response]:
        """Return the responses up to the ack that says that the chunk came in."""
        responses = []
        for response in self.call:
            responses.append(response)
            if response.ack.received_sequence_number >= sequence_number:
                return responses
        raise AssertionError(f"the stream ended before chunk {sequence_number} was received")

    def fails_with(self) -> tuple[str, str, dict[str, str]]:
        """Read to the end, which is an error; return its code, reason and metadata."""
        try:
            for response in self.call:
                self.responses.append(response)
        except grpc.RpcError as error:
            return failure(error)
        finally:
            self.half_close()
        raise AssertionError("the stream ended well")


def stream_all(
    channel: grpc.Channel, samples: FloatArray, sizes: Iterable[int], first: Request | None = None
) -> list[Response]:
    """Stream a whole session; return every response."""
    chunks = chunk_messages(samples, sizes)
    stream = Stream(channel, first or setup())
    stream.send(*chunks, finish_message(chunks))
    responses = list(stream)
    stream.half_close()
    return responses


def failure(error: grpc.RpcError) -> tuple[str, str, dict[str, str]]:
    """Return code, reason and metadata of a failed call; the reason is empty when there is no ErrorInfo."""
    code = error.code().name
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "songstream"
            return code, info.reason, dict(info.metadata)
    return code, "", {}


def serve_and_drain(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a command that serves until it says that it is ready, and end it in order by SIGTERM."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        ready = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert ready.startswith("serving "), errors
    assert process.returncode == 0, errors
