"""What the cores at hand give to processes that know nothing of each other: the most that any scheduler can make of them.

Two cores of a virtual machine are often the two threads of one, and two processes then do a third more than one, not twice as
much.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["at_once"]


def at_once(n: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
    """Return what ``work`` gives in each of ``n`` new processes that run at the same time."""
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        return [job.result() for job in [pool.submit(work, *args, **kwargs) for _ in range(n)]]
