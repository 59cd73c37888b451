"""What is tried again until it is possible."""

import asyncio
from random import Random

import pytest

from songcore.errors import ConfigError
from songstation.eventual import Eventual
from songstation.recovery import Backoff


def test_all_who_wait_get_one_result_and_a_trouble_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again for whoever is left, told when it is another trouble, and not done again once it is done."""
    tries = iter([*["no file [X]"] * 3, "an empty file [X]", ""])
    n_done = 0

    def act() -> int:
        nonlocal n_done
        if message := next(tries).removesuffix(" [X]"):
            raise ConfigError(message, reason="X")
        n_done += 1
        return n_done

    async def main() -> list[int]:
        eventual = Eventual(act, Backoff(Random(1), first_s=0.05, longest_s=0.05))
        gone = asyncio.create_task(eventual.get())
        waiting = [asyncio.create_task(eventual.get()) for _ in range(2)]
        while not eventual.trouble:  # noqa: ASYNC110 - a text
            await asyncio.sleep(0)
        assert (eventual.trouble, eventual.result) == ("no file [X]", None)
        gone.cancel()
        results = await asyncio.gather(*waiting)
        assert (eventual.trouble, eventual.result) == ("", 1)
        return [*results, await eventual.get()]

    with caplog.at_level("INFO"):
        assert asyncio.run(main()) == [1, 1, 1]
    told = [(record.levelname, record.args) for record in caplog.records if record.name == "songstation.eventual"]
    assert told == [
        ("ERROR", ("no file [X]",)),
        ("ERROR", ("an empty file [X]",)),
        ("INFO", ("an empty file [X]",)),
    ]
