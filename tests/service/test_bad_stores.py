"""Stores that have gone bad, over a real port: nothing is acknowledged that is not stored, and the server says why."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from bundles import soundscape
from serving import ServerThread, Stream, chunk_messages, finish_message, session_name, setup
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songserve.database import DATABASE_NAME, DataDirectory

RATE = 24_000
CHUNKS = chunk_messages(soundscape([0, 1, 2], 8)[0], [RATE // 2])


def rest_of(server: ServerThread, number: int = 1) -> tuple[int, str, int]:
    """Stream what is expected of a session; return that number, the reason of the end, and the last number committed."""
    stream = Stream(server.channel, setup(session_name(number=number)))
    try:
        expected = stream.read().setup_ack.expected_sequence_number
        stream.send(*CHUNKS[expected - 1 :], finish_message(CHUNKS))
    except grpc.RpcError as error:
        stream.half_close()
        return 0, error.code().name, 0
    acks = [0]
    try:
        acks += [response.ack.committed_sequence_number for response in stream]
    except grpc.RpcError as error:
        return expected, error.code().name, max(acks)
    finally:
        stream.half_close()
    return expected, "", max(acks)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of its own, or skip with the reason why there is none."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "songstream-test", str(path)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone, and not in every container")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_read_only_data_directory_keeps_the_server_from_starting(bundle: Bundle, small_disk: Path) -> None:
    """With its disk read-only a server cannot come up, and says so; afterwards sessions go on where they were."""
    with ServerThread(bundle, small_disk / "data") as server:
        first = Stream(server.channel, setup())
        first.send(*CHUNKS[:6])
        committed = first.read_until_committed(2)[-1].ack.committed_sequence_number
        first.half_close()
        list(first)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(ConfigError) as refused:
            DataDirectory(small_disk / "data")
        assert refused.value.reason == "DATA_DIR_UNWRITABLE"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with ServerThread(bundle, small_disk / "data") as server:
        expected, code, last = rest_of(server)
        assert expected > committed
        assert (code, last) == ("", len(CHUNKS))


def test_a_damaged_database_is_told_and_nothing_is_acknowledged(bundle: Bundle, tmp_path: Path) -> None:
    """Pages overwritten while the server runs end streams with DATA_LOSS, and none is told that its sound is stored."""
    with ServerThread(bundle, tmp_path / "data") as server:
        assert rest_of(server)[1:] == ("", len(CHUNKS))
    path = tmp_path / "data" / DATABASE_NAME
    size = path.stat().st_size
    with ServerThread(bundle, tmp_path / "data") as server:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        _, code, committed = rest_of(server, 2)
        assert (code, committed) == ("DATA_LOSS", 0)
