"""What a run is made of: two programs, a pipe of sound between nobody and the station, small file systems, a wall clock."""

import asyncio
import errno
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

__all__ = ["Clock", "Disk", "Program", "SoundPipe", "songstream", "why_no_clock", "why_no_disk"]

HERE = Path(__file__).resolve().parent


def songstream() -> list[str]:
    """Return the command of this project."""
    return [str(Path(sys.executable).with_name("songstream"))]


class Program:
    """A process that can be killed, stopped, frozen, and started again."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command, self._log, self._environment = command, log, environment
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; what it says is appended to the log."""
        with self._log.open("a") as errors:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **self._environment}
            )

    async def ready(self) -> dict[str, str]:
        """Return the line that it prints when it is ready."""
        line = await asyncio.to_thread(self._output.readline)
        if not line:
            raise RuntimeError(f"{self._command[1]} did not start, see {self._log}")
        facts: dict[str, str] = json.loads(line)
        return facts

    @property
    def is_running(self) -> bool:
        """Return whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.is_running:
            self.process.send_signal(number)

    async def ended(self, within_s: float) -> int | None:
        """Return its exit code, or None when it does not end."""
        if self.process is None:
            return None
        try:
            return await asyncio.to_thread(self.process.wait, within_s)
        except subprocess.TimeoutExpired:
            return None

    async def kill(self) -> None:
        """Kill it, and return when it is gone."""
        self.send(signal.SIGKILL)
        await self.ended(30)
        if self.process is not None:
            self._output.close()

    @property
    def _output(self) -> IO[str]:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout


class SoundPipe:
    """A named pipe into which sound is written as it is played; it stays when its reader is killed."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # Both ends, so that it neither ends nor breaks.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, 65_536)

    def write(self, data: bytes) -> int:
        """Return how many bytes went in, an even number."""
        try:
            # Up to PIPE_BUF all or nothing goes in, so no sample is ever halved.
            return os.write(self._fd, data[:4096])
        except BlockingIOError:
            return 0

    def drain(self) -> int:
        """Throw away what nobody has read, and return how many bytes that was."""
        n_bytes = 0
        try:
            while part := os.read(self._fd, 65_536):
                n_bytes += len(part)
        except BlockingIOError:
            pass
        return n_bytes

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class Disk:
    """A directory on a small file system of its own in memory, where that may be had; else on what is there."""

    def __init__(self, path: Path, *, mb: int, is_small: bool) -> None:
        self.path, self._is_small = path, is_small
        path.mkdir(parents=True)
        if is_small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mb}m", "songstream-faults", str(path)], check=True)

    def fill(self, n_left: int) -> None:
        """Leave room for so many bytes."""
        with (self.path / "filler").open("wb") as file:
            while (free := shutil.disk_usage(self.path).free) > n_left:
                try:
                    os.posix_fallocate(file.fileno(), 0, free - n_left)
                    break
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    file.truncate()  # the program wrote meanwhile; there is less room than a moment ago

    def free(self) -> None:
        """Make room again."""
        (self.path / "filler").unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the file system away."""
        if self._is_small:
            subprocess.run(["umount", "--lazy", str(self.path)], check=False)


def why_no_disk(folder: Path) -> str:
    """Return why there can be no small file systems, or nothing."""
    probe = folder / "probe"
    probe.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "songstream-faults", str(probe)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"no tmpfs can be mounted: {done.stderr.strip()}"
    subprocess.run(["umount", str(probe)], check=True)
    return ""


class Clock:
    """The wall clock of a process that was started with `environment`."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._path = folder / "clock"
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(self._path)}
        self.offset_s = 0.0
        self.set(0.0)

    def set(self, offset_s: float) -> None:
        """Put it so many seconds ahead of the truth."""
        self.offset_s = offset_s
        # In place: the process has it in its memory.
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(fd, struct.pack("<q", round(offset_s * 1e9)), 0)
        os.close(fd)


def why_no_clock(library: Path) -> str:
    """Build what `Clock` needs; return why that cannot be, or nothing."""
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "faults_clock.c"), "-ldl"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "no C compiler to build faults_clock.c"
    return f"faults_clock.c cannot be built: {done.stderr.strip()}" if done.returncode else ""
