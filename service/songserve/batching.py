"""Works on songs of all streams together: one pass for whatever came in, with bounded size, wait and queue.

So songs are named: on a GPU a batch costs little more than a song; on a CPU batching only saves overhead, so the wait is
short. And so their clips are written: a disk flushes many files in little more than the time of one. While a batch runs the
next one gathers.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar

from songserve.gathering import BACKFILL_WEIGHT

__all__ = ["BatchLimits", "BatchObserver", "Batcher", "Failure", "Lane", "Unobserved"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Lane = Literal["live", "backfill"]
Failure = Literal["backend", "canceled"]
"""The work on a request failed, or nobody waits for it any more."""


@dataclass(frozen=True)
class BatchLimits:
    """How many songs at once, how long to wait for them, how many may wait."""

    max_batch: int = 32
    max_delay_s: float = 0.005
    max_pending: int = 512


class BatchObserver(Protocol):
    """Told what the batcher does, for metrics."""

    def batch_done(self, n_songs: int, queued_s: Sequence[float], compute_s: float) -> None:
        """Take note of a batch that is done; each of its requests had waited ``queued_s``."""

    def request_done(self, failure: Failure | None) -> None:
        """Take note that a request was answered, or why not."""

    def pending_changed(self, n_songs: int) -> None:
        """Take note of how many songs wait or are being worked on."""


class Unobserved:
    """Takes note of nothing."""

    def batch_done(self, n_songs: int, queued_s: Sequence[float], compute_s: float) -> None:
        """Do nothing."""

    def request_done(self, failure: Failure | None) -> None:
        """Do nothing."""

    def pending_changed(self, n_songs: int) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class _Request(Generic[Item, Result]):
    songs: Sequence[Item]
    work: Callable[[Sequence[Item]], list[Result]]
    future: "asyncio.Future[list[Result]]"
    arrived: float


class Batcher(Generic[Item, Result]):
    """An async context manager; inside it, `run` works on songs.

    Batches run one at a time, so the executor needs one thread.
    """

    def __init__(self, executor: Executor, limits: BatchLimits, observer: BatchObserver) -> None:
        self._executor, self._limits, self._observer = executor, limits, observer
        self._waiting: dict[Lane, deque[_Request[Item, Result]]] = {"live": deque(), "backfill": deque()}
        self._arrived = asyncio.Event()
        self._n_pending = 0
        self._room = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting.values():
            for request in waiting:
                request.future.cancel()

    @property
    def load(self) -> float:
        """From 0, idle, to 1 and more: how full the queue is."""
        return self._n_pending / self._limits.max_pending

    async def run(
        self, work: Callable[[Sequence[Item]], list[Result]], songs: Sequence[Item], *, lane: Lane = "live"
    ) -> list[Result]:
        """Return what ``work`` makes of the songs, one result each, or raise what it raises for them.

        It is given songs of other callers, too. Waits while too many songs are pending. Songs of a backlog may fill only a
        part of the queue, and of a batch with live ones.
        """
        if not songs:
            return []
        async with self._room:
            most = self._limits.max_pending * (1 if lane == "live" else BACKFILL_WEIGHT)
            await self._room.wait_for(lambda: self._n_pending < most)
            self._change_pending(len(songs))
        loop = asyncio.get_running_loop()
        request = _Request(songs, work, loop.create_future(), loop.time())
        self._waiting[lane].append(request)
        self._arrived.set()
        failure: Failure | None = "backend"
        try:
            results = await request.future
            failure = None
        except asyncio.CancelledError:
            failure = "canceled"
            raise
        else:
            return results
        finally:
            self._observer.request_done(failure)
            async with self._room:
                self._change_pending(-len(songs))
                self._room.notify_all()

    def _change_pending(self, n_songs: int) -> None:
        self._n_pending += n_songs
        self._observer.pending_changed(self._n_pending)

    async def _run(self) -> None:
        while True:
            batch = await self._gather()
            try:
                for part in _by_work(batch):
                    await self._run_batch(part)
            finally:
                for request in batch:
                    request.future.cancel()  # no effect on those that have a result

    async def _gather(self) -> list[_Request[Item, Result]]:
        """Wait for a first request, then a moment for more; a request is never split."""
        while not any(self._waiting.values()):
            await self._next_arrival()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.max_delay_s
        while sum(_n_songs(waiting) for waiting in self._waiting.values()) < self._limits.max_batch:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._next_arrival()
            except TimeoutError:
                break
        live = _take(self._waiting["live"], self._limits.max_batch)
        n_live = _n_songs(live)
        most = max(1.0, BACKFILL_WEIGHT * n_live) if n_live else self._limits.max_batch
        return live + _take(self._waiting["backfill"], most)

    async def _next_arrival(self) -> None:
        self._arrived.clear()
        await self._arrived.wait()

    async def _run_batch(self, batch: Sequence[_Request[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        songs = [song for request in batch for song in request.songs]
        try:
            results = await loop.run_in_executor(self._executor, batch[0].work, songs)
        except Exception as error:  # noqa: BLE001 - any failure belongs to those who wait for it
            if len(batch) > 1:
                # One poisoned song must not fail the others.
                for request in batch:
                    await self._run_batch([request])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        self._observer.batch_done(len(songs), [began - request.arrived for request in batch], loop.time() - began)
        position = 0
        for request in batch:
            if not request.future.done():
                request.future.set_result(results[position : position + len(request.songs)])
            position += len(request.songs)


def _by_work(batch: list[_Request[Item, Result]]) -> list[list[_Request[Item, Result]]]:
    """Return the requests of each work; but for the moment of a swap of models there is one."""
    parts: dict[Callable[[Sequence[Item]], list[Result]], list[_Request[Item, Result]]] = {}
    for request in batch:
        parts.setdefault(request.work, []).append(request)
    return list(parts.values())


def _n_songs(requests: Iterable[_Request[Item, Result]]) -> int:
    return sum(len(request.songs) for request in requests)


def _take(waiting: deque[_Request[Item, Result]], most: float) -> list[_Request[Item, Result]]:
    """Take requests from the front until they have ``most`` songs or more."""
    taken: list[_Request[Item, Result]] = []
    while waiting and _n_songs(taken) < most:
        taken.append(waiting.popleft())
    return taken
