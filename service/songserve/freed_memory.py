"""Gives memory back to the system that was freed after a burst.

glibc keeps what its arenas, one for each of the first threads, once held: a minute of backlog would stay for ever.
"""

import asyncio

from songcore.freed_memory import give_back

__all__ = ["tend_memory"]

INTERVAL_S = 30.0


async def tend_memory() -> None:
    """Give free pages back, for ever."""
    while True:
        if not await asyncio.to_thread(give_back):
            return
        await asyncio.sleep(INTERVAL_S)
