"""``songstream serve`` killed at moments nobody chose: between any two instructions, with chunks on the way."""

import random
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from bundles import soundscape
from serving import ServerProcess, Stream, chunk_messages, finish_message, setup
from songserve.database import DATABASE_NAME
from songserve.v1 import songs_pb2, songs_pb2_grpc

RATE = 24_000
CHUNKS = chunk_messages(soundscape([0, 1, 2, 3, 4, 0, 2], 17)[0], [RATE // 2])


def stored(server: ServerProcess) -> list[Any]:
    """Return every song of the store."""
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    return list(stub.ListSongs(songs_pb2.ListSongsRequest(page_size=1000, include_noise=True)).songs)


def effort_s(server: ServerProcess) -> float:
    """Return the recorded seconds."""
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    return float(
        sum(bucket.recorded_s for bucket in stub.QueryFrequencies(songs_pb2.QueryFrequenciesRequest()).buckets)
    )


def stream_until_killed(server: ServerProcess, delay_s: float | None) -> int:
    """Stream what is expected; after the delay kill the server. Return the last number that was acknowledged."""
    stream = Stream(server.channel, setup())
    acknowledged = 0
    timer = threading.Timer(delay_s, server.process.kill) if delay_s is not None else None
    try:
        expected = stream.read().setup_ack.expected_sequence_number
        if timer:
            timer.start()
        stream.send(*CHUNKS[expected - 1 :], finish_message(CHUNKS))
        for response in stream:
            acknowledged = max(acknowledged, response.ack.committed_sequence_number)
    except grpc.RpcError:
        pass
    finally:
        stream.half_close()
        if timer:
            timer.join()
    return acknowledged


@pytest.fixture(scope="module")
def undisturbed(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], float]:
    """Return songs and effort of a run that nothing disturbed."""
    with ServerProcess(bundle_dir, tmp_path_factory.mktemp("whole")) as server:
        assert stream_until_killed(server, None) == len(CHUNKS)
        return stored(server), effort_s(server)


@pytest.mark.parametrize(
    ("database_url", "seed"),
    [("sqlite", 0), ("sqlite", 1), ("sqlite", 2), ("postgresql", 3)],
    indirect=["database_url"],
)
def test_kills_at_random_moments_change_no_row(
    bundle_dir: Path, tmp_path: Path, undisturbed: tuple[list[Any], float], database_url: str | None, seed: int
) -> None:
    """On both databases what was acknowledged survives three SIGKILLs, and songs and effort end bit for bit as without."""
    rng, config = random.Random(seed), tmp_path / "serve.toml"
    config.write_text(f'database_url = "{database_url}"\n' if database_url else "")
    acknowledged = 0
    for _ in range(3):
        with ServerProcess(bundle_dir, tmp_path / "data", "--config", str(config)) as server:
            stream = Stream(server.channel, setup())
            assert stream.read().setup_ack.committed_sequence_number >= acknowledged
            stream.half_close()
            list(stream)
            acknowledged = max(acknowledged, stream_until_killed(server, rng.uniform(0, 0.6)))
    with ServerProcess(bundle_dir, tmp_path / "data", "--config", str(config)) as server:
        assert stream_until_killed(server, None) == len(CHUNKS)
        assert stored(server) == undisturbed[0]
        # Chunks of half a second add up without rounding, in whatever commits they were.
        assert effort_s(server) == undisturbed[1]
    assert (tmp_path / "data" / DATABASE_NAME).exists() == (database_url is None)
