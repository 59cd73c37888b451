"""Reclusterings as processes beside the server: started, watched through the folder they work in, cancelled.

The server shares no code with them. The folder of a run says what was asked (run.json) and how far it is (state.json); whoever
works in the folder of runs holds its lock.
"""

import asyncio
import fcntl
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from songcore.names import is_name
from songserve.database import DATABASE_NAME
from songserve.refusal import Refusal
from songserve.settings import ServeSettings

__all__ = ["RECLUSTERINGS_FOLDER", "Reclustering", "Reclusterings"]

RECLUSTERINGS_FOLDER = "reclusterings"
MAX_LISTED = 100
STOP_S = 15.0
"""For a run to stop when the server does: with the time that streams have, less than deploy/systemd gives the server."""
NICENESS = 15
"""Of a run's processes beside the server's, as deploy/systemd has it."""
STORE_VARIABLE = "SONGSTREAM_STORE"
"""The URL may hold a password, which a command line would show to everybody."""
_ERROR = re.compile(r"songstream: (.*) \[([A-Z_]+)\]")

Mode = Literal["quick", "full"]


@dataclass(frozen=True)
class Reclustering:
    """How far a run is."""

    run: str
    order: Mapping[str, Any]
    state: Mapping[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether it has ended, one way or another."""
        return bool(self.state["state"] != "RUNNING")


@dataclass(frozen=True)
class _Before:
    """What a process found that goes on with a run: it may end before it says anything."""

    state: Mapping[str, Any] | None
    log_bytes: int


class Reclusterings:
    """All runs of a server's folder."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._folder = settings.data_dir / RECLUSTERINGS_FOLDER
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._before: dict[str, _Before] = {}
        """Of every process, what it found."""
        self._starting = asyncio.Lock()

    async def start(self, run: str, mode: Mode, now: datetime) -> Reclustering:
        """Start a run, or find the one of that name; raises Refusal NAME_INVALID, RECLUSTER_BUSY."""
        run = run or f"{now:%Y%m%d-%H%M%S}-{mode}"
        _check_id(run)
        async with self._starting:
            found = await asyncio.to_thread(self._read, run)
            if found is not None and (self._at_work(run) or found.state["state"] in {"RUNNING", "SUCCEEDED"}):
                return found
            if any(self._at_work(name) for name in self._processes) or await asyncio.to_thread(self._is_locked):
                raise Refusal("another reclustering works; wait for it or cancel it", reason="RECLUSTER_BUSY")
            self._before[run] = await asyncio.to_thread(self._begin, run, mode, now)
            self._processes[run] = await self._launch(run, mode)
        return await self.get(run)

    async def get(self, run: str) -> Reclustering:
        """Return how far a run is; raises Refusal RECLUSTERING_UNKNOWN, NAME_INVALID."""
        _check_id(run)
        found = await asyncio.to_thread(self._read, run)
        if found is None:
            raise Refusal(f"there is no reclustering {run}", reason="RECLUSTERING_UNKNOWN")
        return found

    async def latest(self) -> list[Reclustering]:
        """Return the runs there are, the latest first."""
        return await asyncio.to_thread(self._list)

    async def cancel(self, run: str) -> Reclustering:
        """Tell a run to stop; raises Refusal RECLUSTERING_UNKNOWN, RECLUSTERING_ELSEWHERE."""
        found = await self.get(run)
        if found.is_done:
            return found
        if not self._at_work(run):
            raise Refusal(
                f"reclustering {run} was not started by this server; stop it where it was started",
                reason="RECLUSTERING_ELSEWHERE",
            )
        self._tell(run, signal.SIGTERM)
        return found

    async def close(self) -> None:
        """Stop what this server started, by force what does not stop in time; it goes on when it is started again."""
        for number, seconds in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, None)):
            working = [run for run in self._processes if self._at_work(run)]
            if not working:
                return
            for run in working:
                self._tell(run, number)
            await asyncio.wait([asyncio.create_task(self._processes[run].wait()) for run in working], timeout=seconds)

    def _tell(self, run: str, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it ends by itself just now
            self._processes[run].send_signal(number)

    def _begin(self, run: str, mode: Mode, now: datetime) -> "_Before":
        """Leave a state before there is a process, so that a caller who asks at once is answered; return what was there."""
        folder = self._folder / run
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "request.json").write_text(json.dumps({"mode": mode, "created_at": now.isoformat()}))
        log = folder / "log.txt"
        return _Before(_json(folder / "state.json"), log.stat().st_size if log.exists() else 0)

    async def _launch(self, run: str, mode: Mode) -> asyncio.subprocess.Process:
        settings = self._settings
        options: dict[str, object] = {
            "bundle": settings.bundle,
            "models": settings.bundles_dir,
            "work": self._folder,
            "clips": settings.data_dir / "clips",
            "run": run,
            "mode": mode,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        store = settings.database_url.get_secret_value() if settings.database_url else ""
        store = store or f"sqlite:///{(settings.data_dir / DATABASE_NAME).absolute()}"
        with (self._folder / run / "log.txt").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                # Live streams go first.
                f"import os; os.nice({NICENESS}); from songcore.cli import main; main()",
                "recluster",
                "--active",
                "--json",
                *arguments,
                env={**os.environ, STORE_VARIABLE: store},
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )

    def _at_work(self, run: str) -> bool:
        process = self._processes.get(run)
        return process is not None and process.returncode is None

    def _is_locked(self) -> bool:
        """Return whether any process works in the folder."""
        try:
            with (self._folder / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def _list(self) -> list[Reclustering]:
        names = [path.name for path in self._folder.glob("*/") if is_name(path.name)]
        found = [run for name in names if (run := self._read(name)) is not None]
        return sorted(found, key=lambda run: (run.order["created_at"], run.run), reverse=True)[:MAX_LISTED]

    def _read(self, run: str) -> Reclustering | None:
        folder, at_work = self._folder / run, self._at_work(run)
        order = _json(folder / "run.json") or _json(folder / "request.json")
        if order is None:
            return None
        stored = _json(folder / "state.json")
        state = stored or {"state": "RUNNING", "updated_at": order["created_at"]}
        if at_work and state["state"] != "SUCCEEDED":
            # Stored is how it ended the time before, until the process says something.
            state = {**state, "state": "RUNNING", "reason": None, "message": None}
        elif not at_work:
            before = self._before.get(run, _Before(None, 0))
            is_told = stored is not None and (stored != before.state or stored["state"] == "SUCCEEDED")
            state = self._left(folder, state) if is_told else _begun(folder / "log.txt", before.log_bytes, state)
        return Reclustering(run, order, state)

    def _left(self, folder: Path, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a run on which no process of this server works."""
        if state["state"] != "RUNNING" or self._is_locked():
            return state
        # Its last word may have come before it let go.
        last = _json(folder / "state.json") or state
        return {**last, "state": "INTERRUPTED"} if last["state"] == "RUNNING" else last


def _check_id(run: str) -> None:
    if not is_name(run):
        raise Refusal(
            f"{run!r} is no name of a reclustering: a-z, 0-9 and -, at most 63 characters", reason="NAME_INVALID"
        )


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _begun(log: Path, begin: int, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a run whose process ended before it told any, by the last line of its log."""
    error = _last_error(log, begin)
    if error is None:
        return {**state, "state": "INTERRUPTED"}
    ended = "CANCELLED" if error[1] == "RUN_CANCELLED" else "FAILED"
    return {**state, "state": ended, "message": error[0], "reason": error[1]}


def _last_error(log: Path, begin: int) -> tuple[str, str] | None:
    """Return message and reason of the line that a command ends with whose log begins at that byte."""
    try:
        lines = log.read_bytes()[begin:].decode(errors="replace").splitlines()
    except OSError:
        return None
    found = [match for line in lines if (match := _ERROR.fullmatch(line))]
    return (found[-1][1], found[-1][2]) if found else ("it did not begin; see its log.txt", "FAULT") if lines else None
