"""The place that one server owns: a directory with a lock, and the database, in that directory or a PostgreSQL elsewhere.

Opening it makes the tables, or brings those of an older songstream up to date, in one transaction.
"""

import fcntl
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, insert, inspect, select
from sqlalchemy.exc import DBAPIError, OperationalError

from songcore.durable import replace_file
from songcore.errors import ConfigError
from songserve.engines import Engines, postgresql_engines, postgresql_url, sqlite_engines
from songserve.schema import REVISION, identity, metadata, revision
from songserve.shelves import shelf_of_store

__all__ = [
    "CLIPS_FOLDER",
    "DATABASE_NAME",
    "DataDirectory",
    "bring_up_to_date",
    "check_revision",
    "found_revision",
    "give_to_owner",
    "read_shelf",
    "shelf_name",
    "store_place",
    "unusable",
    "write_shelf",
]

log = logging.getLogger(__name__)

DATABASE_NAME = "songs.sqlite"
CLIPS_FOLDER = "clips"
SHELF_NAME = "shelf"
BEFORE_REVISIONS = "0001"
"""The schema that was made before revisions were written down."""


def store_place(store: str) -> tuple[Path, str | None]:
    """Return the data directory that a person means by it or by ``sqlite:///`` and its file; an empty one and any other URL.

    Raises ConfigError DATABASE_MISSING for a file that is no data directory's.
    """
    if "://" not in store:
        return Path(store), None
    if not store.startswith("sqlite:///"):
        return Path(), store
    file = Path(store.removeprefix("sqlite:///"))
    if file.name != DATABASE_NAME:
        raise ConfigError(
            f"--store {store}: the file of a store is called {DATABASE_NAME}; name that of a server's data directory",
            reason="DATABASE_MISSING",
        )
    return file.parent, None


class DataDirectory:
    """The directory that one server owns: lock, clips, and the SQLite database unless ``database_url`` names another.

    ``beside_server`` says what to do where a server has it already.
    A directory that lost its name takes that of its SQLite file's rows: with another one it would not know its clips.
    Raises ConfigError: DATA_DIR_UNWRITABLE, DATA_DIR_LOCKED, and those of `unusable` and `check_revision`.
    """

    def __init__(self, path: Path, *, database_url: str | None = None, beside_server: str = "stop it first") -> None:
        self.path = path
        url = None if database_url is None else postgresql_url(database_url)
        self._file = path / DATABASE_NAME if url is None else None
        self._lock = lock_directory(path, beside_server=beside_server)
        self._engines: Engines | None = None
        try:
            self._engines = sqlite_engines(path / DATABASE_NAME) if url is None else postgresql_engines(url)
            self.writer, self.readers = self._engines.writer, self._engines.readers
            self.revision_before = bring_up_to_date(self.writer)
            """Of the tables that were found; None where there were none."""
            # On a PostgreSQL this may be the directory of a further server.
            if url is None and not (path / SHELF_NAME).exists():
                self._find_name()
            self.shelf = shelf_name(path)
        except BaseException:
            self.close()
            raise

    @property
    def database_bytes(self) -> int:
        """Size of the database, with its log where that is a file beside it; 0 when it cannot be asked."""
        if self._file is not None:
            files = (self._file.with_name(self._file.name + suffix) for suffix in ("", "-wal"))
            return sum(file.stat().st_size for file in files if file.exists())
        try:
            with self.readers.connect() as connection:
                return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
        except DBAPIError:
            return 0

    @property
    def free_bytes(self) -> int:
        """What is left of the disk that the directory is on."""
        return shutil.disk_usage(self.path).free

    def _find_name(self) -> None:
        try:
            with self.readers.connect() as connection:
                found = shelf_of_store(connection, None)
            if found is not None:
                write_shelf(self.path, found)
        except DBAPIError as error:
            raise unusable(self.readers, error) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Close every connection and let other servers in."""
        if self._engines is not None:
            self._engines.dispose()
        self._lock.close()


def bring_up_to_date(engine: Engine) -> str | None:
    """Make the tables, or migrate those of an older songstream, and return the revision that was found, None for no tables.

    Nothing is changed when that fails. Raises ConfigError: those of `unusable` and `check_revision`.
    """
    try:
        with engine.begin() as connection:
            found = found_revision(connection)
            if found is None:
                metadata.create_all(connection)
                connection.execute(insert(revision).values(version_num=REVISION))
                connection.execute(insert(identity).values(uuid=str(uuid4())))
                _mark_sqlite(connection)
            elif check_revision(found) != REVISION:
                from songserve.migrations.upgrade import upgrade

                log.info("the database has schema %s and is brought to %s", found, REVISION)
                upgrade(connection, found)
                _mark_sqlite(connection)
            else:
                _try_to_write(connection)
            return found
    except DBAPIError as error:
        raise unusable(engine, error) from error


def found_revision(connection: Connection) -> str | None:
    """Return the revision of the tables, None when there are none."""
    marked = 0
    if connection.dialect.name == "sqlite":
        marked = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    tables = set(inspect(connection).get_table_names())
    if revision.name in tables:
        found = connection.execute(select(revision.c.version_num)).scalar()
        if found is not None:
            return max(str(found), f"{marked:04d}")
    if marked > int(REVISION):
        return f"{marked:04d}"
    return BEFORE_REVISIONS if "sessions" in tables else None


def check_revision(found: str) -> str:
    """Return the revision if this songstream can read or upgrade it; raises ConfigError SCHEMA_NEWER, DATABASE_INVALID."""
    if not (found.isdecimal() and len(found) == len(REVISION)):
        raise ConfigError(
            f"the database has schema {found!r}, which is none of songstream's; give songstream a database of its own",
            reason="DATABASE_INVALID",
        )
    if found > REVISION:
        raise ConfigError(
            f"the database has schema {found}, this songstream knows {REVISION}; upgrade songstream",
            reason="SCHEMA_NEWER",
        )
    return found


def unusable(engine: Engine, error: DBAPIError) -> ConfigError:
    """Return what to tell an operator: DATABASE_LOCKED, DATABASE_READ_ONLY, DATABASE_UNREACHABLE or DATABASE_INVALID."""
    is_file = engine.dialect.name == "sqlite"
    # That of a reader names the file as SQLite's own URL.
    file = (engine.url.database or "").removeprefix("file:")
    where = file if is_file else engine.url.render_as_string(hide_password=True)
    cause = " ".join(str(error.orig).split())
    if engine.dialect.name == "postgresql":
        state = getattr(error.orig, "sqlstate", None)
        if state in {"25006", "42501"}:
            reason, advice = "DATABASE_READ_ONLY", "name the primary server and a role that may write"
        elif state == "55P03":
            reason, advice = "DATABASE_LOCKED", "find the server that holds it; SELECT * FROM pg_locks"
        elif isinstance(error, OperationalError):
            reason, advice = "DATABASE_UNREACHABLE", "start it, or check host, user and password"
        else:
            reason, advice = "DATABASE_INVALID", "restore a backup, or give songstream a database of its own"
    elif "locked" in cause:
        reason, advice = "DATABASE_LOCKED", "end the program that holds it"
    elif "readonly" in cause:
        reason, advice = "DATABASE_READ_ONLY", "fix the file's owner or how its disk is mounted"
    else:
        reason, advice = "DATABASE_INVALID", "move it away or restore a backup"
    return ConfigError(f"{where} cannot be used as a database ({cause}); {advice}", reason=reason)


def new_identity(engine: Engine) -> str:
    """Give the store another identity, which makes every token of a watch void, and return it."""
    uuid = str(uuid4())
    with engine.begin() as connection:
        connection.execute(identity.update().values(uuid=uuid))
    return uuid


def _mark_sqlite(connection: Connection) -> None:
    # The mark that the first songstream looked at, and by which it knows that it is too old.
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {int(REVISION)}")


def _try_to_write(connection: Connection) -> None:
    """Fail now rather than at the first song when nothing can be written."""
    connection.execute(revision.update().values(version_num=REVISION))


def lock_directory(path: Path, *, beside_server: str = "stop it first") -> Any:
    """Return the open lock of a data directory, made if missing; ``beside_server`` says what to do where a server has it.

    Raises ConfigError DATA_DIR_UNWRITABLE, DATA_DIR_LOCKED.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Root restores here, too: a link that the directory's owner put in the way would lead it to any file.
        opened = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        file = os.fdopen(opened, "r+")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(
            f"a server uses the data directory {path}; {beside_server}", reason="DATA_DIR_LOCKED"
        ) from error
    give_to_owner(path / "lock")
    return file


def give_to_owner(file: Path) -> None:
    """Have root, who works on a directory of the service's user, leave no file there that this user cannot write."""
    if os.geteuid() == 0:
        owner = file.parent.stat()
        # A link is not followed: whoever owns the directory could point it at any file. Where root may not, all stays as is.
        with suppress(OSError):
            os.chown(file, owner.st_uid, owner.st_gid, follow_symlinks=False)


def shelf_name(path: Path) -> str:
    """Return the name of this directory in a database that several servers share; made once."""
    file = path / SHELF_NAME
    try:
        if not file.exists():
            write_shelf(path, str(uuid4()))
        return str(UUID(file.read_text().strip()))
    except OSError as error:
        raise _unwritable(path, error) from error
    except ValueError as error:
        raise ConfigError(
            f"{file} does not hold a UUID; delete it: beside a SQLite file it is made again as it was, with PostgreSQL that "
            f"orphans the clips of {path}",
            reason="DATA_DIR_UNWRITABLE",
        ) from error


def read_shelf(path: Path) -> str | None:
    """Return the name of a directory as it stands there, whatever that is; None where none does. Raises OSError."""
    file = path / SHELF_NAME
    return file.read_text(errors="replace").strip() or None if file.is_file() else None


def write_shelf(path: Path, name: str) -> None:
    """Name a directory; raises OSError."""
    replace_file(path / SHELF_NAME, f"{name}\n".encode(), mode=0o644)
    give_to_owner(path / SHELF_NAME)


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the data directory {path} cannot be written ({error.strerror}); choose another or fix its owner",
        reason="DATA_DIR_UNWRITABLE",
    )
