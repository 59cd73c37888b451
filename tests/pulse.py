"""A PulseAudio daemon of one's own: what is played into its null sink is what its microphone hears."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["PulseDaemon", "why_no_pulse"]

PROGRAMS = ("pulseaudio", "pactl", "paplay")


def why_no_pulse() -> str:
    """Return why no daemon can be started here, or nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed; deploy/install-test-tools.sh installs them"
    try:
        import sounddevice  # noqa: F401 - loads the library
    except OSError as error:
        return f"{error}; deploy/install-test-tools.sh installs PortAudio"
    return ""


class PulseDaemon:
    """``pulseaudio`` with a null sink at ``rate_hz``, its monitor the default source; a context manager that ends it.

    Home and runtime folders are its own, so that no other daemon of the user is met or disturbed.
    """

    def __init__(self, rate_hz: int) -> None:
        # Not pytest's folder: the path of a socket may be only 107 bytes long.
        self._folder = Path(tempfile.mkdtemp(prefix="pulse-"))
        for name in ("home", "run"):
            (self._folder / name).mkdir(mode=0o700)
        own = {"HOME": str(self._folder / "home"), "XDG_RUNTIME_DIR": str(self._folder / "run")}
        foreign = ("PULSE_SERVER", "PULSE_RUNTIME_PATH", "DBUS_SESSION_BUS_ADDRESS")
        self.environment = {name: value for name, value in os.environ.items() if name not in foreign} | own
        self._rate_hz = rate_hz

    def __enter__(self) -> Self:
        log = (self._folder / "log").open("w")
        sink = f"module-null-sink sink_name=field rate={self._rate_hz} channels=1"
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        self._daemon = subprocess.Popen(
            [*command, "--load=module-native-protocol-unix", f"--load={sink}"],
            env=self.environment,
            stdout=log,
            stderr=log,
        )
        log.close()
        deadline = time.monotonic() + 20
        while self._control("set-default-source", "field.monitor") != 0:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise OSError("the daemon did not start")
            time.sleep(0.05)
        return self

    def play(self, recording: Path) -> None:
        """Play a recording into the sink, in real time, to its end."""
        subprocess.run(["paplay", str(recording)], env=self.environment, check=True, timeout=120)

    def is_recording(self) -> bool:
        """Return whether anybody listens to the sink's monitor."""
        command = ["pactl", "list", "short", "source-outputs"]
        listed = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return bool(listed.stdout.strip())

    def hang(self) -> None:
        """Stand still: answer nobody, and keep every connection open."""
        self._daemon.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Stand still no longer."""
        self._daemon.send_signal(signal.SIGCONT)

    def _control(self, *arguments: str) -> int:
        command = ["pactl", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False, timeout=20).returncode

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._daemon.poll() is None:
            self.go_on()
            self._daemon.terminate()
        try:
            self._daemon.wait(10)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
