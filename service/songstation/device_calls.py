"""Calls into the sound system: a daemon that hangs, or a bus that dies, can hold them for ever, but not the program.

They run in threads that the interpreter does not wait for when it ends. What never comes back is left behind; only a new
program image gets rid of it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

from songcore.errors import ConfigError

__all__ = ["STUCK", "answered", "came_back"]

T = TypeVar("T")
STUCK = "DEVICE_STUCK"
"""The reason of a sound system that holds on to a call; whoever runs the station starts it anew."""


def came_back(call: Callable[[], object], limit_s: float) -> bool:
    """Make a call; return whether it ended within ``limit_s``."""
    thread = Thread(target=call, name="device", daemon=True)
    thread.start()
    thread.join(limit_s)
    return not thread.is_alive()


async def answered(call: Callable[[], T], stop: asyncio.Event, limit_s: float) -> T:
    """Return what a call gives, or raise what it raises.

    Raises ConfigError DEVICE_STUCK when it does not end within ``limit_s``, or before ``stop`` is set.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: Future[T]) -> None:
        if answer.done():
            return
        if (error := result.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result.result())

    def run() -> None:
        result: Future[T] = Future()
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
            result.set_exception(error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result)

    Thread(target=run, name="device", daemon=True).start()
    stopping = asyncio.ensure_future(stop.wait())
    both: set[asyncio.Future[Any]] = {answer, stopping}
    await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not answer.done():
        answer.cancel()
        raise ConfigError(f"the sound system has not answered for {limit_s:g} s, or until the stop", reason=STUCK)
    return answer.result()
