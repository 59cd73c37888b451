"""Each database by itself: what can be wrong with it, what an older songstream left, and several servers on one."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from sqlalchemy import Engine, create_engine

from postgres import PostgresServer, database_name, execute, why_no_postgres
from serving import failure, scrape
from songcore.errors import ConfigError
from songserve.checking import reading
from songserve.database import DATABASE_NAME, DataDirectory
from songserve.engines import N_READERS
from songserve.frequencies import FrequencyFilter
from songserve.migrations.upgrade import migration_config, upgrade
from songserve.queries import SongFilter
from songserve.records import ClockState
from songserve.refusal import Refusal
from songserve.schema import REVISION, metadata
from songserve.store import Store
from songserve.v1 import songs_pb2, songs_pb2_grpc
from stores import HOUR_MS, START_MS, Opened, commit, opening, reason, song

FULL = 2
"""Of SQLite's `PRAGMA synchronous`: every commit is flushed."""
END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
FIRST_SCHEMA = Path(__file__).with_name("first_schema.sql")


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Opened]:
    """Return an open store in a SQLite file."""
    with Opened(tmp_path / "data") as opened:
        yield opened


def refused(path: Path, database_url: str | None = None) -> str:
    """Return the reason for which a data directory cannot be opened."""
    with pytest.raises(ConfigError) as refusal:
        DataDirectory(path, database_url=database_url)
    return refusal.value.reason


def test_a_full_disk_acknowledges_nothing_and_recovers(sqlite: Opened) -> None:
    """When the database cannot grow the commit fails with DISK_LOW, is not there, and later commits work again."""
    record = sqlite.store.open_session(opening()).result(10)
    sqlite.store.commit(commit(record, 1, song(record, 1))).result(10)
    raw: Any = sqlite.directory.writer.raw_connection().dbapi_connection
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    raw.execute(f"PRAGMA max_page_count = {pages}")
    full = replace(commit(record, 2), record=replace(record, committed_sequence_number=2, state=bytes(200_000)))
    assert reason(sqlite.store.commit(full)) == "DISK_LOW"
    found = sqlite.queries.session(str(record.opening.name.uuid))
    assert found is not None
    assert found[0].committed_sequence_number == 1
    raw.execute("PRAGMA max_page_count = 1000000")
    sqlite.store.commit(full).result(10)


def test_sqlite_waits_for_the_disk_at_every_commit(sqlite: Opened) -> None:
    """The connection that the store writes through has a write-ahead log and flushes it (FULL), before and after commits."""
    record = sqlite.store.open_session(opening()).result(10)
    for number in (1, 2):
        raw: Any = sqlite.directory.writer.raw_connection().dbapi_connection
        assert raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert raw.execute("PRAGMA synchronous").fetchone()[0] == FULL
        sqlite.store.commit(commit(record, number, song(record, number))).result(10)
    assert raw.execute("SELECT count(*) FROM songs").fetchone()[0] == 2  # it is that connection


@pytest.mark.parametrize("owner", ["DATABASE {name}", "ROLE postgres IN DATABASE {name}"])
@pytest.mark.parametrize(
    ("by_default", "expected"), [("off", "on"), ("on", "on"), ("local", "local"), ("remote_apply", "remote_apply")]
)
def test_postgresql_waits_for_the_disk_at_every_commit(
    tmp_path: Path, postgres: PostgresServer, owner: str, by_default: str, expected: str
) -> None:
    """A database or role that does not wait by default is made to by the session that writes, a new one after a break too."""
    url = postgres.new_database()
    name = database_name(url)
    execute(url, f"ALTER {owner.format(name=name)} SET synchronous_commit = {by_default}")
    with Opened(tmp_path, database_url=url) as opened:
        for number in (1, 2):
            opened.store.open_session(opening(number)).result(10)
            with opened.directory.writer.connect() as connection:
                ask = connection.exec_driver_sql
                assert ask("SHOW synchronous_commit").scalar_one() == expected
                # Transactions that wait for others are those of the store.
                assert ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").scalar_one() >= 1
            execute(url, END_OTHERS)


def test_a_locked_database_is_reported(sqlite: Opened) -> None:
    """While another program holds the file a commit fails with STORE_UNAVAILABLE, and later ones work."""
    record = sqlite.store.open_session(opening()).result(10)
    raw: Any = sqlite.directory.writer.raw_connection().dbapi_connection
    raw.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(sqlite.directory.path / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert reason(sqlite.store.commit(commit(record, 1))) == "STORE_UNAVAILABLE"
    other.execute("ROLLBACK")
    other.close()
    sqlite.store.commit(commit(record, 1)).result(10)


@contextmanager
def all_read(readers: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold every connection for reading, for longer than others wait for one."""
    monkeypatch.setattr(readers.pool, "_timeout", 0.2)
    with ExitStack() as held:
        for _ in range(N_READERS):
            held.enter_context(readers.connect())
        yield


def test_a_reader_that_gets_no_connection_is_told_to_come_back(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others read through every connection the store cannot be read now, and can be when one of them is done."""
    with all_read(opened.directory.readers, monkeypatch), pytest.raises(Refusal) as told:
        opened.queries.totals()
    assert told.value.reason == "STORE_UNAVAILABLE"
    assert opened.queries.totals()[1] == {}


def test_calls_and_scrapes_outlast_a_time_without_connections(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call gets UNAVAILABLE with a time to come back; the metrics show what they showed before."""
    directories: list[DataDirectory] = []

    def make_store(directory: DataDirectory, **options: Any) -> Store:
        directories.append(directory)
        return Store(directory, **options)

    server = start_server(make_store=make_store)
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    before = scrape(server)
    with all_read(directories[0].readers, monkeypatch):
        with pytest.raises(grpc.RpcError) as ended:
            stub.ListSongs(songs_pb2.ListSongsRequest(), timeout=20)
        assert families(scrape(server)) >= families(before)
    assert failure(ended.value)[:2] == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    status = rpc_status.from_call(ended.value)
    assert status is not None
    assert status.details[-1].Is(RetryInfo.DESCRIPTOR)
    assert not stub.ListSongs(songs_pb2.ListSongsRequest(), timeout=20).songs


def families(page: str) -> set[str]:
    """Return the names of the metrics on a page."""
    return set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))


def test_unusable_data_directories_are_explained(tmp_path: Path) -> None:
    """A file in the way, a database of a newer schema and one that is none each get their reason."""
    (tmp_path / "file").write_text("")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / DATABASE_NAME).write_text("not a database" * 1000)
    Opened(tmp_path / "newer").close()
    with sqlite3.connect(tmp_path / "newer" / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    found = {name: refused(tmp_path / name) for name in ("file", "text", "newer")}
    assert found == {"file": "DATA_DIR_UNWRITABLE", "text": "DATABASE_INVALID", "newer": "SCHEMA_NEWER"}
    # By its path, whoever opens it.
    path = tmp_path / "text"
    with pytest.raises(ConfigError, match=rf"^{path / DATABASE_NAME} cannot be used"):
        DataDirectory(path)
    with pytest.raises(ConfigError, match=rf"^{path / DATABASE_NAME} cannot be used"), reading(path, None) as engine:
        engine.connect().exec_driver_sql("SELECT * FROM songs")


def test_a_file_that_another_program_holds_is_explained(tmp_path: Path) -> None:
    """A database that is locked at the start has a reason of its own."""
    Opened(tmp_path).close()
    other = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert refused(tmp_path) == "DATABASE_LOCKED"
    other.close()
    Opened(tmp_path).close()


def test_a_database_without_a_server_or_a_right_is_explained(tmp_path: Path, postgres: PostgresServer) -> None:
    """Wrong URL, nobody there, a newer schema, a foreign one, and a role that may only read: each gets its reason."""
    newer, foreign, read_only = (postgres.new_database() for _ in range(3))
    for url, number in ((newer, "0099"), (foreign, "a1b2c3")):
        Opened(tmp_path, database_url=url).close()
        execute(url, f"UPDATE alembic_version SET version_num = '{number}'")  # noqa: S608 - numbers above
    Opened(tmp_path, database_url=read_only).close()
    execute(read_only, f"ALTER DATABASE {database_name(read_only)} SET default_transaction_read_only = on")
    found = {
        "url": refused(tmp_path, "mysql://root:secret@host/db"),
        "nobody": refused(tmp_path, "postgresql+psycopg://postgres@/songs?host=/nowhere"),
        "newer": refused(tmp_path, newer),
        "foreign": refused(tmp_path, foreign),
        "read_only": refused(tmp_path, read_only),
    }
    assert found == {
        "url": "DATABASE_URL_INVALID",
        "nobody": "DATABASE_UNREACHABLE",
        "newer": "SCHEMA_NEWER",
        "foreign": "DATABASE_INVALID",
        "read_only": "DATABASE_READ_ONLY",
    }


def test_no_message_shows_a_password(tmp_path: Path) -> None:
    """An operator's log is no place for the database's password."""
    for url in ("mysql://root:secret@host/db", "postgresql+psycopg://postgres:secret@/songs?host=/nowhere"):
        with pytest.raises(ConfigError) as refusal:
            DataDirectory(tmp_path, database_url=url)
        assert "secret" not in str(refusal.value)


def test_a_database_of_the_first_songstream_is_taken_over(tmp_path: Path) -> None:
    """Songs, sessions and effort of the first schema are all there, numbered, counted, and go on."""
    with sqlite3.connect(tmp_path / DATABASE_NAME) as old:
        old.executescript(FIRST_SCHEMA.read_text())
        session = str(opening().name.uuid)
        old.execute(
            "INSERT INTO sessions VALUES (?, 'north', 'linear16', 48000, 1, NULL, ?, 3, 9, 432000, 0, 0, 0, x'00', 0)",
            (session, START_MS),
        )
        for number in range(50):
            old.execute(
                "INSERT INTO songs VALUES (?, 'north', ?, ?, ?, 0, 9, 24000, ?, ?, .5, .5, .5, ?, ?, 9, 'digest')",
                (
                    str(UUID(int=number)), session, START_MS + number * HOUR_MS, START_MS + number * HOUR_MS + 1,
                    f"T{number % 2:04d}", "noise" if number == 7 else "song", number % 10 == 0, number == 3,
                ),
            )  # fmt: skip
            old.execute("INSERT INTO effort VALUES ('north', ?, 60)", (START_MS + number * HOUR_MS,))
    old.close()
    with Opened(tmp_path) as opened:
        record = opened.store.open_session(opening()).result(10)
        assert (record.writer_epoch, record.committed_sequence_number) == (4, 9)
        assert record.opening.clock == ClockState("unspecified", None)
        opened.store.commit(commit(record, 10, song(record, 500 * 3600), song(record, 0, uid=str(UUID(int=3))))).result(
            10
        )
        found, _ = opened.queries.page(SongFilter(include_noise=True), None, 100)
        assert len(found) == 51
        taken = [one for one in found if one.quality == "ungraded"]
        assert Counter(one.novelty for one in taken) == {"known": 45, "novel": 5}
        assert opened.queries.pool() == (0, None)
        assert [one.uid for one in opened.queries.after(SongFilter(), 50, 10)[0]] == [song(record, 500 * 3600).uid]
        (whole,) = opened.queries.frequencies(FrequencyFilter())
        assert (whole.recorded_s, whole.n_novel, whole.n_noise) == (3001.0, 5, 1)
        assert whole.counts == {"T0000": 20, "T0001": 25}
        days = opened.queries.frequencies(FrequencyFilter(bucket_ms=24 * HOUR_MS))
        assert sum(day.recorded_s for day in days) == 3001.0
        tally, _ = opened.queries.totals()
        assert (tally.songs["T0001"], tally.n_cut) == (25, 1)


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    """When a revision cannot be applied the file is as it was, for the songstream that made it."""
    with sqlite3.connect(tmp_path / DATABASE_NAME) as old:
        old.executescript(FIRST_SCHEMA.read_text() + "CREATE TABLE clips (mine INTEGER);")
        before = old.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    assert refused(tmp_path) == "DATABASE_INVALID"
    assert old.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before
    assert old.execute("PRAGMA user_version").fetchone() == (1,)
    old.close()


def test_revisions_make_the_tables_that_the_code_uses(tmp_path: Path, database_url: str | None) -> None:
    """All revisions from nothing give the same tables, columns and indexes as the schema; the last is the schema's."""
    engine = create_engine(database_url or f"sqlite:///{tmp_path / 'made.sqlite'}")
    with engine.begin() as connection:
        head = ScriptDirectory.from_config(migration_config(connection)).get_current_head()
        upgrade(connection, "base")
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    assert head == REVISION


def test_two_servers_on_one_database_fence_each_other(tmp_path: Path, postgres: PostgresServer) -> None:
    """A session taken over by another server is closed to the first, whose commit leaves nothing, and both go on."""
    url = postgres.new_database()
    with Opened(tmp_path / "a", database_url=url) as a, Opened(tmp_path / "b", database_url=url) as b:
        older = a.store.open_session(opening()).result(10)
        a.store.commit(commit(older, 1, song(older, 1))).result(10)
        newer = b.store.open_session(opening()).result(10)
        assert (newer.writer_epoch, newer.committed_sequence_number) == (2, 1)
        assert reason(a.store.commit(commit(older, 2, song(older, 2)))) == "WRITER_FENCED"
        assert len(b.store.commit(commit(newer, 2, song(newer, 1), song(newer, 2))).result(10)) == 1
        assert a.queries.totals()[0].songs == {"T0001": 2}
        assert a.queries.totals()[1] == {"north": 2.0}


def test_two_servers_store_every_song_once_and_in_one_order(tmp_path: Path, postgres: PostgresServer) -> None:
    """Both commit the same songs at once, again and again: each is stored once, counted once, and watched once."""
    url = postgres.new_database()
    with Opened(tmp_path / "a", database_url=url) as a, Opened(tmp_path / "b", database_url=url) as b:
        records = [
            (side, side.store.open_session(opening(number, station)).result(10))
            for number, (side, station) in enumerate([(a, "north"), (b, "south")], 1)
        ]
        first = records[0][1]
        futures = [
            side.store.commit(commit(record, number, *(song(first, second) for second in range(number))))
            for number in range(1, 40)
            for side, record in records
        ]
        seen, seq = [], 0
        while not all(future.done() for future in futures):
            found, seq = a.queries.after(SongFilter(), seq, 7)
            seen += found
        new = [one for future in futures for one in future.result(10)]
        while len(seen) < len(new):
            found, seq = a.queries.after(SongFilter(), seq, 7)
            assert found
            seen += found
        assert len(new) == 39
        assert sorted(one.uid for one in seen) == sorted(one.uid for one in new)
        assert a.queries.totals()[0].songs == {"T0001": 39}


def test_a_database_server_that_restarts_is_found_again(tmp_path: Path) -> None:
    """While PostgreSQL is away commits fail with STORE_UNAVAILABLE; once it is back they work, without a restart here."""
    if why := why_no_postgres():
        pytest.skip(why)
    with PostgresServer() as server, Opened(tmp_path, database_url=server.new_database()) as opened:
        record = opened.store.open_session(opening()).result(10)
        opened.store.commit(commit(record, 1, song(record, 1))).result(10)
        server.stop()
        assert reason(opened.store.commit(commit(record, 2, song(record, 2)))) == "STORE_UNAVAILABLE"
        server.start()
        assert len(opened.store.commit(commit(record, 2, song(record, 1), song(record, 2))).result(10)) == 1
        assert len(opened.queries.page(SongFilter(), None, 10)[0]) == 2


@pytest.mark.parametrize(
    ("state", "expected"), [("53100", "DISK_LOW"), ("XX001", "STORE_CORRUPT"), ("40001", "STORE_UNAVAILABLE")]
)
def test_a_database_server_in_trouble_is_told_apart(
    tmp_path: Path, postgres: PostgresServer, state: str, expected: str
) -> None:
    """A full disk, damage and the rest, as PostgreSQL reports them, are refused for reasons of their own."""
    url = postgres.new_database()
    with Opened(tmp_path, database_url=url) as opened:
        record = opened.store.open_session(opening()).result(10)
        execute(
            url,
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$",
        )
        execute(url, "CREATE TRIGGER fail BEFORE INSERT ON songs FOR EACH ROW EXECUTE FUNCTION fail()")
        assert reason(opened.store.commit(commit(record, 1, song(record, 1)))) == expected
        assert opened.queries.totals()[1] == {}
