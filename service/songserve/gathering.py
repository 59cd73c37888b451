"""Runs small jobs of many streams together in a few threads.

A hundred streams give a hundred small jobs a second at a hundred different moments. Waking a thread and the event loop for
each, with cold caches, costs a good part of the work itself. Jobs are therefore gathered for a moment and run one after
another; a second thread helps when there are many.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar

__all__ = ["Gatherer"]

T = TypeVar("T")
JOBS_OF_A_THREAD = 8
"""Up to this many jobs are not worth a second thread."""


@dataclass
class _Job:
    run: Callable[[], Any]
    future: "asyncio.Future[Any]"
    result: Any = None
    error: Exception | None = None


class Gatherer:
    """Runs jobs in ``n_threads`` of the executor, those of ``window_s`` together."""

    def __init__(self, executor: ThreadPoolExecutor, *, n_threads: int, window_s: float) -> None:
        self._executor, self._n_threads, self._window_s = executor, n_threads, window_s
        self._jobs: list[_Job] = []

    async def run(self, run: Callable[[], T]) -> T:
        """Return what the job returns, or raise what it raises."""
        loop = asyncio.get_running_loop()
        job = _Job(run, loop.create_future())
        if not self._jobs:
            loop.call_later(self._window_s, self._start)
        self._jobs.append(job)
        result: T = await job.future
        return result

    def _start(self) -> None:
        jobs, self._jobs = self._jobs, []
        loop = asyncio.get_running_loop()
        n_parts = min(self._n_threads, ceil(len(jobs) / JOBS_OF_A_THREAD))
        for first in range(n_parts):
            running = loop.run_in_executor(self._executor, _run_all, jobs[first::n_parts])
            running.add_done_callback(lambda done: _settle(done.result()))


def _run_all(jobs: Sequence[_Job]) -> Sequence[_Job]:
    for job in jobs:
        try:
            job.result = job.run()
        except Exception as error:  # noqa: BLE001 - it belongs to who asked for the job
            job.error = error
    return jobs


def _settle(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():  # whoever asked has gone
            continue
        if job.error:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
