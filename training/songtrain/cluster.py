"""Ray, started quietly on this machine or joined at an address; and a board on which workers post their progress."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import ray

from songcore.errors import ConfigError

__all__ = ["n_local_cores", "posted_events", "ray_session"]

STORE_BYTES = 512 * 2**20
POLL_S = 0.3

_WORKER_ENVIRONMENT = {
    # Threads wait for one another asleep: OpenMP's spinning costs a factor of five where cores are shared.
    "OMP_WAIT_POLICY": "PASSIVE",
    # The trainer's controller collects reports this often; by default an epoch of half a second would wait for two.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


def n_local_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def ray_session(address: str | None = None, *, store_bytes: int = STORE_BYTES) -> Iterator[None]:
    """Hold a connection to Ray: the cluster at ``address``, or one of this machine alone that ends with the block.

    A connection that is open already is used and left open. Raises ConfigError when the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    options["runtime_env"] = {"env_vars": _WORKER_ENVIRONMENT}
    if address is None:
        options |= {"num_cpus": max(2, n_local_cores()), "include_dashboard": False, "object_store_memory": store_bytes}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise ConfigError(
            f"no Ray cluster at {address or 'this machine'} ({error}); check the address, or leave it out to use this machine",
            reason="RAY_UNREACHABLE",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@ray.remote(num_cpus=0)
class _Board:
    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def post(self, event: dict[str, Any]) -> None:
        self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        events, self._events = self._events, []
        return events


@contextmanager
def posted_events(on_event: Callable[[dict[str, Any]], None]) -> Iterator[Any]:
    """Yield an actor handle; what workers ``post`` to it reaches ``on_event`` in this process, in order."""
    board = _Board.remote()  # type: ignore[attr-defined]  # Ray's decorator hides the class from mypy
    done = Event()

    def take() -> None:
        for event in ray.get(board.take.remote()):
            on_event(event)

    def poll() -> None:
        while not done.wait(POLL_S):
            take()

    thread = Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        done.set()
        thread.join()
        take()
        ray.kill(board)
