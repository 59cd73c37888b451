"""A stream whose session was taken over: it ends at once, whatever it does just then, and is counted once."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from postgres import PostgresServer
from serving import ServerThread, Stream, chunk_messages, scrape, setup, stream_ends
from songcore.bundle import Bundle
from songserve.ingest_requests import read_wish
from songserve.records import Commit, StoredSong
from songserve.refusal import Refusal
from songserve.servicers.audio_stream import AudioStream
from songserve.store import Store
from songserve.v1 import ingest_pb2

RATE = 24_000
CHUNKS = chunk_messages(np.zeros(9 * RATE, np.float32), [RATE])


class HeldStore(Store):
    """Stores the first commit once it is let go, and the others at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked, self.let_go = threading.Event(), threading.Event()

    def commit(self, commit: Commit) -> "Future[Sequence[StoredSong]]":
        """Return what will be stored."""
        if self.asked.is_set():
            return super().commit(commit)
        self.asked.set()
        later: Future[Sequence[StoredSong]] = Future()
        later.set_running_or_notify_cancel()
        threading.Thread(target=self._commit_later, args=(commit, later)).start()
        return later

    def _commit_later(self, commit: Commit, later: "Future[Sequence[StoredSong]]") -> None:
        self.let_go.wait(30)
        try:
            later.set_result(super().commit(commit).result(30))
        except Refusal as refusal:
            later.set_exception(refusal)


def fences(server: ServerThread) -> float:
    """Return how many streams are counted as ended by a newer one."""
    name = "songstream_ingest_writer_fences_total "
    (line,) = [line for line in scrape(server).splitlines() if line.startswith(name)]
    assert float(line.removeprefix(name)) == stream_ends(server, "WRITER_FENCED")
    return float(line.removeprefix(name))


def test_each_stream_that_was_taken_over_is_counted_once(server: ServerThread) -> None:
    """The older one of two is; the newer, which goes on, is not."""
    assert fences(server) == 0
    older = Stream(server.channel, setup())
    older.read()
    newer = Stream(server.channel, setup())
    newer.read()
    assert older.fails_with()[:2] == ("ABORTED", "WRITER_FENCED")
    assert fences(server) == 1
    newer.half_close()
    list(newer)
    assert fences(server) == 1


def test_a_stream_taken_over_within_its_commit_is_counted(bundle: Bundle, tmp_path: Path) -> None:
    """The store refuses what it wants to commit, and that ends it."""
    stores: list[HeldStore] = []

    def make_store(*arguments: Any, **options: Any) -> Store:
        stores.append(HeldStore(*arguments, **options))
        return stores[0]

    with ServerThread(bundle, tmp_path, make_store=make_store) as server:
        older = Stream(server.channel, setup())
        older.send(*CHUNKS)
        assert stores[0].asked.wait(30)
        newer = Stream(server.channel, setup())
        assert newer.read().setup_ack.expected_sequence_number == 1
        stores[0].let_go.set()
        assert older.fails_with()[:2] == ("ABORTED", "WRITER_FENCED")
        assert fences(server) == 1
        newer.half_close()


def test_a_stream_taken_over_at_another_server_is_counted(
    bundle: Bundle, tmp_path: Path, postgres: PostgresServer
) -> None:
    """By the server that ends it, which hears of the other at its next commit."""
    url = postgres.new_database()
    with (
        ServerThread(bundle, tmp_path / "a", database_url=url) as a,
        ServerThread(bundle, tmp_path / "b", database_url=url) as b,
    ):
        older = Stream(a.channel, setup())
        assert older.read().setup_ack.writer_epoch == 1
        newer = Stream(b.channel, setup())
        assert newer.read().setup_ack.writer_epoch == 2
        older.send(*CHUNKS)
        assert older.fails_with()[:2] == ("ABORTED", "WRITER_FENCED")
        assert (fences(a), fences(b)) == (1, 0)
        newer.half_close()


class Stalled:
    """The context of a call whose client takes no answer."""

    async def write(self, _: ingest_pb2.StreamAudioResponse) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()


def test_a_stream_that_is_fenced_between_two_answers_waits_for_nobody(server: ServerThread) -> None:
    """The next answer is not begun, so that a client that reads nothing holds its place no longer."""
    runtime = server._ready.result()._runtime
    assert runtime.settings.idle_timeout_s >= 60

    async def fenced_first() -> float:
        stream = AudioStream(cast("Any", Stalled()), runtime, read_wish(setup().setup), station="north")
        stream.fence()
        began = time.monotonic()
        with pytest.raises(Refusal) as refused:
            await stream.say(ingest_pb2.StreamAudioResponse())
        assert refused.value.reason == "WRITER_FENCED"
        return time.monotonic() - began

    assert asyncio.run_coroutine_threadsafe(fenced_first(), server._loop).result(90) < 10
