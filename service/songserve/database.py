"""Opens the SQLite file of the store: one writer that may checkpoint the log, readers that never do.

SQLite before 3.51.3 can corrupt the write-ahead log when two connections write or checkpoint at once, its WAL-reset
bug. Here one connection does both, which no version gets wrong, and a lock file keeps other processes out.
"""

import fcntl
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import QueuePool, StaticPool

from songcore.errors import ConfigError
from songserve.schema import SCHEMA_VERSION, metadata

__all__ = ["DATABASE_NAME", "DataDirectory", "sqlite_has_wal_reset_bug"]

DATABASE_NAME = "songs.sqlite"
FIXED_SQLITE = (3, 51, 3)
N_READERS = 4


def sqlite_has_wal_reset_bug() -> bool:
    """Return whether the linked SQLite needs the care that this module takes."""
    return sqlite3.sqlite_version_info < FIXED_SQLITE


class DataDirectory:
    """The directory that one server owns: database and lock.

    Raises ConfigError: DATA_DIR_UNWRITABLE, DATA_DIR_LOCKED, DATABASE_INVALID, SCHEMA_NEWER.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)
        database = f"sqlite:///{path / DATABASE_NAME}"
        self.writer = create_engine(database, poolclass=StaticPool, connect_args={"check_same_thread": False})
        self.readers = create_engine(database, poolclass=QueuePool, pool_size=N_READERS, max_overflow=0)
        event.listen(self.writer, "connect", _prepare_writer)
        event.listen(self.writer, "begin", _begin_immediate)
        event.listen(self.readers, "connect", _prepare_reader)
        try:
            _create_or_check(self.writer, path / DATABASE_NAME)
        except DatabaseError as error:
            self.close()
            raise ConfigError(
                f"{path / DATABASE_NAME} cannot be used as a database ({error.orig}); move it away or restore a backup",
                reason="DATABASE_INVALID",
            ) from error
        except ConfigError:
            self.close()
            raise

    @property
    def database_bytes(self) -> int:
        """Size of the database with its log."""
        files = (self.path / (DATABASE_NAME + suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    @property
    def free_bytes(self) -> int:
        """What is left of the disk."""
        return shutil.disk_usage(self.path).free

    def close(self) -> None:
        """Close every connection and let other servers in."""
        self.readers.dispose()
        self.writer.dispose()
        self._lock.close()


def _lock(path: Path) -> Any:
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / "lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"the data directory {path} cannot be written ({error.strerror}); choose another or fix its owner",
            reason="DATA_DIR_UNWRITABLE",
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(
            f"another server uses the data directory {path}; stop it or choose another", reason="DATA_DIR_LOCKED"
        ) from error
    return file


def _create_or_check(engine: Engine, file: Path) -> None:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if found > SCHEMA_VERSION:
            raise ConfigError(
                f"{file} has schema {found}, this songstream knows {SCHEMA_VERSION}; upgrade songstream",
                reason="SCHEMA_NEWER",
            )
        metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _prepare_writer(connection: sqlite3.Connection, _: object) -> None:
    # Transactions are begun by us, see _begin_immediate.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    # An acknowledged song has reached the disk, not only the kernel.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_reader(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA busy_timeout = 5000")
