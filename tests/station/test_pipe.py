"""A named pipe as microphone: chunks as they come, nothing lost at its end, and the reason when there is no sound."""

import asyncio
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from songcore.errors import ConfigError
from songstation.pipe import Pipe
from songstation.sources import Lost, next_chunk

RATE_HZ = 8_000


@pytest.mark.parametrize("n_odd", [0, 1])
def test_samples_come_as_they_were_written(tmp_path: Path, n_odd: int) -> None:
    """Chunks are as long as asked for, the last one shorter; half a sample is none; then the writer counts as gone."""
    path, content = tmp_path / "pipe", np.arange(2_500, dtype="<i2").tobytes()
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    os.write(writer, content + bytes(n_odd))
    source = Pipe(path, sample_rate_hz=RATE_HZ, chunk_s=0.1)
    os.close(writer)
    assert source.begin(lambda: datetime(2024, 5, 1, tzinfo=UTC)).year == 2024
    taken: list[bytes | Lost] = []

    async def read() -> None:
        async for chunk in source.chunks():
            taken.append(chunk)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ConfigError) as ended:
        asyncio.run(read())
    assert ended.value.reason == "DEVICE_LOST"
    assert isinstance(taken[-1], Lost)
    assert [len(chunk) for chunk in taken if isinstance(chunk, bytes)] == [1600, 1600, 1600, 200]
    assert b"".join(chunk for chunk in taken if isinstance(chunk, bytes)) == content
    source.close()


def test_what_is_left_at_a_stop_comes_in_chunks_too(tmp_path: Path) -> None:
    """A server takes chunks up to a size only, and more than one may have been read and not asked for."""
    path, content = tmp_path / "pipe", np.arange(2_500, dtype="<i2").tobytes()
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    os.write(writer, content)
    source = Pipe(path, sample_rate_hz=RATE_HZ, chunk_s=0.1)

    async def first() -> bytes | Lost:
        return await anext(source.chunks())

    taken = [asyncio.run(first()), *source.finish()]
    assert [len(chunk) for chunk in taken if isinstance(chunk, bytes)] == [1600, 1600, 1600, 200]
    assert b"".join(chunk for chunk in taken if isinstance(chunk, bytes)) == content
    source.close()
    os.close(writer)


@pytest.mark.parametrize("n_turns", range(8))
@pytest.mark.parametrize("n_bytes", [400, 1_600])
def test_a_stop_as_sound_comes_ends_at_once(tmp_path: Path, n_turns: int, n_bytes: int) -> None:
    """Stopped so many turns of the event loop after sound has come, it neither waits for more nor loses that."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    os.write(writer, bytes(n_bytes))
    source = Pipe(path, sample_rate_hz=RATE_HZ, chunk_s=0.1, silent_s=60.0)

    async def listen() -> list[bytes | Lost]:
        stop, chunks = asyncio.Event(), source.chunks()
        taken: list[bytes | Lost] = []

        async def stop_soon() -> None:
            for _ in range(n_turns):
                await asyncio.sleep(0)
            stop.set()

        stopping = asyncio.create_task(stop_soon())
        async with asyncio.timeout(5):
            while (chunk := await next_chunk(chunks, stop)) is not None:
                taken.append(chunk)
            await stopping
        return [*taken, *source.finish()]

    heard = b"".join(one for one in asyncio.run(listen()) if isinstance(one, bytes))
    source.close()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        heard += os.read(writer, n_bytes)
    os.close(writer)
    assert heard == bytes(n_bytes)


def test_what_is_no_pipe_is_no_device(tmp_path: Path) -> None:
    """Nothing, or a file, is DEVICE_MISSING, which the station waits out."""
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ConfigError) as refused:
            Pipe(path, sample_rate_hz=RATE_HZ)
        assert refused.value.reason == "DEVICE_MISSING"


def test_a_writer_that_holds_the_pipe_and_gives_nothing_is_gone(tmp_path: Path) -> None:
    """What it gave comes out, then the loss since its last sample, and then it counts as gone."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    os.write(writer, bytes(2 * 1_000))
    source = Pipe(path, sample_rate_hz=RATE_HZ, chunk_s=0.1, silent_s=0.3)
    taken: list[bytes | Lost] = []

    async def read() -> None:
        async with asyncio.timeout(30):
            async for chunk in source.chunks():
                taken.append(chunk)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ConfigError) as ended:
        asyncio.run(read())
    assert ended.value.reason == "DEVICE_LOST"
    *heard, lost = taken
    assert [len(chunk) for chunk in heard if isinstance(chunk, bytes)] == [1600, 400]
    assert isinstance(lost, Lost)
    assert lost.n_samples >= 0.3 * RATE_HZ
    source.close()
    os.close(writer)
