"""Runs small jobs of many streams together in a few threads, live ones first.

A hundred streams give a hundred small jobs a second at a hundred different moments. Waking a thread and the event loop for
each, with cold caches, costs a good part of the work itself. Jobs are therefore gathered for a moment and run one after
another, in one thread or, where that is set, in several when there are many. The first to come are the first to run, and are
answered some at a time: who waited longest for company does not wait for all of it.

Jobs of the lane BACKFILL fill the pauses between: a short turn of them whenever nothing runs and no live job is due. When
live jobs leave no pause, every second of live sound brings a quarter of a second of backlog along, so that a backlog waits
long and not for ever, and live sound is held up by one turn at most.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, TypeVar

__all__ = ["BACKFILL_WEIGHT", "Gatherer"]

T = TypeVar("T")
JOBS_OF_A_THREAD = 8
"""Up to this many jobs are not worth a second thread."""
JOBS_OF_AN_ANSWER = 8
"""After so many jobs their callers are told: waking the event loop costs a small part of running them."""
BACKFILL_WEIGHT = 1 / 4
"""Of the lane BACKFILL for each of the lane LIVE while both wait."""
TURN_S = 8.0
"""Seconds of backlog that a thread listens to in one turn: a small part of a second of work."""
FULL_LOAD_S = 2.0
"""A live job that waits this long means a server that cannot keep up."""


@dataclass
class _Job:
    run: Callable[[], Any]
    future: "asyncio.Future[Any]"
    cost_s: float
    arrived: float
    result: Any = None
    error: Exception | None = None


class Gatherer:
    """Runs jobs in ``n_threads`` of the executor, live ones of ``window_s`` together."""

    def __init__(self, executor: ThreadPoolExecutor, *, n_threads: int, window_s: float) -> None:
        self._executor, self._n_threads, self._window_s = executor, n_threads, window_s
        self._live: list[_Job] = []
        self._backfill: deque[_Job] = deque()
        self._live_due = False  # the live jobs have waited for company long enough
        self._allowance_s = 0.0  # seconds of backlog that live jobs have brought along and that were not run yet
        self._n_running = 0

    async def run(self, run: Callable[[], T], *, lane: Literal["live", "backfill"] = "live", cost_s: float = 1.0) -> T:
        """Return what the job returns, or raise what it raises; ``cost_s`` is the sound it is about."""
        loop = asyncio.get_running_loop()
        job = _Job(run, loop.create_future(), cost_s, loop.time())
        if lane == "live":
            if not self._live:
                loop.call_later(self._window_s, self._end_window)
            self._live.append(job)
        else:
            self._backfill.append(job)
            loop.call_soon(self._start)
        result: T = await job.future
        return result

    @property
    def load(self) -> float:
        """From 0, idle, to 1 and more: how long the oldest live job has waited."""
        if not self._live:
            return 0.0
        return (asyncio.get_running_loop().time() - self._live[0].arrived - self._window_s) / FULL_LOAD_S

    def _end_window(self) -> None:
        self._live_due = True
        self._start()

    def _start(self) -> None:
        if self._n_running:
            return
        if self._live_due:
            jobs, self._live, self._live_due = self._live, [], False
            n_parts = min(self._n_threads, ceil(len(jobs) / JOBS_OF_A_THREAD))
            self._allowance_s += BACKFILL_WEIGHT * sum(job.cost_s for job in jobs)
            jobs = jobs + self._turn()
        else:
            self._allowance_s = TURN_S * self._n_threads
            jobs = self._turn()
            n_parts = min(self._n_threads, len(jobs))
        loop = asyncio.get_running_loop()
        self._n_running = n_parts
        for first in range(n_parts):
            running = loop.run_in_executor(self._executor, _run_all, jobs[first::n_parts], loop)
            running.add_done_callback(self._end_part)

    def _turn(self) -> list[_Job]:
        """Take the jobs of the backlog that may run now; what the last one takes too much is owed."""
        jobs = []
        while self._backfill and self._allowance_s > 0:
            jobs.append(self._backfill.popleft())
            self._allowance_s -= jobs[-1].cost_s
        if not self._backfill:
            self._allowance_s = min(self._allowance_s, 0.0)
        return jobs

    def _end_part(self, done: "asyncio.Future[None]") -> None:
        self._n_running -= 1
        done.result()
        if self._live_due or self._backfill:
            self._start()


def _run_all(jobs: Sequence[_Job], loop: asyncio.AbstractEventLoop) -> None:
    for first in range(0, len(jobs), JOBS_OF_AN_ANSWER):
        part = jobs[first : first + JOBS_OF_AN_ANSWER]
        for job in part:
            try:
                job.result = job.run()
            except Exception as error:  # noqa: BLE001 - it belongs to who asked for the job
                job.error = error
        loop.call_soon_threadsafe(_settle, part)


def _settle(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():  # whoever asked has gone
            continue
        if job.error:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
