"""The same work on every item as Ray tasks, a bounded number at a time, on whatever nodes are left."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from songcore.errors import ConfigError, SongError

__all__ = ["on_cluster"]

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING_PER_CORE = 2
"""Tasks handed out per core: enough that none waits for work, few enough that results do not pile up."""
N_TRIES = 4
"""How often a task is started whose node was lost."""


def on_cluster(
    work: Callable[..., Result], items: Sequence[Item], *shared: object, in_order: bool = False
) -> Iterator[tuple[int, Result]]:
    """Yield the index of an item and what ``work(item, *shared)`` returned, as items are done or in their own order.

    In their own order no more results wait for their turn than there are tasks at a time. Needs a Ray connection. Raises what
    ``work`` raised as a SongError; ConfigError when nodes are lost again and again.
    """
    task: Any = ray.remote(num_cpus=1, max_retries=N_TRIES - 1)(work)
    handles = [ray.put(value) for value in shared]
    most = max(1, WAITING_PER_CORE * int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]  # Ray
    running: dict[Any, int] = {}
    try:
        for index, item in enumerate(items):
            running[task.remote(item, *handles)] = index
            if len(running) >= most:
                yield _next(running, oldest=in_order)
        while running:
            yield _next(running, oldest=in_order)
    finally:
        for left in running:
            ray.cancel(left, force=True)


def _next(running: dict[Any, int], *, oldest: bool) -> tuple[int, Any]:
    (done,), _ = ray.wait(list(running)[: 1 if oldest else None], num_returns=1)
    index = running.pop(done)
    try:
        return index, ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, SongError):
            raise error.cause from error
        raise
    except RayError as error:
        raise ConfigError(
            f"a task was lost {N_TRIES} times ({' '.join(str(error).split())[:200]}); look after the nodes' memory, then "
            "give the same command again: what is finished is kept",
            reason="WORKERS_LOST",
        ) from error
