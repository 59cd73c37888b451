"""Clients that stay connected and take no answers: they are ended, and hold neither a place nor memory."""

import gc
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np
import pytest
import soundfile

from bundles import soundscape
from serving import (
    Request,
    ServerThread,
    Stream,
    chunk_messages,
    failure,
    finish_message,
    setup,
    stream_all,
    stream_ends,
)
from songserve.servicers.audio_reader import AudioReader
from songserve.servicers.audio_stream import AudioStream
from songserve.servicers.classification import _Upload
from songserve.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    songs_pb2,
    songs_pb2_grpc,
)

T = TypeVar("T")
RATE = 24_000
CHUNKS = chunk_messages(np.zeros(RATE, np.float32), [100])
TAKES_LITTLE = [
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1024),
    ("grpc.use_local_subchannel_pool", 1),
]
"""Of a client whose own memory for answers is full."""


class Stalled:
    """A client that sends some messages for ever and reads no answer; a context manager that ends it."""

    def __init__(self, address: str, *messages: Request) -> None:
        self._channel = grpc.insecure_channel(address, options=TAKES_LITTLE)
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


def n_open_clips() -> int:
    """Return how many clips this process, in which the server runs, has open."""
    return sum(path.resolve().suffix == ".flac" for path in Path("/proc/self/fd").iterdir())


def test_a_clip_that_nobody_reads_is_given_up(start_server: Callable[..., ServerThread]) -> None:
    """After the idle limit the call ends, and with it what it holds."""
    server = start_server(idle_timeout_s=1.0)
    rng = np.random.default_rng(0)
    quiet, loud = (level * rng.standard_normal(seconds * RATE) for level, seconds in ((1e-3, 3), (0.2, 20)))
    sound = np.concatenate([quiet, loud, quiet]).astype(np.float32)
    (name,) = [
        response.song.song.name for response in stream_all(server.channel, sound, [RATE]) if response.HasField("song")
    ]
    with grpc.insecure_channel(server.addresses.grpc, options=TAKES_LITTLE) as channel:
        call = songs_pb2_grpc.SongServiceStub(channel).GetSongClip(songs_pb2.GetSongClipRequest(name=name))
        assert next(call).clip.size_bytes > 100_000
        wait_for(lambda: n_open_clips() == 1)
        wait_for(lambda: n_open_clips() == 0)
        with pytest.raises(grpc.RpcError) as error:
            list(call)
    assert failure(error.value)[:2] == ("DEADLINE_EXCEEDED", "IDLE")


def test_songs_of_a_recording_that_nobody_reads_are_given_up(start_server: Callable[..., ServerThread]) -> None:
    """After the idle limit the call ends and its upload is gone."""
    server = start_server(idle_timeout_s=1.0)
    file = io.BytesIO()
    soundfile.write(file, np.tile(soundscape([0, 1, 2, 3], 5)[0], 150), RATE, format="FLAC")
    requests = [classification_pb2.ClassifyRecordingRequest(setup=classification_pb2.RecordingSetup())]
    requests += [
        classification_pb2.ClassifyRecordingRequest(data=file.getvalue()[at : at + 500_000])
        for at in range(0, len(file.getvalue()), 500_000)
    ]
    with grpc.insecure_channel(server.addresses.grpc, options=TAKES_LITTLE) as channel:
        call = classification_pb2_grpc.ClassificationServiceStub(channel).ClassifyRecording(iter(requests))
        assert next(call).HasField("song")
        wait_for(lambda: len(in_memory(_Upload)) == 1)
        wait_for(lambda: in_memory(_Upload) == [])
        with pytest.raises(grpc.RpcError) as error:
            list(call)
    assert failure(error.value)[:2] == ("DEADLINE_EXCEEDED", "IDLE")


def test_heartbeats_of_a_client_that_takes_no_answers_pile_nothing_up(server: ServerThread) -> None:
    """Each gives another reason for a notice about the clock, and of those one waits."""
    beats = [Request(heartbeat=ingest_pb2.Heartbeat()) for _ in range(2)]
    for day, beat in enumerate(beats):
        beat.heartbeat.create_time.FromSeconds(86_400 * day)
    with Stalled(server.addresses.grpc, *beats):
        wait_for(lambda: len(in_memory(AudioReader)) == 1)
        (reader,) = in_memory(AudioReader)
        waiting = []
        for _ in range(50):
            waiting.append(len(reader.notices))
            time.sleep(0.1)
    assert max(waiting) == 1
