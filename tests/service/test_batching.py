"""The batcher: songs of many callers in few passes, bounded, and no caller left waiting."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import pytest

from fake_models import FakeModel
from songcore.assign import Assignment
from songcore.stream import Song
from songserve.batching import Batcher, BatchLimits, Failure
from songserve.gathering import Gatherer
from songserve.runtime import finished

T = TypeVar("T")
Naming = Batcher[Song, Assignment]


class Model(FakeModel):
    """Names a song by its onset; fails on a negative one; remembers its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def classify(self, songs: Sequence[Song]) -> list[Assignment]:
        """Return one assignment for each song."""
        self.go.wait(10)
        self.batches.append([song.onset for song in songs])
        if any(song.onset < 0 for song in songs):
            raise ValueError("a poisoned song")
        return [Assignment(str(song.onset), "song", 1.0, 0.0, 1.0, novelty="known") for song in songs]


class Observed:
    """Counts what the batcher tells."""

    def __init__(self) -> None:
        self.n_songs = self.max_pending = 0
        self.done: list[Failure | None] = []

    def batch_done(self, n_songs: int, queued_s: Sequence[float], compute_s: float) -> None:
        """Count songs."""
        assert compute_s >= 0
        assert min(queued_s) >= 0
        self.n_songs += n_songs

    def request_done(self, failure: Failure | None) -> None:
        """Remember how requests ended."""
        self.done.append(failure)

    def pending_changed(self, n_songs: int) -> None:
        """Remember the most."""
        self.max_pending = max(self.max_pending, n_songs)


def songs(*onsets: int) -> list[Song]:
    """Return songs that are told apart by their onsets."""
    return [
        Song(onset, onset + 1, forced_cut=False, snr_db=1.0, features=np.zeros((1, 1), np.float32)) for onset in onsets
    ]


def run(limits: BatchLimits, use: Callable[[Naming, Model], Awaitable[T]]) -> tuple[T, Model, Observed]:
    """Run ``use`` with a batcher; return its result, the model and what was observed."""
    model, observed = Model(), Observed()

    async def main() -> T:
        with ThreadPoolExecutor(1) as executor:
            async with Naming(executor, limits, observed) as batcher:
                return await use(batcher, model)

    return asyncio.run(main()), model, observed


def test_songs_of_many_callers_share_a_pass() -> None:
    """Fifty callers at once get their own names, in few batches."""

    async def use(batcher: Naming, model: Model) -> list[list[Assignment]]:
        return await asyncio.gather(*(batcher.run(model.classify, songs(i, i + 1000)) for i in range(50)))

    found, model, observed = run(BatchLimits(max_batch=32, max_delay_s=0.05), use)
    assert [[name.type_id for name in names] for names in found] == [[str(i), str(i + 1000)] for i in range(50)]
    assert len(model.batches) <= 6
    assert max(len(batch) for batch in model.batches) <= 33
    assert observed.n_songs == 100


def test_no_songs_need_no_pass() -> None:
    """Naming nothing gives nothing without asking the model."""

    async def use(batcher: Naming, model: Model) -> list[Assignment]:
        return await batcher.run(model.classify, [])

    found, model, _ = run(BatchLimits(), use)
    assert found == []
    assert model.batches == []


def test_a_poisoned_song_fails_alone() -> None:
    """The caller of the song that the model cannot take gets the error, its neighbours in the batch their names."""

    async def use(batcher: Naming, model: Model) -> list[list[Assignment] | BaseException]:
        calls = [batcher.run(model.classify, songs(onset)) for onset in (1, -1, 2)]
        return await asyncio.gather(*calls, return_exceptions=True)

    found, _, observed = run(BatchLimits(max_delay_s=0.05), use)
    assert isinstance(found[1], ValueError)
    assert [names[0].type_id for names in (found[0], found[2]) if isinstance(names, list)] == ["1", "2"]
    assert observed.done == [None, "backend", None]


def test_each_model_names_the_songs_that_it_heard() -> None:
    """Songs of two models that come together are named in two passes, each by its own model."""
    other = Model()

    async def use(batcher: Naming, model: Model) -> list[list[Assignment]]:
        return await asyncio.gather(*(batcher.run((other if i % 2 else model).classify, songs(i)) for i in range(6)))

    found, model, observed = run(BatchLimits(max_delay_s=0.05), use)
    assert [names[0].type_id for names in found] == [str(i) for i in range(6)]
    assert {onset % 2 for batch in model.batches for onset in batch} == {0}
    assert {onset % 2 for batch in other.batches for onset in batch} == {1}
    assert observed.n_songs == 6


def test_waiting_songs_are_bounded() -> None:
    """While the model is stuck no more than the limit wait; afterwards everyone is served."""

    async def use(batcher: Naming, model: Model) -> int:
        model.go.clear()
        calls = [asyncio.create_task(batcher.run(model.classify, songs(i))) for i in range(30)]
        await asyncio.sleep(0.1)
        model.go.set()
        return sum(len(names) for names in await asyncio.gather(*calls))

    found, _, observed = run(BatchLimits(max_pending=5), use)
    assert found == 30
    assert observed.max_pending == 5


def test_nobody_waits_for_a_closed_batcher() -> None:
    """Leaving the block cancels who still waits."""
    model, observed = Model(), Observed()
    model.go.clear()

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            async with Naming(executor, BatchLimits(), observed) as batcher:
                call = asyncio.create_task(batcher.run(model.classify, songs(1)))
                await asyncio.sleep(0.05)
            with pytest.raises(asyncio.CancelledError):
                await call
            model.go.set()

    asyncio.run(main())
    assert observed.done == ["canceled"]


def test_who_leaves_waits_for_the_thread() -> None:
    """A cancelled caller ends only when its work has, so that it closes no file that a thread still reads."""
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(10)
        done.append(True)

    async def leave() -> None:
        with ThreadPoolExecutor(1) as threads:
            waiting = asyncio.ensure_future(finished(threads.submit(work)))
            queued = asyncio.ensure_future(finished(threads.submit(work)))
            await asyncio.to_thread(begun.wait, 10)
            waiting.cancel()
            queued.cancel()
            await asyncio.sleep(0.01)
            assert queued.done()  # had not begun
            assert not waiting.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert done == [True]

    asyncio.run(leave())


def test_jobs_that_run_together_fail_alone() -> None:
    """Each of forty callers gets its own result or its own error."""

    def job(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number

    async def main() -> list[int | BaseException]:
        with ThreadPoolExecutor(2) as executor:
            gatherer = Gatherer(executor, n_threads=2, window_s=0.01)
            jobs = [gatherer.run(partial(job, number)) for number in range(40)]
            return await asyncio.gather(*jobs, return_exceptions=True)

    found = asyncio.run(main())
    assert [result for result in found if not isinstance(result, BaseException)] == [*range(7), *range(8, 40)]
    assert isinstance(found[7], ValueError)
