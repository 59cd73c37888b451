"""Live sound goes first, a backlog waits and does not starve; credit shrinks with load; what is worth telling is told."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fake_models import FakeModel
from songcore.assign import Assignment
from songcore.stream import Song
from songserve.batching import Batcher, BatchLimits, Unobserved
from songserve.credit import Credit, granted
from songserve.gathering import TURN_S, Gatherer
from songserve.guesses import Guesses
from songserve.notices import ClockWatch, SoundWatch
from songserve.sound import Level

RATE = 1000
FEATURES = np.zeros((4, 4), np.float32)


def song(onset: int, offset: int) -> Song:
    """Return a song without content."""
    return Song(onset, offset, forced_cut=False, snr_db=0, features=FEATURES)


def test_a_backlog_gets_its_share_and_no_more_while_live_sound_leaves_no_pause() -> None:
    """With both lanes always waiting, four seconds of live sound bring one of the backlog: one of five, not one of four."""
    n_windows, window_s, job_s = 100, 20, 4.0
    live: list[int] = []
    backlog: list[int] = []

    async def run(executor: ThreadPoolExecutor) -> float:
        gatherer = Gatherer(executor, n_threads=2, window_s=0.0)

        async def window(begins: Event) -> "list[asyncio.Task[None]]":
            """Have live sound wait, of which nothing is listened to before the next waits behind it: so there is no pause."""

            def listen() -> None:
                assert begins.wait(30)
                live.append(1)

            jobs = [asyncio.create_task(gatherer.run(listen, cost_s=1.0)) for _ in range(window_s)]
            for _ in range(5):  # turns of the loop: they come in, and their window ends
                await asyncio.sleep(0)
            return jobs

        gates = [Event() for _ in range(n_windows + 1)]
        running = await window(gates[0])
        late = partial(backlog.append, 1)
        waiting = [asyncio.create_task(gatherer.run(late, lane="backfill", cost_s=job_s)) for _ in range(200)]
        for number in range(n_windows):
            following = await window(gates[number + 1])
            gates[number].set()
            await asyncio.gather(*running)
            # The last are answered a moment before the next are taken.
            while gatherer._live:  # noqa: ASYNC110 - a list
                await asyncio.sleep(0)
            running = following
        share = (
            len(backlog) * job_s / len(live)
        )  # the next window waits for its gate, and its part of the backlog with it
        gates[-1].set()
        await asyncio.gather(*running, *waiting)
        return share

    with ThreadPoolExecutor(2) as executor:
        share = asyncio.run(run(executor))
    assert len(backlog) == 200
    # The first window met no backlog, and a job of it may be owed or left over.
    assert abs(share - 0.25) < 0.02


def test_a_backlog_alone_runs_at_full_speed_and_live_sound_overtakes_it() -> None:
    """Without live jobs all of the backlog runs; a live job that comes waits for one turn, not for the backlog."""
    order: list[str] = []

    async def run(executor: ThreadPoolExecutor) -> None:
        gatherer = Gatherer(executor, n_threads=1, window_s=0.0)
        backlog = [
            asyncio.create_task(gatherer.run(partial(order.append, "backfill"), lane="backfill", cost_s=TURN_S))
            for _ in range(50)
        ]
        await backlog[4]
        await gatherer.run(partial(order.append, "live"))
        assert not all(job.done() for job in backlog)
        await asyncio.gather(*backlog)

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(run(executor))
    assert order.count("backfill") == 50
    assert 5 <= order.index("live") <= 8


def test_who_waited_longest_is_answered_while_the_others_are_listened_to() -> None:
    """Of many jobs that wait together the first are answered while the last still runs."""
    last_may_end = Event()

    async def run(executor: ThreadPoolExecutor) -> None:
        gatherer = Gatherer(executor, n_threads=1, window_s=0.0)
        jobs: list[Callable[[], object]] = [*[lambda: 1] * 40, lambda: last_may_end.wait(30)]
        waiting = [asyncio.create_task(gatherer.run(job)) for job in jobs]
        assert await asyncio.wait_for(waiting[0], 20) == 1
        assert not waiting[-1].done()
        last_may_end.set()
        assert all(await asyncio.gather(*waiting))

    with ThreadPoolExecutor(1) as executor:
        try:
            asyncio.run(run(executor))
        finally:
            last_may_end.set()


def test_live_songs_are_named_first() -> None:
    """A batch takes all live songs and a quarter as many of the backlog; the backlog alone fills a batch."""
    batches: list[list[int]] = []

    def classify(songs: Sequence[Song]) -> list[Assignment]:
        batches.append([one.onset for one in songs])
        return [Assignment("T", "song", 1.0, 0.0, 1.0, novelty="known")] * len(songs)

    model = FakeModel(names=classify)

    async def run(executor: ThreadPoolExecutor) -> None:
        limits = BatchLimits(max_batch=16, max_delay_s=0.05, max_pending=1000)
        async with Batcher[Song, Assignment](executor, limits, Unobserved()) as batcher:
            backlog = [
                asyncio.create_task(batcher.run(model.classify, [song(-1, 0)], lane="backfill")) for _ in range(24)
            ]
            live = [asyncio.create_task(batcher.run(model.classify, [song(1, 2)])) for _ in range(8)]
            await asyncio.gather(*backlog, *live)

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(run(executor))
    assert batches[0] == [1] * 8 + [-1] * 2
    assert batches[1] == [-1] * 16
    assert sum(map(len, batches)) == 32


@given(st.integers(1, 1000), st.integers(2, 64), st.floats(0, 3))
def test_credit_falls_with_load_and_never_to_nothing(chunks: int, n_chunk_bytes: int, load: float) -> None:
    """Up to half of the load all is given, then less and less, and at least a pair of chunks where so many ever fit."""
    full = Credit(chunks, 8 * n_chunk_bytes)
    given_ = granted(full, load, max_chunk_bytes=n_chunk_bytes)
    assert min(2, chunks) <= given_.chunks <= chunks
    assert 2 * n_chunk_bytes <= given_.n_bytes <= full.n_bytes
    more = granted(full, load + 0.1, max_chunk_bytes=n_chunk_bytes)
    assert more.chunks <= given_.chunks
    assert load > 0.5 or given_ == full


def test_silence_is_told_once_and_so_is_its_end() -> None:
    """Five seconds of one value are silence; a gap between clipped chunks of a minute is kept."""
    watch = SoundWatch(RATE)
    told = [
        notice.kind
        for second in range(9)
        for notice in watch.follow([Level(second * RATE, RATE, is_constant=1 <= second < 8, n_clipped=0)])
    ]
    assert told == ["silence", "sound"]
    clipped = [watch.follow([Level(s * RATE, RATE, is_constant=False, n_clipped=50)]) for s in range(100, 230)]
    assert sum(map(len, clipped)) == 3
    assert watch.follow([Level(999 * RATE, RATE, is_constant=False, n_clipped=1)]) == []


def test_a_wrong_clock_is_told_when_it_is_wrong_in_another_way() -> None:
    """Half a minute is allowed; beyond it is told once, again after a step, and again after it was right."""
    watch = ClockWatch()
    offsets = [0, 29, -29, 31, 33, 35, 3600, 3601, 0, 31]
    told = [bool(watch.compare(1000.0 + offset, 1000.0)) for offset in offsets]
    assert told == [False, False, False, True, False, False, True, False, False, True]


def test_a_song_is_guessed_at_each_second() -> None:
    """The first guess comes after a second, the next a second later, and a new song begins anew at revision 1."""
    guesses = Guesses()
    made = []
    for onset, length in ((0, 900), (0, 1000), (0, 1500), (0, 2100), (0, 3000), (0, 3200), (9000, 1100), (9000, 2200)):
        one = song(onset, onset + length)
        if guesses.due(one, RATE):
            made.append((onset, length, guesses.take(one)))
    assert made == [(0, 1000, 1), (0, 2100, 2), (0, 3200, 3), (9000, 1100, 1), (9000, 2200, 2)]
    assert not guesses.due(None, RATE)
