"""Gives memory back to the system that was freed after a burst.

glibc keeps what its arenas, one for each of the first threads, once held: a minute of backlog would stay for ever.
"""

import asyncio
import ctypes

__all__ = ["give_back", "tend_memory"]

INTERVAL_S = 30.0


def give_back() -> bool:
    """Return free pages to the system; False where the C library has no way to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)  # without the interpreter's lock, a few milliseconds
    return True


async def tend_memory() -> None:
    """Give free pages back, for ever."""
    while True:
        if not await asyncio.to_thread(give_back):
            return
        await asyncio.sleep(INTERVAL_S)
