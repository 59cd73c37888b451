"""Names songs of all streams together: one forward pass for whatever came in, with bounded size, wait and queue.

On a GPU a batch costs little more than a song; on a CPU batching only saves overhead, so the wait is short. While a
batch runs the next one gathers.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from songcore.assign import Assignment
from songcore.stream import Song
from songserve.gathering import BACKFILL_WEIGHT
from songserve.hearing import Model

__all__ = ["BatchLimits", "BatchObserver", "Batcher", "Failure", "Lane"]

Lane = Literal["live", "backfill"]
Failure = Literal["backend", "canceled"]
"""The model failed on a request, or nobody waits for it any more."""


@dataclass(frozen=True)
class BatchLimits:
    """How many songs at once, how long to wait for them, how many may wait."""

    max_batch: int = 32
    max_delay_s: float = 0.005
    max_pending: int = 512


class BatchObserver(Protocol):
    """Told what the batcher does, for metrics."""

    def batch_done(self, n_songs: int, queued_s: Sequence[float], compute_s: float) -> None:
        """Take note of a batch that was named; each of its requests had waited ``queued_s``."""
        ...

    def request_done(self, failure: Failure | None) -> None:
        """Take note that a request was answered, or why not."""
        ...

    def pending_changed(self, n_songs: int) -> None:
        """Take note of how many songs wait or are being named."""
        ...


@dataclass(frozen=True)
class _Request:
    songs: Sequence[Song]
    model: Model
    future: "asyncio.Future[list[Assignment]]"
    arrived: float


class Batcher:
    """An async context manager; inside it, `name` gives songs their assignments.

    The executor has one thread: models run one at a time.
    """

    def __init__(self, executor: Executor, limits: BatchLimits, observer: BatchObserver) -> None:
        self._executor, self._limits, self._observer = executor, limits, observer
        self._waiting: dict[Lane, deque[_Request]] = {"live": deque(), "backfill": deque()}
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

    async def name(self, songs: Sequence[Song], model: Model, *, lane: Lane = "live") -> list[Assignment]:
        """Return what the model that heard the songs makes of them, one each; waits while too many songs are pending.

        Songs of a backlog may fill only a part of the queue, and of a batch with live ones.
        """
        if not songs:
            return []
        async with self._room:
            most = self._limits.max_pending * (1 if lane == "live" else BACKFILL_WEIGHT)
            await self._room.wait_for(lambda: self._n_pending < most)
            self._change_pending(len(songs))
        loop = asyncio.get_running_loop()
        request = _Request(songs, model, loop.create_future(), loop.time())
        self._waiting[lane].append(request)
        self._arrived.set()
        failure: Failure | None = "backend"
        try:
            names = await request.future
            failure = None
        except asyncio.CancelledError:
            failure = "canceled"
            raise
        else:
            return names
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
                for part in _by_model(batch):
                    await self._name_batch(part)
            finally:
                for request in batch:
                    request.future.cancel()  # no effect on those that have a result

    async def _gather(self) -> list[_Request]:
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

    async def _name_batch(self, batch: Sequence[_Request]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        songs = [song for request in batch for song in request.songs]
        try:
            names = await loop.run_in_executor(self._executor, batch[0].model.classify, songs)
        except Exception as error:  # noqa: BLE001 - any failure of the model belongs to those who wait for it
            if len(batch) > 1:
                # One poisoned song must not fail the others.
                for request in batch:
                    await self._name_batch([request])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        self._observer.batch_done(len(songs), [began - request.arrived for request in batch], loop.time() - began)
        position = 0
        for request in batch:
            if not request.future.done():
                request.future.set_result(names[position : position + len(request.songs)])
            position += len(request.songs)


def _by_model(batch: list[_Request]) -> list[list[_Request]]:
    """Return the requests of each model; but for the moment of a swap there is one."""
    model = batch[0].model
    if all(request.model is model for request in batch):
        return [batch]
    parts: dict[int, list[_Request]] = {}
    for request in batch:
        parts.setdefault(id(request.model), []).append(request)
    return list(parts.values())


def _n_songs(requests: Iterable[_Request]) -> int:
    return sum(len(request.songs) for request in requests)


def _take(waiting: deque[_Request], most: float) -> list[_Request]:
    """Take requests from the front until they have ``most`` songs or more."""
    taken: list[_Request] = []
    while waiting and _n_songs(taken) < most:
        taken.append(waiting.popleft())
    return taken
