"""Stores that go bad under a running server, over a real port: nothing acknowledged is lost, and the server says why."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bundles import soundscape
from disks import mounted
from postgres import PostgresServer, database_name, execute
from serving import ServerProcess, ServerThread, Stream, chunk_messages, finish_message, session_name, setup
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songserve.database import DATABASE_NAME, DataDirectory
from songserve.v1 import songs_pb2, songs_pb2_grpc

RATE = 24_000
CHUNKS = chunk_messages(soundscape([0, 1, 2], 8)[0], [RATE // 2])
SENT = 10
"""Chunks before the trouble; one song ends in them."""


def stored(server: ServerThread | ServerProcess) -> list[Any]:
    """Return every song of the store."""
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    songs = stub.ListSongs(songs_pb2.ListSongsRequest(page_size=1000, include_noise=True)).songs
    return sorted(songs, key=lambda song: song.name)


def committed(responses: list[Any]) -> int:
    """Return the last number that was acknowledged as stored."""
    return max((response.ack.committed_sequence_number for response in responses), default=0)


def finish(stream: Stream, first: int) -> None:
    """Stream the chunks from a number on, to the end."""
    stream.send(*CHUNKS[first - 1 :], finish_message(CHUNKS))
    assert list(stream)[-1].ack.finished
    stream.half_close()


def resume(server: ServerThread | ServerProcess) -> int:
    """Stream what is expected of the first session; return the number it began with."""
    stream = Stream(server.channel, setup())
    expected = int(stream.read().setup_ack.expected_sequence_number)
    finish(stream, expected)
    return expected


@pytest.fixture(scope="module")
def undisturbed(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return the songs of two sessions that nothing disturbed."""
    with ServerThread(bundle, tmp_path_factory.mktemp("whole")) as server:
        for number in (1, 2):
            finish(Stream(server.channel, setup(session_name(number=number))), 1)
        return stored(server)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of 32 MiB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=32m", "songstream-test") as path:
        yield path


Trouble = Callable[[ServerThread, PostgresServer | None], AbstractContextManager[None]]


@contextmanager
def locked(server: ServerThread, _: object) -> Iterator[None]:
    """Hold the database as another program would."""
    other = sqlite3.connect(server.settings.data_dir / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


@contextmanager
def read_only(server: ServerThread, _: object) -> Iterator[None]:
    """Forbid everyone, root too, to write the files of the database, those that are open too."""
    files = [str(server.settings.data_dir / (DATABASE_NAME + suffix)) for suffix in ("", "-wal")]
    if subprocess.run(["chattr", "+i", *files], capture_output=True, check=False).returncode:
        pytest.skip("only root can make a file immutable, and not on every file system")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


@contextmanager
def full(server: ServerThread, _: object) -> Iterator[None]:
    """Fill the disk to the last byte."""
    filling = server.settings.data_dir.parent / "filling"
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert not shutil.disk_usage(filling.parent).free
    yield
    filling.unlink()


@contextmanager
def nearly_full(server: ServerThread, _: object) -> Iterator[None]:
    """Leave less of the disk than the reserve."""
    filling = server.settings.data_dir.parent / "filling"
    filling.write_bytes(bytes(28 * 2**20))
    yield
    filling.unlink()


@contextmanager
def read_only_server(server: ServerThread, _: object) -> Iterator[None]:
    """Be connected to a PostgreSQL that became read-only, as the old one is after a change of the primary server."""
    assert server.settings.database_url
    url = server.settings.database_url.get_secret_value()
    change = f"ALTER DATABASE {database_name(url)} SET default_transaction_read_only = "
    execute(url, change + "on")
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    yield
    # For new connections: those that are open stay as they are.
    execute(url, change + "off")


@contextmanager
def away(_: ServerThread, postgres: PostgresServer | None) -> Iterator[None]:
    """Stop PostgreSQL."""
    assert postgres
    postgres.stop()
    try:
        yield
    finally:
        postgres.start()


UNAVAILABLE = ("UNAVAILABLE", "STORE_UNAVAILABLE")
DISK_LOW = ("RESOURCE_EXHAUSTED", "DISK_LOW")


@pytest.mark.parametrize(
    ("trouble", "ends"),
    [
        (locked, UNAVAILABLE),
        (read_only, UNAVAILABLE),
        (full, DISK_LOW),
        (nearly_full, DISK_LOW),
        (read_only_server, UNAVAILABLE),
        (away, UNAVAILABLE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_trouble_acknowledges_nothing_and_passes(
    trouble: Trouble,
    ends: tuple[str, str],
    request: pytest.FixtureRequest,
    bundle: Bundle,
    tmp_path: Path,
    undisturbed: list[Any],
) -> None:
    """A stream ends with the reason, one that waits lives on; then all that was acknowledged is there, and every row."""
    folder, settings, postgres = tmp_path, dict[str, Any](), None
    if trouble in {full, nearly_full}:
        folder = request.getfixturevalue("small_disk")
        settings["min_free_disk_mb"] = 8 if trouble is nearly_full else 0
    if trouble in {read_only_server, away}:
        postgres = request.getfixturevalue("postgres")
        settings["database_url"] = postgres.new_database()
    with ServerThread(bundle, folder / "data", **settings) as server:
        waiting = Stream(server.channel, setup(session_name(number=2)))
        assert waiting.read().HasField("setup_ack")
        stream = Stream(server.channel, setup())
        stream.send(*CHUNKS[:SENT])
        acknowledged = committed(stream.read_until_committed(4))
        before = stored(server)
        with trouble(server, postgres):
            stream.send(*CHUNKS[SENT:], finish_message(CHUNKS))
            assert stream.fails_with()[:2] == ends
            if trouble is not away:
                assert stored(server) == before
        assert resume(server) == max(acknowledged, committed(stream.responses)) + 1
        finish(waiting, 1)
        assert stored(server) == undisturbed


def test_a_disk_that_turns_read_only_loses_nothing(bundle_dir: Path, tmp_path: Path, undisturbed: list[Any]) -> None:
    """As disks do that fail: streams end, the server cannot start on it, and on the disk made good all goes on."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4 here, whose file system can be told to fail")
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 256 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    loop = ("-o", "loop", str(image))
    with mounted(tmp_path / "disk", *loop) as disk, ServerProcess(bundle_dir, disk / "data") as server:
        finish(Stream(server.channel, setup(session_name(number=2))), 1)
        stream = Stream(server.channel, setup())
        stream.send(*CHUNKS[:SENT])
        acknowledged = committed(stream.read_until_committed(4))
        subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)
        stream.send(*CHUNKS[SENT:], finish_message(CHUNKS))
        # Without a reason when the kernel kills the server for what it has mapped of the disk.
        assert stream.fails_with()[0] == "UNAVAILABLE"
        acknowledged = max(acknowledged, committed(stream.responses))
    with mounted(tmp_path / "disk", *loop) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(ConfigError) as refused:
            DataDirectory(disk / "data")
        assert refused.value.reason == "DATA_DIR_UNWRITABLE"
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with ServerProcess(bundle_dir, disk / "data") as server:
            assert resume(server) == acknowledged + 1
            assert stored(server) == undisturbed


def test_a_damaged_database_is_told_and_nothing_is_acknowledged(bundle: Bundle, tmp_path: Path) -> None:
    """Pages overwritten under a server end new and open streams with DATA_LOSS, and none is told that its sound is stored."""
    with ServerThread(bundle, tmp_path / "data") as server:
        finish(Stream(server.channel, setup()), 1)
    path = tmp_path / "data" / DATABASE_NAME
    size = path.stat().st_size
    with ServerThread(bundle, tmp_path / "data") as server:
        opened = Stream(server.channel, setup(session_name(number=2)))
        assert opened.read().HasField("setup_ack")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        for stream in (opened, Stream(server.channel, setup(session_name(number=3)))):
            stream.send(*CHUNKS, finish_message(CHUNKS))
            assert stream.fails_with()[:2] == ("DATA_LOSS", "STORE_CORRUPT")
            assert committed(stream.responses) == 0
