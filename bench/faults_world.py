"""The world of one seed: a station that is given sound, a network, a server, their disks and a clock, in one folder."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from faults_account import Books, Place
from faults_link import Proxy
from faults_plan import Plan
from faults_programs import Clock, Disk, Program, SoundPipe

from songstation.commands.station_run import STATE_FILE
from songstation.spool_records import Found, scan

__all__ = ["CLOCK_LIMIT_S", "PATIENCE_S", "Tools", "World"]

PATIENCE_S = 600.0
"""What has not come by then never will, however busy this machine is."""
CLOCK_LIMIT_S = 600.0
READ_SAMPLES = 32_768
"""What the station takes out of the pipe at once."""
NOTED_S = 1.0
"""Twice a second the station notes on the disk what it loses; what it reads is ahead of that by a chunk or two."""
_DISK_MB = 32
_CHECK_S = 0.2
# Quick to notice and quick to try again.
_STATION = {
    "answer_s": 5.0,
    "heartbeat_s": 0.5,
    "keepalive_s": 2.0,
    "first_retry_s": 0.05,
    "longest_retry_s": 0.5,
    "device_retry_s": 0.05,
    # When the sound is over the pipe is silent, however long the server then takes to start.
    "device_silent_s": PATIENCE_S,
    "stop_grace_s": PATIENCE_S,
    "clock_limit_s": CLOCK_LIMIT_S,
    "min_free_disk_mb": 0,
    "metrics_port": 0,
}
_SERVER = {"drain_grace_s": 3.0, "group_window_ms": 5.0, "listen_window_ms": 10.0, "clips": "none"}


@dataclass(frozen=True)
class Tools:
    """What all seeds share."""

    folder: Path
    bundle: Path
    serve: Sequence[str]
    """Command of the server, without its options."""
    record: Sequence[str]
    """Command of the station."""
    clock: Path | None
    """Library that gives a process a wall clock of its own."""
    small_disks: bool


class World:
    """Everything a plan is played with; `begin` it, and `end` it."""

    def __init__(self, plan: Plan, tools: Tools, sound: bytes) -> None:
        self.plan, self.tools, self.sound = plan, tools, sound
        self.rng = Random(plan.seed)  # noqa: S311 - a seed, no secret
        self.folder = tools.folder / f"seed-{plan.seed}"
        self.folder.mkdir()
        small = tools.small_disks and any("disk" in fault.kind for fault in plan.faults)
        self.data = Disk(self.folder / "data", mb=_DISK_MB, is_small=small)
        self.spool = Disk(self.folder / "spool", mb=_DISK_MB, is_small=small)
        self.books = Books(self.spool.path, self.data.path)
        self.proxy = Proxy(self.rng)
        self.pipe = SoundPipe(self.folder / "sound")
        self.clock = Clock(self.folder, tools.clock) if tools.clock and self.has("clock_step") else None
        self.offsets_s = [0.0]
        self.n_given, self.gives = 0, asyncio.Event()
        self.problems: list[str] = []
        self.faults: Counter[str] = Counter()
        self.corrupt: set[tuple[str, Place]] = set()
        self._n_read = 0  # samples, when the station was killed
        self.losable_s = 0.0
        """Sound that a full disk may have cost, at most."""
        self.serving, self.recording = asyncio.Lock(), asyncio.Lock()
        self._beside: list[asyncio.Task[None]] = []
        self.breaking = asyncio.Lock()  # of the link, by those who need it to stay broken

    def has(self, *kinds: str) -> bool:
        """Return whether the plan has one of these faults."""
        return any(fault.kind in kinds for fault in self.plan.faults)

    async def begin(self) -> None:
        """Start everything; sound flows when this returns."""
        self.began = datetime.now(UTC)
        self.server, self.station = self._programs(await self.proxy.start())
        self.station.start()
        self._beside = [asyncio.create_task(self._give()), asyncio.create_task(self._keep_checking())]
        await self.start_server()
        self.gives.set()

    async def end(self) -> None:
        """End everything; the files stay."""
        for task in self._beside:
            task.cancel()
        for program in (self.station, self.server):
            await program.kill()
        await self.proxy.stop()
        self.pipe.close()

    def remove(self) -> None:
        """Take its file systems away."""
        self.data.remove()
        self.spool.remove()

    def _programs(self, port: int) -> tuple[Program, Program]:
        plan, folder = self.plan, self.folder
        station = {
            **_STATION,
            "server": f"127.0.0.1:{port}",
            "spool": str(self.spool.path),
            "station": plan.station_name,
            "pipe": str(folder / "sound"),
            "rate": plan.rate_hz,
            "chunk_s": plan.chunk_s,
            "encoding": plan.encoding,
            **plan.station,
        }
        for name, settings in (("server", {**_SERVER, **plan.server}), ("station", station)):
            lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
            (folder / f"{name}.toml").write_text("".join(lines))
        serve = [*self.tools.serve, "--bundle", str(self.tools.bundle), "--data-dir", str(self.data.path), "--json"]
        serve += ["--listen", "127.0.0.1:0", "--metrics-port", "0", "--device", "cpu"]
        serve += ["--config", str(folder / "server.toml")]
        record = [*self.tools.record, "--config", str(folder / "station.toml")]
        environment = self.clock.environment if self.clock else {}
        return Program(serve, folder / "server.log", {}), Program(record, folder / "station.log", environment)

    async def _give(self) -> None:
        """Give the sound to the station, at the plan's speed, as far as it takes it."""
        rate, step_s = self.plan.rate_hz, 0.02
        credit = 0.0
        while True:
            await asyncio.sleep(step_s)
            if not self.gives.is_set():
                continue
            credit = min(credit + step_s * self.plan.speed * rate, rate)
            while credit >= 1 and 2 * self.n_given < len(self.sound):
                n_bytes = min(4096, 2 * int(credit))
                n_taken = self.pipe.write(self.sound[2 * self.n_given : 2 * self.n_given + n_bytes]) // 2
                if not n_taken:
                    break
                self.n_given += n_taken
                credit -= n_taken

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            if not self.recording.locked():
                self.books.check(self.n_given)

    async def start_server(self) -> None:
        """Start it until it starts, as a supervisor does: it cannot while its disk is full."""
        for _ in range(100):
            self.server.start()
            try:
                ready = await self.server.ready()
            except RuntimeError:
                await self.server.kill()
                await asyncio.sleep(0.3)
                continue
            self.proxy.target = int(ready["address"].rpartition(":")[2])
            return
        self.problems.append("the server does not start")

    async def until(self, is_so: Callable[[], bool], *, reads: bool = False, within_s: float = PATIENCE_S) -> bool:
        """Return whether it became so in time; ``reads`` looks into the spool before each look."""
        deadline = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
            if reads:
                self.books.read()
        return True

    async def end_station(self) -> None:
        """Kill it; what it had not read is as if it had never been played."""
        self.gives.clear()
        await self.station.kill()
        # What it said last is no more about the next one, which may take long to start.
        (self.spool.path / STATE_FILE).unlink(missing_ok=True)
        self._n_read = self.n_given - self.pipe.drain() // 2

    async def restart_station(self) -> None:
        """Start it, and go on where its spool ends."""
        self.station.start()
        await self.go_on()

    async def go_on(self) -> None:
        """Give sound again, from where the station that was started has taken up its spool."""
        if not await self.until(self._is_open):
            self.problems.append("a torn file was not repaired, or the station did not start")
        self.books.read()
        n_forgotten = self._n_read - self.books.n_captured
        if n_forgotten > (NOTED_S * self.plan.speed + 2 * self.plan.chunk_s) * self.plan.rate_hz + READ_SAMPLES:
            self.problems.append(
                f"the station had read {self._n_read} samples when it was killed, and the next knows nothing of the last "
                f"{n_forgotten}"
            )
        self.n_given = self.books.n_captured
        self.gives.set()

    def newest(self) -> tuple[Path, bytes, list[Found]]:
        """Return the newest file of the spool, its content, and the records in it."""
        path = max(self.spool.path.glob("*.spool"))
        content = path.read_bytes()
        return path, content, list(scan(content))

    def _is_open(self) -> bool:
        """Whether the station has taken up its spool: it tells how it is only after that."""
        return (self.spool.path / STATE_FILE).exists() and self._is_whole()

    def _is_whole(self) -> bool:
        if not any(self.spool.path.glob("*.spool")):
            return True
        _, content, found = self.newest()
        return bool(found) and found[-1].intact and found[-1].end == len(content)
