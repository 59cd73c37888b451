"""What the cores at hand give to processes that know nothing of each other: the most that any scheduler can make of them.

Cores of a virtual machine are often threads of one core, or shared with others: two processes need not do twice what one does.
What bare processes reach side by side is what a distributed loop on the same cores is measured by.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["at_once"]


def at_once(n: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
    """Return what ``work`` gives in each of ``n`` new processes of one thread that begin it at the same time."""
    context = get_context("spawn")
    limits = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(limits, "1"))
    try:
        with ProcessPoolExecutor(n, context, _keep, (context.Barrier(n),)) as pool:
            return [job.result() for job in [pool.submit(_together, partial(work, *args, **kwargs)) for _ in range(n)]]
    finally:
        for name, value in limits.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_barriers: list[Barrier] = []


def _keep(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _together(work: Callable[[], T]) -> T:
    """Do the work when all processes are there, with all that it needs imported."""
    _barriers[0].wait()
    return work()
