"""A PostgreSQL of the tests' own, from the installed package: made in a temporary folder, reached by a socket in it."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

__all__ = ["PostgresServer", "database_name", "execute", "why_no_postgres"]

USER = "postgres"
PROGRAMS = ("initdb", "postgres", "pg_dump", "pg_restore")


def _folder() -> Path | None:
    """Return where the programs are; Debian keeps those of a server out of the path."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    folders = [*reversed(versions), *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    return next((path for path in folders if all((path / name).is_file() for name in PROGRAMS)), None)


def why_no_postgres() -> str:
    """Return why no server can be started here, or nothing."""
    if _folder() is None:
        return f"no folder with {', '.join(PROGRAMS)}; deploy/install-test-tools.sh installs PostgreSQL"
    return ""


class PostgresServer:
    """A running server without a port; a context manager that ends it and deletes it.

    ``durable=False`` is for tests, which do not cut the power: nothing waits for the disk.
    """

    def __init__(self, *, durable: bool = False) -> None:
        folder = _folder()
        assert folder is not None, why_no_postgres()
        self.programs = folder
        self._durable = durable
        self._names = count(1)
        # Not pytest's folder: that is closed to the server's user, and the path of a socket may be only 107 bytes long.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))

    def __enter__(self) -> Self:
        # PostgreSQL refuses to be run by root; its package made a user for it.
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER, USER)
            self._as_user = {"user": USER, "group": USER, "extra_groups": []}
        self._log = (self.folder / "log").open("w")
        data = str(self.folder / "data")
        make = [str(self.programs / "initdb"), "-D", data, "-U", USER, "-A", "trust", "-N", "-E", "UTF8"]
        self._run([*make, "--locale=C.UTF-8"]).check_returncode()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Nothing of it is needed again, so it need not put its files in order.
        self.stop(signal.SIGQUIT)
        self._log.close()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder)}
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        deadline = time.monotonic() + 60
        self._server = self._spawn(command)
        while True:
            try:
                psycopg.connect(host=str(self.folder), user=USER, dbname="postgres").close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    said = (self.folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"PostgreSQL does not answer; it said: {said}") from error
                time.sleep(0.05)
                if self._server.poll() is not None:  # what its predecessor held is free a moment after that has ended
                    time.sleep(0.5)
                    self._server = self._spawn(command)
            else:
                return

    def _spawn(self, command: list[str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, cwd=self.folder, stdout=self._log, stderr=self._log, **self._as_user)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it, and every connection to it."""
        self._server.send_signal(how)
        self._server.wait(30)

    def new_database(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"songs_{next(self._names)}"
        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            command, cwd=self.folder, stdout=self._log, stderr=self._log, check=False, **self._as_user
        )


def execute(url: str, statement: str) -> None:
    """Run one statement, also in a database that is made read-only."""
    options = "-c default_transaction_read_only=off"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True, options=options) as connection:
        connection.execute(statement.encode())


def database_name(url: str) -> str:
    """Return the database's name in a URL."""
    return url.split("@/")[1].split("?", maxsplit=1)[0]
