"""Connections to SQLite and to PostgreSQL: an engine for the one writer, and one for readers that cannot write.

On both databases a writing transaction begins by waiting for every other one: `BEGIN IMMEDIATE`, an advisory lock. So a
transaction never meets a half-finished other one, whatever the number of servers, and songs are numbered in order.
"""

import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool, StaticPool

from songcore.errors import ConfigError

__all__ = [
    "READ_ONLY",
    "Engines",
    "postgresql_engines",
    "postgresql_url",
    "sqlite_engines",
    "sqlite_has_wal_reset_bug",
    "sqlite_reader",
]

log = logging.getLogger(__name__)

FIXED_SQLITE = (3, 51, 3)
N_READERS = 4
WRITER_LOCK = 7_311_946_650
"""Any number; the same in every server."""
DRIVER = "postgresql+psycopg"
READ_ONLY = "25006"
"""PostgreSQL's code of a transaction that may not write."""
_WRITER_SETTINGS = (
    # A server that hangs in the middle of a transaction must not stop the others for ever.
    "SET lock_timeout = '10s'",
    "SET idle_in_transaction_session_timeout = '30s'",
    # What is acknowledged is on the disk; stricter settings (remote_apply) are left as they are.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)


@dataclass(frozen=True)
class Engines:
    """Where the store writes and where it reads."""

    writer: Engine
    readers: Engine

    def dispose(self) -> None:
        """Close every connection."""
        self.readers.dispose()
        self.writer.dispose()


def sqlite_has_wal_reset_bug() -> bool:
    """Return whether the linked SQLite needs the care that this module takes.

    Before 3.51.3 two connections that write or checkpoint at once can corrupt the write-ahead log. Here one connection does
    both, which no version gets wrong, and a lock file keeps other servers out.
    """
    return sqlite3.sqlite_version_info < FIXED_SQLITE


def sqlite_engines(file: Path) -> Engines:
    """Return engines for a SQLite file."""
    database = f"sqlite:///{file}"
    writer = create_engine(database, poolclass=StaticPool, connect_args={"check_same_thread": False})
    readers = create_engine(database, poolclass=QueuePool, pool_size=N_READERS, max_overflow=0)
    event.listen(writer, "connect", _prepare_sqlite_writer)
    event.listen(writer, "begin", _begin_immediate)
    event.listen(readers, "connect", _prepare_sqlite_reader)
    return Engines(writer, readers)


def sqlite_reader(file: Path) -> Engine:
    """Return an engine for a SQLite file that nothing is written to, not even beside; a server may be running on it."""
    return create_engine(f"sqlite:///file:{file}?mode=ro&uri=true", poolclass=StaticPool)


def postgresql_url(text: str) -> URL:
    """Return the parsed URL of a PostgreSQL database; raises ConfigError DATABASE_URL_INVALID, which shows no password."""
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    if url is None or url.drivername != DRIVER or not url.database:
        found = "something else" if url is None else url.render_as_string(hide_password=True)
        raise ConfigError(
            f"the database URL must be of the form {DRIVER}://user:password@host/database, found {found}",
            reason="DATABASE_URL_INVALID",
        )
    return url


def postgresql_engines(url: URL) -> Engines:
    """Return engines for a PostgreSQL database."""
    # Without answers TCP would wait for a quarter of an hour.
    arguments = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    settings: dict[str, Any] = {"pool_pre_ping": True, "max_overflow": 0, "connect_args": arguments}
    writer = create_engine(url, pool_size=1, **settings)
    readers = create_engine(url, pool_size=N_READERS, isolation_level="AUTOCOMMIT", **settings)
    event.listen(writer, "connect", _prepare_postgresql_writer)
    event.listen(writer, "begin", _wait_for_writers)
    event.listen(writer, "handle_error", _leave_read_only_server)
    event.listen(readers, "connect", _prepare_postgresql_reader)
    return Engines(writer, readers)


def _prepare_sqlite_writer(connection: sqlite3.Connection, _: object) -> None:
    # Transactions are begun by us, see _begin_immediate.
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA journal_mode = WAL")
    # An acknowledged song has reached the disk, not only the kernel.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_sqlite_reader(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA busy_timeout = 5000")


def _prepare_postgresql_writer(connection: Any, _: object) -> None:
    for setting in _WRITER_SETTINGS:
        connection.execute(setting)
    if connection.execute("SHOW fsync").fetchone()[0] == "off":
        log.warning("this PostgreSQL runs with fsync off: what is acknowledged does not survive a power cut")
    connection.commit()


def _wait_for_writers(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")


def _leave_read_only_server(context: ExceptionContext) -> None:
    # After a change of the primary server an open connection still leads to the old one, a new one to the new.
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


def _prepare_postgresql_reader(connection: Any, _: object) -> None:
    connection.execute("SET default_transaction_read_only = on")
    connection.commit()
