"""How good a station's clock is: read from the kernel, and told to the server with each session and heartbeat."""

import asyncio
import ctypes
import ctypes.util
import os
import re
import struct
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from serving import ServerThread, scrape
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songserve.v1 import ingest_pb2, ingest_pb2_grpc
from songstation.channel import Channel
from songstation.clock_kernel import Timex, clock_quality, read_kernel
from songstation.dialogue import ClockQuality
from songstation.link import LinkSettings
from songstation.pipe import Pipe
from songstation.spool import Spool
from songstation.spool_index import SpoolLimits
from songstation.station import FieldStation
from songstation.station_plan import StationPlan

UNSYNC, PLL, TIME_OK, TIME_ERROR = 0x40, 0x1, 0, 5


def kernel(state: int | None, status: int = PLL, maxerror_us: int = 250_000) -> Any:
    """Return a reading of a kernel that says just this."""

    def read(timex: Timex) -> int | None:
        timex.maxerror, timex.esterror, timex.status = maxerror_us, 7, status
        return state

    return read


@pytest.mark.parametrize(
    ("setting", "reading", "quality"),
    [
        ("auto", kernel(TIME_OK), ClockQuality("ntp", 0.25)),
        ("auto", kernel(TIME_ERROR, PLL | UNSYNC, 16_000_000), ClockQuality("unsynced", None)),
        # Either of the two says it.
        ("auto", kernel(TIME_OK, UNSYNC), ClockQuality("unsynced", None)),
        ("auto", kernel(TIME_ERROR, PLL), ClockQuality("unsynced", None)),
        ("auto", kernel(-1), ClockQuality("unspecified", None)),
        ("auto", kernel(None), ClockQuality("unspecified", None)),
        ("gnss", kernel(TIME_OK, maxerror_us=1_500), ClockQuality("gnss", 0.0015)),
        ("gnss", kernel(TIME_ERROR, UNSYNC), ClockQuality("gnss", None)),
        ("rtc", kernel(-1), ClockQuality("rtc", None)),
        ("unsynced", kernel(TIME_ERROR, UNSYNC), ClockQuality("unsynced", None)),
    ],
)
def test_what_the_kernel_says_of_its_clock(setting: Any, reading: Any, quality: ClockQuality) -> None:
    """A clock that is kept on time has the greatest error in seconds, and its source by setting; else none is claimed."""
    assert clock_quality(setting, reading) == quality


def test_a_clock_that_is_none_is_refused() -> None:
    """The message has the choices."""
    with pytest.raises(ConfigError, match="gnss"):
        clock_quality("sundial", kernel(TIME_OK))  # type: ignore[arg-type]


def test_the_structure_is_the_kernel_s() -> None:
    """Read as plain bytes by the layout of adjtimex(2), this machine's kernel says the same."""
    timex, plain = Timex(), ctypes.create_string_buffer(512)
    state = read_kernel(timex)
    assert state is not None
    assert state == ctypes.CDLL(ctypes.util.find_library("c")).adjtimex(plain)
    _, _, freq, maxerror, esterror, status = struct.unpack_from("@Illlli", plain)
    assert (timex.modes, timex.freq, timex.esterror, timex.status) == (0, freq, esterror, status)
    # It grows by half a millisecond in a second, until something sets the clock again.
    assert maxerror - timex.maxerror in range(5_000)


def test_looking_at_the_clock_starts_no_program() -> None:
    """It is looked at every two seconds, and with each heartbeat, in the event loop: the library is loaded once."""
    script = """if True:
        import sys
        from songstation.clock_kernel import clock_quality
        events = []
        sys.addaudithook(lambda event, arguments: events.append(event))
        for _ in range(3):
            clock_quality("auto")
        assert "subprocess.Popen" not in events, events
        assert events.count("ctypes.dlopen") == 1, events
    """
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_clock_s_quality_travels_with_the_data(bundle: Bundle, tmp_path: Path) -> None:
    """The server keeps with a session what the clock was like at its beginning, and has what it is like from heartbeats."""
    qualities = [ClockQuality("gnss", 0.25)]
    directory, pipe = tmp_path / "spool", tmp_path / "pipe"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)
    os.write(held, bytes(16_000))
    link = LinkSettings(heartbeat_s=0.1)

    async def listen(server: ServerThread) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        spool = Spool(directory, SpoolLimits(10**9), now_s=loop.time)
        async with Channel(server.addresses.grpc) as channel:
            station = FieldStation(
                channel,
                spool,
                StationPlan("north", "test", link),
                lambda: Pipe(pipe, sample_rate_hz=8_000),
                rng=Random(3),
                now=lambda: datetime.now(UTC),
                clock_quality=lambda: qualities[-1],
            )
            running = asyncio.create_task(station.run(stop))
            await asyncio.to_thread(until_told, server, 0.25, synchronized=1)
            qualities.append(ClockQuality("unsynced", 3.5))
            await asyncio.to_thread(until_told, server, 3.5, synchronized=0)
            stop.set()
            await asyncio.wait_for(running, 30)
        (session,) = spool.sessions.values()
        request = ingest_pb2.GetSessionStatusRequest(session=f"stations/north/sessions/{session.uuid}")
        status = ingest_pb2_grpc.IngestServiceStub(server.channel).GetSessionStatus(request)
        assert status.clock_source == ingest_pb2.CLOCK_SOURCE_GNSS
        assert status.clock_error.ToMilliseconds() == 250
        # What a backfill tells, days later, is what stands in the file.
        assert (session.clock_source, session.clock_error_s) == ("gnss", 0.25)

    with ServerThread(bundle, tmp_path / "data") as server:
        asyncio.run(listen(server))
    os.close(held)


def until_told(server: ServerThread, error_s: float, *, synchronized: int) -> None:
    """Return once the server's metrics have the station's clock as it should be."""
    wanted = {"error_seconds": error_s, "synchronized": synchronized}
    deadline = time.monotonic() + 30
    while True:
        found = dict(
            re.findall(r'^songstream_station_clock_(\w+){station="north"} (\S+)', scrape(server), re.MULTILINE)
        )
        if all(name in found and float(found[name]) == value for name, value in wanted.items()):
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
