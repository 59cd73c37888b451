"""Recordings spread over worker processes, of which any may die."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Self

from songserve.archive.recordings import FoundRecording
from songserve.archive.results import Problem
from songserve.archive.worker import BundleFacts, Job, Outcome, classify_recording, describe_bundle, start_worker

__all__ = ["WorkerPool"]

ATTEMPTS_ALONE = 2

QUEUED_PER_WORKER = 2
"""Enough that no worker waits for the parent, few enough that a million recordings need no memory."""


class WorkerPool:
    """``n_workers`` processes that classify recordings for one job; a context manager that ends them.

    A worker that dies (out of memory, a decoder's crash) takes the pool with it. The recordings at hand are then tried
    again one by one, and only one that kills its own worker, twice, has failed.
    """

    def __init__(
        self, job: Job, n_workers: int, *, classify: Callable[[Job, FoundRecording], Outcome] = classify_recording
    ) -> None:
        self._job, self._n_workers, self._classify = job, n_workers, classify
        self._pool = self._new_pool(n_workers)

    def describe(self) -> BundleFacts:
        """Return the bundle's facts once one worker has it, while the others load it too; raises BundleError."""
        try:
            futures = [self._pool.submit(describe_bundle, self._job) for _ in range(self._n_workers)]
            return next(iter(wait(futures, return_when=FIRST_COMPLETED).done)).result()
        except BrokenProcessPool:
            self._replace(self._n_workers)
            return self._pool.submit(describe_bundle, self._job).result()

    def outcomes(self, recordings: Iterable[FoundRecording]) -> Iterator[Outcome]:
        """Yield how each recording went, in the order in which they end.

        Raises what concerns every recording: BundleError, ConfigError.
        """
        remaining = iter(recordings)
        running: dict[Future[Outcome], FoundRecording] = {}
        while True:
            try:
                self._fill(running, remaining)
            except BrokenProcessPool:
                yield from self._one_by_one(running)
                continue
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                if isinstance(future.exception(), BrokenProcessPool):
                    yield from self._one_by_one(running)
                    break
                yield future.result()
                del running[future]

    def _fill(self, running: dict[Future[Outcome], FoundRecording], remaining: Iterator[FoundRecording]) -> None:
        while len(running) < self._n_workers * QUEUED_PER_WORKER:
            recording = next(remaining, None)
            if recording is None:
                return
            # Known before it is submitted: a pool that breaks right here must not lose it.
            placeholder: Future[Outcome] = Future()
            running[placeholder] = recording
            future = self._pool.submit(self._classify, self._job, recording)
            del running[placeholder]
            running[future] = recording

    def _one_by_one(self, running: dict[Future[Outcome], FoundRecording]) -> Iterator[Outcome]:
        """Take every unfinished recording alone, so that the one that kills is known, then go on as before."""
        self._replace(1)
        for future, recording in list(running.items()):
            del running[future]
            if future.done() and not future.cancelled() and future.exception() is None:
                yield future.result()
                continue
            yield self._alone(recording)
        self._replace(self._n_workers)

    def _alone(self, recording: FoundRecording) -> Outcome:
        """Try once more than necessary: the first death may have been the machine's lack of memory."""
        for _ in range(ATTEMPTS_ALONE):
            try:
                return self._pool.submit(self._classify, self._job, recording).result()
            except BrokenProcessPool:
                self._replace(1)
        problem = Problem(reason="WORKER_DIED", message="the process that read it alone was killed, twice")
        return Outcome(recording, 0.0, 0, problem, kept=False)

    def _replace(self, n_workers: int) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._new_pool(n_workers)

    @staticmethod
    def _new_pool(n_workers: int) -> ProcessPoolExecutor:
        # Spawned, not forked: the parent has threads, and a fork would copy their locks.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(n_workers, mp_context=context, initializer=start_worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
