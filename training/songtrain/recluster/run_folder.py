"""The folder of one run: what was asked, how far it is, and what every finished stage left.

::

    run.json      what was asked; never changed
    state.json    how far it is (`RunState`); replaced whole at every step, so others may read it at any time
    lock          held by the process that works on the run
    ...           what stages left, each file whole or not there

A run that lost its process, or was cancelled, goes on with the stages that are missing when it is started again.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from songcore.durable import sync
from songcore.errors import ConfigError
from songcore.names import is_name
from songtrain.recluster.settings import ReclusterSettings

__all__ = ["STAGES", "CancelledError", "RunFolder", "RunOrder", "RunState", "write_whole_file"]

STAGES = ("snapshot", "embedding", "training", "clustering", "proposal", "report", "publishing")

Mode = Literal["quick", "full"]
Outcome = Literal["proposed", "nothing_new", "pool_empty", "pool_too_small"]


class CancelledError(KeyboardInterrupt):
    """The run was told to stop; what was finished is kept.

    Raised by a signal, so anywhere: no stage may take it for a failure of what it is doing. And a KeyboardInterrupt, the one
    thing that Ray lets through while it waits; Ray makes a plain one of it.
    """

    def __init__(self, message: str = "told to stop; start the run again to go on with it") -> None:
        super().__init__(message)
        self.reason = "RUN_CANCELLED"


class RunOrder(BaseModel):
    """What a run was asked to do; everything that decides its result, but for the store's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    mode: Mode
    bundle: str
    """Digest of the bundle that is retrained."""
    store: str
    """URL without its password."""
    settings: ReclusterSettings
    created_at: datetime
    created_by: str


class RunState(BaseModel):
    """How far a run is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
    stage: str = ""
    n_done: int = 0
    """Stages that are done, of `n_stages`."""
    n_stages: int = len(STAGES)
    updated_at: datetime
    outcome: Outcome | None = None
    candidate: str | None = None
    """Digest of the bundle that was proposed."""
    reason: str | None = None
    message: str | None = None
    facts: dict[str, float | int | str | None] = {}


class RunFolder:
    """The folder of a run, held by this process; made by `RunFolder.hold`."""

    def __init__(self, path: Path, order: RunOrder, now: Callable[[], datetime]) -> None:
        self.path, self.order, self._now = path, order, now

    @classmethod
    @contextmanager
    def hold(cls, work: Path, order: RunOrder, now: Callable[[], datetime]) -> Iterator["RunFolder"]:
        """Hold the run's folder in ``work``, in which one run works at a time, so that no id is given twice.

        Raises ConfigError: RUN_ID_INVALID, RECLUSTER_BUSY when another process works there, RUN_DIFFERS when the run was asked
        for with other parameters, OUTPUT_NOT_WRITABLE.
        """
        if not is_name(order.run):
            raise ConfigError(
                f"--run {order.run!r}: expected a-z, 0-9 and -, at most 63 characters", reason="RUN_ID_INVALID"
            )
        path = work / order.run
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (work / "lock").open("a")
        except OSError as error:
            raise ConfigError(f"cannot write to {work} ({error.strerror})", reason="OUTPUT_NOT_WRITABLE") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"another reclustering works in {work}; wait for it, cancel it, or choose another --work folder",
                    reason="RECLUSTER_BUSY",
                ) from error
            folder = cls(path, cls._agreed(path, order), now)
            yield folder

    @staticmethod
    def _agreed(path: Path, order: RunOrder) -> RunOrder:
        """Return what was asked for at the first start, which decides the digest of the candidate."""
        file = path / "run.json"
        if not file.exists():
            write_whole_file(file, order.model_dump_json(indent=1).encode())
            return order
        first = read_order(file)
        asked = order.model_copy(update={"created_at": first.created_at, "created_by": first.created_by})
        different = [name for name in RunOrder.model_fields if getattr(asked, name) != getattr(first, name)]
        if different:
            raise ConfigError(
                f"the run {order.run} was started with another {' and '.join(different)}; give a new --run, or the same "
                "parameters to go on with it",
                reason="RUN_DIFFERS",
            )
        return first

    def file(self, name: str) -> Path:
        """Return where a stage leaves something."""
        return self.path / name

    def state(self) -> RunState | None:
        """Return how far the run is; None before its first step."""
        file = self.path / "state.json"
        return RunState.model_validate_json(file.read_bytes()) if file.exists() else None

    def tell(self, **changes: Any) -> RunState:
        """Write down how far the run is, and return it."""
        last = self.state()
        known = last.model_dump() if last else {"state": "RUNNING"}
        state = RunState.model_validate({**known, **changes, "updated_at": self._now()})
        write_whole_file(self.path / "state.json", state.model_dump_json(indent=1).encode())
        return state

    def read_json(self, name: str) -> Any:
        """Return what `write_json` wrote, None when it is not there."""
        file = self.path / name
        return json.loads(file.read_bytes()) if file.exists() else None

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file, whole or not at all."""
        write_whole_file(self.path / name, json.dumps(content, indent=1).encode())


def read_order(file: Path) -> RunOrder:
    """Return the content of run.json; ConfigError when it is damaged."""
    try:
        return RunOrder.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); delete the folder", reason="RUN_DIFFERS") from error


def write_whole_file(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; ConfigError when the disk does not take it."""
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write to {path.parent} ({error.strerror or error}); make room, then start the run again: what is "
            "finished is kept",
            reason="OUTPUT_NOT_WRITABLE",
        ) from error
