"""Ray, started quietly on this machine or joined at an address; and a board on which workers post their progress."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from typing import Any

import ray
from ray._private.utils import estimate_available_memory  # knows the limits of containers; Ray itself reckons with it
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from songcore.errors import ConfigError

__all__ = ["cores_per_worker", "n_local_cores", "posted_events", "ray_session", "store_room"]

MIN_STORE_BYTES = 512 * 2**20
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there, Ray does
POLL_S = 0.3
LAST_WORDS_S = 3.0
"""Waited for when this process is told to stop; Ray's may have been told, too, and be gone."""
LOOPBACK = "127.0.0.2"
"""Where a Ray of this machine alone speaks to itself. In place of 127.0.0.1 Ray takes the host's address, which a unit that
allows loopback only may not use."""

_WORKER_ENVIRONMENT = {
    # Threads wait for one another asleep: OpenMP's spinning costs a factor of five where cores are shared. GNU's, which torch
    # brings along, first spins for a moment: waking a thread of a virtual machine takes longer, a sixth of an epoch in all.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1000",
    # glibc gives large arrays back to the system and takes them anew, page by page, step by step: a tenth of the time of
    # training, a sixth of features'. Kept in the one arena that can grow, their memory is there for the next step, and the
    # worker's as long as it lives.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**40),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    # The trainer's controller collects reports this often; by default an epoch of half a second would wait for two.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

_LOCAL_ENVIRONMENT = {
    **_WORKER_ENVIRONMENT,
    # Gloo would take the host's address, too.
    "GLOO_SOCKET_IFNAME": "lo",
    # Nobody takes this machine away from Ray as a cloud does: a process less for every training.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def n_local_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def cores_per_worker(n_workers: int, asked: int | None = None) -> int:
    """Return the cores of each of ``n_workers`` on the cluster that is connected: ``asked``, or an even share of all.

    Raises ConfigError when no node has so many, since Ray would wait for one without end.
    """
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # as above
    largest = max(nodes, default=0)
    threads = asked or max(1, min(largest, sum(nodes) // n_workers))
    if threads > largest or threads * n_workers > sum(nodes):
        raise ConfigError(
            f"{n_workers} workers with {threads} cores each do not fit the {len(nodes)} Ray nodes, which have "
            f"{', '.join(map(str, nodes))} cores; lower run.n_workers or run.threads_per_worker, or add nodes",
            reason="WORKERS_DO_NOT_FIT",
        )
    return threads


def store_room() -> int:
    """Return the bytes that Ray's store of shared objects may take: a quarter of the free memory, if that much can be shared.

    Images of some thousand songs are a gigabyte. A store that cannot hold what two tasks work on lets one of them wait.
    """
    # In a container both may be little, and Ray takes the disk in the place of memory that cannot be shared.
    shared = shutil.disk_usage(SHARED_MEMORY).free // 2 if SHARED_MEMORY.is_dir() else 0
    free = int(estimate_available_memory())  # type: ignore[no-untyped-call]  # Ray has no types here
    return max(MIN_STORE_BYTES, min(free // 4, shared))


@contextmanager
def ray_session(address: str | None = None, *, store_bytes: int | None = None) -> Iterator[None]:
    """Hold a connection to Ray: the cluster at ``address``, or one of this machine alone that ends with the block.

    ``store_bytes`` is the most that objects shared by the processes of this machine may take, `store_room` if not given.

    A connection that is open already is used and left open. A handler of SIGTERM or Ctrl-C that this process has holds inside
    the block, too, and all is as before after it. Raises ConfigError when the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    options["runtime_env"] = {"env_vars": _LOCAL_ENVIRONMENT if address is None else _WORKER_ENVIRONMENT}
    if address is None:
        options["_node_ip_address"] = LOOPBACK
        options |= {"num_cpus": max(2, n_local_cores()), "include_dashboard": False}
        options["object_store_memory"] = store_bytes or store_room()
        # Ray would run a task that needs more memory than there is again for ever. It would also let its workers yield to its
        # own processes, each of whose turns stalls a step of training; to have them yield to others, start all with `nice`.
        options["_system_config"] = {"task_oom_retries": 2, "worker_niceness": 0}
    with _kept_handlers() as handlers_again:
        try:
            # "local": without it Ray would join whatever cluster somebody else has started on this machine.
            ray.init(address=address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise ConfigError(
                f"no Ray cluster at {address or 'this machine'} ({error}); check the address, or leave it out to use this "
                "machine",
                reason="RAY_UNREACHABLE",
            ) from error
        try:
            handlers_again()
            yield
        finally:
            ray.shutdown()


@contextmanager
def _kept_handlers() -> Iterator[Callable[[], None]]:
    """Put the handlers of SIGTERM and SIGINT back at the end, those that are functions also when what is yielded is called.

    `ray.init` has SIGTERM leave the program, its trainer does the same with SIGINT, and neither puts back what was there.
    Where the program has no function for a signal, Ray's is the better one as long as Ray is there: it ends its processes.
    """
    if current_thread() is not main_thread():  # in others no handlers are set, by Ray neither
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def again() -> None:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)

    try:
        yield again
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3)
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
    # Beside this process: on another node it could be lost while the run goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = _Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray hides the class
    done = Event()

    def take(timeout_s: float | None = None) -> None:
        for event in ray.get(board.take.remote(), timeout=timeout_s):
            on_event(event)

    def poll() -> None:
        while not done.wait(POLL_S):
            try:
                take()
            except RayError:
                if not done.is_set():
                    raise

    thread = Thread(target=poll, name="progress", daemon=True)
    thread.start()
    timeout_s: float | None = None
    try:
        yield board
    except (KeyboardInterrupt, SystemExit):
        timeout_s = LAST_WORDS_S
        raise
    finally:
        done.set()
        thread.join(timeout_s)
        with suppress(*([RayError] if timeout_s else [])):
            take(timeout_s)
            ray.kill(board)
