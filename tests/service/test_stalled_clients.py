"""Clients that stay connected and take no answers: they are ended, and hold neither a place nor memory."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np

from serving import Request, ServerThread, Stream, chunk_messages, finish_message, setup, stream_ends
from songserve.servicers.audio_reader import AudioReader
from songserve.servicers.audio_stream import AudioStream
from songserve.v1 import ingest_pb2, ingest_pb2_grpc

T = TypeVar("T")
CHUNKS = chunk_messages(np.zeros(24_000, np.float32), [100])


class Stalled:
    """A client that sends some messages for ever and reads no answer; a context manager that ends it."""

    def __init__(self, address: str, *messages: Request) -> None:
        # Like a client whose own memory for answers is full: little is taken in ahead.
        options = [
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", 1024),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = grpc.insecure_channel(address, options=options)
        self._messages, self._stop = messages or (Request(chunk=CHUNKS[0]),), threading.Event()

    def __enter__(self) -> Self:
        self.call: Any = ingest_pb2_grpc.IngestServiceStub(self._channel).StreamAudio(self._requests())
        assert next(self.call).HasField("setup_ack")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self.call.cancel()
        self._channel.close()

    def _requests(self) -> Iterator[Request]:
        yield setup()
        while not self._stop.is_set():
            yield from self._messages


def in_memory(kind: type[T]) -> list[T]:
    """Return all objects of just this type; to ask strangers for their class wakes what torch has deprecated."""
    gc.collect()
    return [found for found in gc.get_objects() if type(found) is kind]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once it holds, or fail."""
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def hangs() -> bool:
    """Return whether a stream is in the middle of one and the same answer for a second."""
    before = [stream._saying for stream in in_memory(AudioStream)]
    time.sleep(1)
    return any(stream._saying and stream._saying in before for stream in in_memory(AudioStream))


def test_a_client_that_takes_no_answers_is_ended(start_server: Callable[..., ServerThread]) -> None:
    """It has its place and its memory no longer than the idle limit, and the session goes on with another stream."""
    server = start_server(idle_timeout_s=1.0, max_streams=1)
    with Stalled(server.addresses.grpc):
        wait_for(lambda: stream_ends(server, "IDLE") == 1)
        wait_for(lambda: in_memory(AudioStream) == [])
        stream = Stream(server.channel, setup())
        stream.send(*CHUNKS, finish_message(CHUNKS))
        assert list(stream)[-1].ack.finished
        stream.half_close()


def test_a_newer_stream_ends_a_stalled_one_at_once(start_server: Callable[..., ServerThread]) -> None:
    """However often a session is taken over from clients that take no answers, it has one place."""
    server = start_server(max_streams=2)

    def fenced(n: int) -> bool:
        return stream_ends(server, "WRITER_FENCED") == n

    with ExitStack() as stack:
        for n_ended in range(4):
            stack.enter_context(Stalled(server.addresses.grpc))
            wait_for(partial(fenced, n_ended))
            wait_for(hangs)
    assert fenced(3)


def test_heartbeats_of_a_client_that_takes_no_answers_pile_nothing_up(server: ServerThread) -> None:
    """Each gives another reason for a notice about the clock, and of those one waits."""
    beats = [Request(heartbeat=ingest_pb2.Heartbeat()) for _ in range(2)]
    for day, beat in enumerate(beats):
        beat.heartbeat.create_time.FromSeconds(86_400 * day)
    with Stalled(server.addresses.grpc, *beats):
        waiting = []
        for _ in range(50):
            waiting += [len(reader.notices) for reader in in_memory(AudioReader)]
            time.sleep(0.1)
    assert max(waiting) == 1
