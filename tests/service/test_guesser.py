"""Guesses are made beside a stream: one at a time, none that comes too late, and a failed one harms nobody."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from fake_models import FakeModel
from songcore.assign import Assignment
from songcore.stream import Song
from songserve.intake import Work
from songserve.servicers.guesser import Guesser
from songserve.session import Heard, Step

RATE = 1000
MODEL = FakeModel(sample_rate_hz=RATE)
NAME = Assignment("T0001", "song", 0.9, 0.1, 0.5, novelty="known")


def song(onset: int, offset: int) -> Song:
    """Return a song without content."""
    return Song(onset, offset, forced_cut=False, snr_db=0, features=np.zeros((1, 1), np.float32))


def heard(open_song: Song | None, *ended: Song) -> Heard:
    """Return what listening gave."""
    return Heard(Step(Work(), due=False), ended, (MODEL,) * len(ended), MODEL, 0, None, 0, open_song)


class Fake:
    """A runtime whose model answers when it is told to."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[list[Assignment]]] = []
        self.load = 0.0
        self.batcher = SimpleNamespace(run=self._run)
        self.metrics = SimpleNamespace(ingest_guesses_total=SimpleNamespace(inc=lambda: None))

    async def _run(self, work: object, songs: Sequence[Song], *, lane: str) -> list[Assignment]:
        assert (len(songs), work) == (1, MODEL.classify)
        assert lane == "backfill"
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


def run(use: Callable[[Guesser, Fake], Awaitable[None]]) -> int:
    """Run with a guesser; return how often it woke its stream."""
    woken: list[None] = []

    async def main() -> None:
        fake = Fake()
        guesser = Guesser(cast("Any", fake), wake=lambda: woken.append(None))
        await use(guesser, fake)
        await guesser.close()
        await asyncio.sleep(0)

    asyncio.run(main())
    return len(woken)


async def settle() -> None:
    """Let every task go on."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_guess_is_ready_when_the_model_has_answered() -> None:
    """Nothing waits: until the answer there is none, meanwhile no second one is begun, and then it is given once."""

    async def use(guesser: Guesser, fake: Fake) -> None:
        guesser.consider(heard(song(0, 1100)))
        await settle()
        guesser.consider(heard(song(0, 2200)))
        await settle()
        assert len(fake.answers) == 1
        assert guesser.take() is None
        fake.answers[0].set_result([NAME])
        await settle()
        guess = guesser.take()
        assert guess is not None
        assert (guess[0][0].offset, guess[1:]) == (1100, (NAME, 1))
        assert guesser.take() is None

    assert run(use) == 1


def test_a_guess_after_its_song_is_dropped() -> None:
    """When the song has ended before the model answered, nobody hears the guess."""

    async def use(guesser: Guesser, fake: Fake) -> None:
        guesser.consider(heard(song(0, 1100)))
        await settle()
        guesser.consider(heard(None, song(0, 1400)))
        fake.answers[0].set_result([NAME])
        await settle()
        assert guesser.take() is None

    run(use)


def test_a_busy_server_and_a_failing_model_give_no_guess() -> None:
    """Under load none is begun; one that fails or is cancelled is none, and the next may be made."""

    async def use(guesser: Guesser, fake: Fake) -> None:
        fake.load = 0.9
        guesser.consider(heard(song(0, 1100)))
        await settle()
        assert not fake.answers
        fake.load = 0.0
        for index, end in enumerate((1100, 2200)):
            guesser.consider(heard(song(0, end)))
            await settle()
            if index:
                fake.answers[index].cancel()
            else:
                fake.answers[index].set_exception(ValueError("a broken model"))
            await settle()
            assert guesser.take() is None
        guesser.consider(heard(song(0, 3300)))
        await settle()
        assert len(fake.answers) == 3

    run(use)
