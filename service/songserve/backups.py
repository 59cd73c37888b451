"""Copies of a store: taken while a server runs, tried before they count, put back while none runs."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL

from songcore.durable import sync
from songcore.errors import ConfigError
from songserve.checking import reading
from songserve.clips_shelf import OWNER_NAME, adopt_clips
from songserve.database import (
    CLIPS_FOLDER,
    DATABASE_NAME,
    SHELF_NAME,
    bring_up_to_date,
    check_revision,
    found_revision,
    give_to_owner,
    lock_directory,
    new_identity,
    read_shelf,
    write_shelf,
)
from songserve.engines import Engines, postgresql_engines, postgresql_url, sqlite_engines
from songserve.shelves import move_clips, shelf_of_store

__all__ = ["Restored", "back_up", "restore"]

DEBIAN = Path("/usr/lib/postgresql")
STAMP = "%Y%m%dT%H%M%SZ"
"""Behind the names of files that a restore sets aside."""


@dataclass(frozen=True)
class Restored:
    """What a restore did."""

    revision_before: str | None
    """Of the backup; the store has the newest."""
    kept: Path | None
    """The SQLite file that was in the place."""
    kept_shelf: Path | None
    """The file that named the data directory, where the store has it by another name."""


@dataclass(frozen=True)
class _Renewed:
    """A store that was put back, as it is now."""

    revision_before: str | None
    identity: str
    shelf: str | None
    """The data directory that its clips are in, as far as that is certain."""


def back_up(data_dir: Path, database_url: str | None, target: Path, environment: Mapping[str, str]) -> int:
    """Write a copy of the store as it is now, and return its bytes; the file appears only whole and checked.

    ``environment`` is that of PostgreSQL's programs.
    Raises ConfigError: those of `reading`, BACKUP_EXISTS, BACKUP_FAILED, TOOL_MISSING.
    """
    if target.exists():
        raise ConfigError(f"{target} is there already; choose another name", reason="BACKUP_EXISTS")
    unfinished = target.with_name(target.name + ".unfinished")
    try:
        with reading(data_dir, database_url) as engine, engine.connect() as connection:
            check_revision(found_revision(connection) or "")
        if database_url is None:
            _copy(data_dir / DATABASE_NAME, unfinished)
        else:
            url = postgresql_url(database_url)
            _run("pg_dump", ["--format=custom", "--no-owner", f"--file={unfinished}"], url, environment)
        sync(unfinished)
        unfinished.rename(target)
        sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"the backup {target} could not be written ({error})", reason="BACKUP_FAILED") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return target.stat().st_size


def restore(
    data_dir: Path, database_url: str | None, source: Path, environment: Mapping[str, str], *, now: datetime
) -> Restored:
    """Put a backup in the place of the store, upgraded and with a new identity; return what was done.

    The data directory gets the name that the store has for it, so that its clips and the history of its bundles are known
    here, whether they lie here or come later. What root restores belongs to the owner of the data directory, as the service
    must write it. Clips stay as they are.
    Raises ConfigError: DATA_DIR_LOCKED or DATABASE_LOCKED while a server runs, BACKUP_INVALID,
    BACKUP_FAILED, SCHEMA_NEWER, TOOL_MISSING; then the store is as it was.
    """
    if not source.is_file():
        raise ConfigError(f"there is no backup {source}", reason="BACKUP_INVALID")
    lock = lock_directory(data_dir)
    try:
        kept, shelf = None, read_shelf(data_dir)
        if database_url is not None:
            store = _restore_postgresql(postgresql_url(database_url), source, environment, shelf)
        else:
            store, kept = _restore_sqlite(data_dir / DATABASE_NAME, source, now, shelf)
        kept_shelf = _rename_directory(data_dir, store.shelf, now, is_shared=database_url is not None)
        if (data_dir / CLIPS_FOLDER).is_dir():
            adopt_clips(data_dir / CLIPS_FOLDER, store.identity)
            give_to_owner(data_dir / CLIPS_FOLDER / OWNER_NAME)
    except OSError as error:
        raise ConfigError(f"{source} could not be put back ({error})", reason="BACKUP_FAILED") from error
    finally:
        lock.close()
    return Restored(store.revision_before, kept, kept_shelf)


def _rename_directory(data_dir: Path, shelf: str | None, now: datetime, *, is_shared: bool) -> Path | None:
    """Give a directory the name that a store has for it; return where the file with the name before is."""
    before = read_shelf(data_dir)
    # A directory with a name may be that of a further server on the same PostgreSQL.
    if shelf is None or shelf == before or (before is not None and is_shared):
        return None
    kept = None
    if before is not None:
        kept = data_dir / f"{SHELF_NAME}.{now:{STAMP}}"
        (data_dir / SHELF_NAME).rename(kept)
    write_shelf(data_dir, shelf)
    return kept


def _copy(source: Path, target: Path) -> None:
    """Copy a SQLite file as of one moment, also while it is written to, and check the copy."""
    original = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
    copy = sqlite3.connect(target)
    try:
        original.backup(copy)
        # Without a log beside it, the copy is one file.
        copy.execute("PRAGMA journal_mode = DELETE")
        problems = [line for (line,) in copy.execute("PRAGMA integrity_check") if line != "ok"]
    except sqlite3.DatabaseError as error:
        problems = [str(error)]
    finally:
        copy.close()
        original.close()
    if problems:
        raise ConfigError(f"{source} is damaged: {'; '.join(problems[:3])}", reason="BACKUP_INVALID")


def _restore_sqlite(file: Path, source: Path, now: datetime, shelf: str | None) -> tuple[_Renewed, Path | None]:
    fresh = file.with_name(file.name + ".restoring")
    fresh.unlink(missing_ok=True)
    try:
        _copy(source, fresh)
        store = _renew(sqlite_engines(fresh), shelf)
        kept = _set_aside(file, now) if file.exists() else None
        give_to_owner(fresh)
        sync(fresh)
        fresh.rename(file)  # at every moment one of the two is in place
        sync(file.parent)
    finally:
        for suffix in ("", "-wal", "-shm"):
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    return store, kept


def _set_aside(file: Path, now: datetime) -> Path:
    """Give the old file a second name, and end its log, which must not be taken for the new one's."""
    kept = file.with_name(f"{file.name}.{now:{STAMP}}")
    try:
        old = sqlite3.connect(file)
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        old.close()
    except sqlite3.DatabaseError:
        pass  # damaged, which may be why it is replaced
    for suffix in ("-wal", "-shm"):
        log = file.with_name(file.name + suffix)
        if log.exists():
            log.rename(kept.with_name(kept.name + suffix))
    os.link(file, kept)
    return kept


def _restore_postgresql(url: URL, source: Path, environment: Mapping[str, str], shelf: str | None) -> _Renewed:
    engines = postgresql_engines(url)
    with engines.readers.connect() as connection:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        n_others = connection.exec_driver_sql(others).scalar_one()
    engines.dispose()
    if n_others:
        raise ConfigError(
            f"{n_others} other connections use the database; stop every server on it first", reason="DATABASE_LOCKED"
        )
    options = ["--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error"]
    _run("pg_restore", [*options, str(source)], url, environment)
    return _renew(postgresql_engines(url), shelf)


def _renew(engines: Engines, own: str | None) -> _Renewed:
    """Make a store that was put back one of its own; ``own`` is the name of the data directory that it came to."""
    try:
        found = bring_up_to_date(engines.writer)
        with engines.writer.begin() as connection:
            shelf = shelf_of_store(connection, own)
            if shelf is not None and connection.dialect.name == "sqlite":
                move_clips(connection, shelf)
        return _Renewed(found, new_identity(engines.writer), shelf)
    finally:
        engines.dispose()


def _run(tool: str, arguments: Sequence[str], url: URL, environment: Mapping[str, str]) -> None:
    """Run one of PostgreSQL's programs on a database; the password goes by the environment, which others cannot see."""
    program = shutil.which(tool) or next(
        (str(path) for path in sorted(DEBIAN.glob(f"*/bin/{tool}"), reverse=True)), None
    )
    if program is None:
        raise ConfigError(
            f"{tool} is not installed; on Debian: apt-get install postgresql-client", reason="TOOL_MISSING"
        )
    plain = url.set(drivername="postgresql", password=None).render_as_string()
    environment = {**environment, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    done = subprocess.run(  # noqa: S603 - PostgreSQL's own program
        [program, f"--dbname={plain}", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"{tool} failed: {' '.join(done.stderr.split())}", reason="BACKUP_FAILED")
