"""The field station with a real server, real files and real outages: captured = committed, declared lost, or still spooled."""

import asyncio
import contextlib
import os
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import inf
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from serving import ServerThread
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songserve.commands.db import db
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, songs_pb2, songs_pb2_grpc
from songstation.channel import Channel
from songstation.commands.station import station as station_command
from songstation.commands.station_run import STATE_FILE, _tell, _write_state
from songstation.dialogue import ClockQuality, HeardSong
from songstation.link import LinkSettings
from songstation.outbox import LossReason
from songstation.pipe import Pipe
from songstation.sources import Lost, Playback, Source
from songstation.spool import Spool
from songstation.spool_index import Policy, SpoolLimits
from songstation.spool_records import scan
from songstation.spool_sessions import Session
from songstation.station import FieldStation
from songstation.station_account import Picture
from songstation.station_metrics import StationMetrics
from songstation.station_plan import StationPlan
from songstation.watchdog import Watchdog
from tokens import add_token, run_token

START = datetime(2024, 5, 1, 3, 30, tzinfo=UTC)
QUICK = LinkSettings(answer_s=20, heartbeat_s=0.2, first_retry_s=0.05, longest_retry_s=0.3)


class Scripted:
    """A microphone at 8 kHz that gives what a test says: chunks of so many samples, losses, or something that happens."""

    can_wait = False
    name = "scripted"

    def __init__(self, script: Iterable[int | Lost | Callable[[], Any]], rate_hz: int = 8_000) -> None:
        self.sample_rate_hz, self._script = rate_hz, script
        self.n_given = 0

    def begin(self, now: Callable[[], datetime]) -> datetime:
        """Return the time."""
        return now()

    async def chunks(self) -> AsyncIterator[bytes | Lost]:
        """Yield what the script says, and then nothing more until the end."""
        for step in self._script:
            if callable(step):
                result = step()
                if asyncio.iscoroutine(result):
                    await result
                continue
            n_samples = step if isinstance(step, int) else step.n_samples
            self.n_given += n_samples
            yield bytes(2 * n_samples) if isinstance(step, int) else step
            await asyncio.sleep(0)

    def finish(self) -> Iterable[bytes | Lost]:
        """Return nothing."""
        return ()

    def close(self) -> None:
        """Do nothing."""


def run_station(
    address: str,
    directory: Path,
    open_source: Callable[[], Source],
    *,
    during: Callable[[FieldStation, asyncio.Event], Any] | None = None,
    limits: SpoolLimits | None = None,
    missing_since_s: float | None = None,
    name: str = "north",
    link: LinkSettings = QUICK,
    clock_quality: Callable[[], ClockQuality] = ClockQuality,
    **plan: Any,
) -> tuple[FieldStation, list[HeardSong], Spool]:
    """Run a station until its recording is committed or ``during`` sets the event."""
    songs: list[HeardSong] = []

    async def main() -> tuple[FieldStation, Spool]:
        stop = asyncio.Event()
        spool = Spool(directory, limits or SpoolLimits(10**9), now_s=asyncio.get_running_loop().time)
        async with Channel(address) as channel:
            station = FieldStation(
                channel,
                spool,
                StationPlan(name, "test", link, **{"stop_grace_s": 20, "device_retry_s": 0.05, **plan}),
                open_source,
                rng=Random(3),
                now=lambda: datetime.now(UTC),
                clock_quality=clock_quality,
                on_song=songs.append,
                missing_since_s=missing_since_s,
            )
            beside = asyncio.create_task(during(station, stop)) if during else None
            await asyncio.wait_for(station.run(stop), 60)
            if beside:
                await beside
        return station, spool

    station, spool = asyncio.run(main())
    return station, songs, spool


def stored(server: ServerThread, session: str = "") -> list[Any]:
    """Return the server's songs."""
    stub = songs_pb2_grpc.SongServiceStub(server.channel)
    return list(stub.ListSongs(songs_pb2.ListSongsRequest(session=session, include_noise=True, page_size=500)).songs)


def assert_all_is_accounted_for(station: FieldStation, spool: Spool) -> None:
    """Check that what the device gave is what the files and the server have."""
    picture = station.picture()
    assert picture.captured_samples == picture.committed_samples + picture.waiting_samples
    assert picture.waiting_samples == 0
    assert spool.unfinished() == []


@pytest.mark.parametrize("encoding", ["linear16", "flac"])
def test_a_recording_comes_back_as_its_songs(bundle: Bundle, recording: Any, tmp_path: Path, encoding: str) -> None:
    """Through the spool, on either wire, the songs are those of the recording, and all of it is committed."""
    with ServerThread(bundle, tmp_path / "data") as server:
        station, songs, spool = run_station(
            server.addresses.grpc, tmp_path / "spool", lambda: Playback(recording.path, speed=inf), encoding=encoding
        )
    assert [(s.onset_s, s.offset_s, s.type_id, s.novel) for s in songs] == recording.songs
    assert station.account.captured_s == pytest.approx(recording.duration_s)
    assert_all_is_accounted_for(station, spool)


def test_after_a_long_outage_live_sound_goes_first(bundle: Bundle, recording: Any, tmp_path: Path) -> None:
    """A server that was away finds a new session beside the old one, which follows as a backlog; no song is missing."""
    data, directory = tmp_path / "data", tmp_path / "spool"
    address = _free_address()

    async def bring_the_server(station: FieldStation, _: asyncio.Event) -> None:
        while station.account.captured_s < 4:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.02)
        await asyncio.to_thread(server.__enter__)

    server = ServerThread(bundle, data, listen=address)
    try:
        station, songs, spool = run_station(
            address,
            directory,
            lambda: Playback(recording.path, speed=2),
            during=bring_the_server,
            outage_s=0.2,
        )
        assert station.account.n_sessions == 2
        assert station.account.n_streams_failed["UNAVAILABLE"] > 0
        assert_all_is_accounted_for(station, spool)
        starts = sorted((song.start, song.type_id) for song in songs)
        n_heard = len(stored(server))
    finally:
        server.__exit__(None, None, None)
    # A session's end may cut one song in two.
    assert n_heard == len(songs)
    began = datetime(2024, 5, 1, 3, 30, tzinfo=UTC)
    told = [(start - began).total_seconds() for start, _ in starts]
    missed = [onset for onset, *_ in recording.songs if not any(abs(onset - one) < 0.25 for one in told)]
    assert len(missed) <= 1, told


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("reason", ["TOKEN_INVALID", "STATION_DISABLED"])
def test_a_station_that_is_refused_asks_seldom_and_recovers(bundle: Bundle, tmp_path: Path, reason: str) -> None:
    """Its token unknown, or shut out, it keeps its sound and says so everywhere; let in, it sends all of it."""
    directory, book, with_north = tmp_path / "spool", tmp_path / "tokens.json", tmp_path / "later.json"
    code = "UNAUTHENTICATED" if reason == "TOKEN_INVALID" else "PERMISSION_DENIED"
    add_token(book, "south")
    bearer = add_token(with_north if reason == "TOKEN_INVALID" else book, "north")
    if reason == "STATION_DISABLED":
        run_token("disable", "north", "--file", str(book))
    # Were it an ordinary failure, it would be asked again and again within the half second.
    link = replace(QUICK, first_retry_s=0.01, longest_retry_s=0.02, refused_retry_s=0.5)
    link = replace(link, metadata=lambda: (("authorization", f"Bearer {bearer}"),))

    async def let_in(station: FieldStation, stop: asyncio.Event) -> None:
        failed, loop = station.account.n_streams_failed, asyncio.get_running_loop()
        asked_s: list[float] = []
        async with asyncio.timeout(30):
            while len(asked_s) < 3:
                if failed[code] > len(asked_s):
                    asked_s.append(loop.time())
                await asyncio.sleep(0.01)
        assert all(0.2 < after - before < 5 for before, after in pairwise(asked_s))
        picture = station.picture()
        assert reason in picture.refused
        assert (picture.is_connected, picture.committed_samples, picture.waiting_samples) == (False, 0, 8_000)
        _write_state(picture, directory / STATE_FILE, "", "")
        assert reason in CliRunner().invoke(station_command, ["status", "--spool", str(directory), "--json"]).output
        told = StationMetrics(station.picture).registry
        assert told.get_sample_value("songstream_field_refused") == 1
        if reason == "TOKEN_INVALID":
            with_north.replace(book)
        else:
            run_token("enable", "north", "--file", str(book))
        async with asyncio.timeout(30):
            while not station.picture().is_connected:  # noqa: ASYNC110 - a picture
                await asyncio.sleep(0.01)
        assert station.picture().refused == ""
        assert told.get_sample_value("songstream_field_refused") == 0
        stop.set()

    with ServerThread(bundle, tmp_path / "data", token_file=book) as server:
        source = Scripted([8_000, lambda: asyncio.sleep(60)])
        address = server.addresses.grpc
        station, _, spool = run_station(address, directory, lambda: source, during=let_in, link=link)
    assert_all_is_accounted_for(station, spool)
    assert (station.account.n_sessions, dict(station.account.lost_s)) == (1, {})
    assert set(station.account.n_streams_failed) == {code}


def test_sessions_of_another_name_hold_nothing_up(bundle: Bundle, tmp_path: Path) -> None:
    """What a station recorded before it got its present name is refused, and told; its other sessions go on."""
    directory, book = tmp_path / "spool", tmp_path / "tokens.json"
    bearer = add_token(book, "north")

    async def record(station: FieldStation, stop: asyncio.Event) -> None:
        while station.account.captured_s < 1:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.01)
        stop.set()

    for name in ("south", "north"):
        source = Scripted([8_000, lambda: asyncio.sleep(60)])
        run_station("127.0.0.1:9", directory, lambda s=source: s, during=record, name=name, stop_grace_s=0)  # type: ignore[misc]

    async def see(station: FieldStation, stop: asyncio.Event) -> None:
        async with asyncio.timeout(30):
            while (picture := station.picture()).sessions_waiting != 1 or not picture.is_connected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert "STATION_MISMATCH" in picture.refused
        stop.set()

    with ServerThread(bundle, tmp_path / "data", token_file=book) as server:
        source = Scripted([8_000, lambda: asyncio.sleep(60)])
        link = replace(QUICK, metadata=lambda: (("authorization", f"Bearer {bearer}"),))
        address = server.addresses.grpc
        _, _, spool = run_station(address, directory, lambda: source, during=see, link=link, stop_grace_s=0)
    south, north, _ = spool.sessions.values()
    assert (south.station, spool.standing(south.uuid).committed) == ("south", 0)
    assert (north.station, spool.standing(north.uuid).finished) == ("north", True)


def test_devices_come_and_go(bundle: Bundle, tmp_path: Path) -> None:
    """A device that is lost leaves a gap as long as it was away, and comes back, at another rate too, as a new session."""

    def lost() -> None:
        raise ConfigError("the device is gone", reason="DEVICE_LOST")

    stops: list[Callable[[], None]] = []

    def stop_now() -> None:
        stops[0]()

    devices = [
        Scripted([4_000, Lost(800, LossReason.DEVICE_OVERRUN), 4_000, lost]),
        None,
        None,
        Scripted([8_000, 8_000, stop_now, lambda: asyncio.sleep(30)], rate_hz=16_000),
    ]
    left = iter(devices)

    def open_source() -> Source:
        device = next(left)
        if device is None:
            raise ConfigError("no device", reason="DEVICE_MISSING")
        return device

    async def watch(_: FieldStation, stop: asyncio.Event) -> None:
        stops.append(stop.set)

    with ServerThread(bundle, tmp_path / "data") as server:
        station, _, spool = run_station(server.addresses.grpc, tmp_path / "spool", open_source, during=watch)
        assert_all_is_accounted_for(station, spool)
    assert station.account.n_sessions == 2
    sessions = list(spool.sessions.values())
    assert [session.sample_rate_hz for session in sessions] == [8_000, 16_000]
    lost_s = station.account.lost_s
    assert lost_s[LossReason.DEVICE_OVERRUN] == 0.1
    assert 0.1 <= lost_s[LossReason.DEVICE_LOST] < 10
    first = spool.totals(sessions[0].uuid)
    assert first.captured == 8_800 + round(lost_s[LossReason.DEVICE_LOST] * 8_000)
    assert spool.totals(sessions[1].uuid).captured == 16_000


def test_a_pipe_whose_writer_hangs_is_a_device_that_went(bundle: Bundle, tmp_path: Path) -> None:
    """The pipe is held open and nothing comes: a gap from the last sample on, no device, and then sound again."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    hung = os.open(path, os.O_RDWR)
    os.write(hung, bytes(8_000))

    async def watch(station: FieldStation, stop: asyncio.Event) -> None:
        while not station.picture().device:  # noqa: ASYNC110 - a picture
            await asyncio.sleep(0.01)
        while station.picture().device:  # noqa: ASYNC110 - a picture
            await asyncio.sleep(0.01)
        heard, lost_s = station.account.last_chunk, station.account.lost_s[LossReason.DEVICE_LOST]
        while station.account.lost_s[LossReason.DEVICE_LOST] == lost_s:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.01)
        assert station.account.last_chunk == heard
        os.write(hung, bytes(8_000))
        while station.account.last_chunk == heard:  # noqa: ASYNC110 - a picture
            await asyncio.sleep(0.01)
        stop.set()

    with ServerThread(bundle, tmp_path / "data") as server:
        station, _, spool = run_station(
            server.addresses.grpc,
            tmp_path / "spool",
            lambda: Pipe(path, sample_rate_hz=8_000, silent_s=0.5),
            during=watch,
        )
        assert_all_is_accounted_for(station, spool)
    os.close(hung)
    lost_s = station.account.lost_s
    assert list(lost_s) == [LossReason.DEVICE_LOST]
    assert lost_s[LossReason.DEVICE_LOST] >= 0.5
    first, second = (spool.totals(uuid).captured for uuid in spool.sessions)
    assert first + second == 8_000 + round(lost_s[LossReason.DEVICE_LOST] * 8_000)


def test_a_stop_while_the_sound_system_hangs_still_sends_the_rest(bundle: Bundle, tmp_path: Path) -> None:
    """The device is gone, to open it again hangs, and the server comes back after the stop: it gets all within the grace."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    released, servers = threading.Event(), list[ServerThread]()

    def lost() -> None:
        raise ConfigError("the device is gone", reason="DEVICE_LOST")

    left = iter([Scripted([8_000, lost])])

    def open_source() -> Source:
        device = next(left, None)
        if device is None:
            released.wait(60)
            raise ConfigError("no device", reason="DEVICE_MISSING")
        return device

    async def stop_while_it_hangs(station: FieldStation, stop: asyncio.Event) -> None:
        while station.account.captured_s < 1 or station.picture().device:  # noqa: ASYNC110 - a picture
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.sleep(0.5)
        servers.append(await asyncio.to_thread(ServerThread(bundle, tmp_path / "data", listen=address).__enter__))

    directory = tmp_path / "spool"
    try:
        with pytest.raises(ConfigError) as caught:
            run_station(address, directory, open_source, during=stop_while_it_hangs)
        assert caught.value.reason == "DEVICE_STUCK"
    finally:
        released.set()
        for server in servers:
            server.__exit__(None, None, None)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "songs.sqlite")) as database:
        ((committed, finished),) = database.execute("SELECT committed_sample, finished FROM sessions").fetchall()
    assert committed > 8_000
    assert finished


def test_no_second_is_missing_when_a_station_starts_anew(bundle: Bundle, tmp_path: Path) -> None:
    """A sound system holds the device; the next process is told since when, and its session begins at that moment."""

    class Stuck(Scripted):
        def close(self) -> None:
            """Hang."""
            raise ConfigError("the sound system holds on", reason="DEVICE_STUCK")

    def lost() -> None:
        raise ConfigError("the device is gone", reason="DEVICE_LOST")

    stations: list[FieldStation] = []
    directory = tmp_path / "spool"

    async def note(station: FieldStation, _: asyncio.Event) -> None:
        stations.append(station)

    with ServerThread(bundle, tmp_path / "data") as server:
        address = server.addresses.grpc
        stuck = Stuck([4_000, Lost(800, LossReason.DEVICE_LOST), lost])
        with pytest.raises(ConfigError, match="holds on"):
            run_station(address, directory, lambda: stuck, during=note)
        since_s = stations[0].missing_since_s
        assert since_s is not None

        async def stop_at_the_end(_: FieldStation, stop: asyncio.Event) -> None:
            while source.n_given < 8_000:  # noqa: ASYNC110 - a counter
                await asyncio.sleep(0.01)
            stop.set()

        source = Scripted([8_000, lambda: asyncio.sleep(30)])
        left = iter([None, source])

        def open_source() -> Source:
            device = next(left)
            if device is None:
                raise ConfigError("no device yet", reason="DEVICE_MISSING")
            return device

        station, _, spool = run_station(
            address, directory, open_source, during=stop_at_the_end, missing_since_s=since_s
        )
        assert_all_is_accounted_for(station, spool)
    first, second = spool.sessions.values()
    assert spool.totals(first.uuid).captured == 4_800
    assert spool.totals(second.uuid).captured == 8_000 + round(station.account.lost_s[LossReason.DEVICE_LOST] * 8_000)
    began_s = (second.start - first.start).total_seconds()
    # The script's 4,800 samples took no time: their session's times run ahead of the clock.
    assert -1 < began_s < 5


def test_the_watchdog_sees_a_capture_that_stands_still(tmp_path: Path) -> None:
    """Life is told of while sound comes, and while a device is waited for, but not when an open device's sound stays away."""
    address = str(tmp_path / "notify")
    comes = asyncio.Event()

    def lose() -> None:
        raise ConfigError("the device is gone", reason="DEVICE_LOST")

    source = Scripted([800, comes.wait, lose])
    left = iter([source])

    def open_source() -> Source:
        if (device := next(left, None)) is None:
            raise ConfigError("no device", reason="DEVICE_MISSING")
        return device

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)

        async def heard_until(wanted: str, *, alive: bool) -> None:
            async with asyncio.timeout(30):
                while True:
                    said = (await asyncio.get_running_loop().sock_recv(manager, 4096)).decode()
                    if wanted in said:
                        assert said.startswith("WATCHDOG=1") is alive
                        return

        async def watch(station: FieldStation, stop: asyncio.Event) -> None:
            def write() -> Picture:
                return _write_state(station.picture(), tmp_path / "state.json", "", "")

            telling = asyncio.create_task(_tell(write, station, Watchdog(address), still_s=0.5, pause_s=0.05))
            await heard_until("scripted", alive=True)
            await heard_until("standing still", alive=False)
            comes.set()
            await heard_until("no device", alive=True)
            telling.cancel()
            stop.set()

        run_station("127.0.0.1:9", tmp_path / "spool", open_source, during=watch, stop_grace_s=0)


def test_a_clock_that_is_set_begins_a_new_session(bundle: Bundle, tmp_path: Path) -> None:
    """An hour's step of the wall clock moves no sample: the session ends, and the next has the right start."""
    offset = timedelta()
    stops: list[Callable[[], None]] = []

    def stop_now() -> None:
        stops[0]()

    def step() -> None:
        nonlocal offset
        offset = timedelta(hours=1)

    source = Scripted([*[800] * 20, step, *[800] * 20, stop_now, lambda: asyncio.sleep(30)])

    async def watch(station: FieldStation, stop: asyncio.Event) -> None:
        stops.append(stop.set)
        # Sound as fast as it is written, and a clock that goes with it.
        began = datetime.now(UTC)
        station._now = lambda: began + timedelta(seconds=station.account.captured_s) + offset

    with ServerThread(bundle, tmp_path / "data") as server:
        station, _, spool = run_station(server.addresses.grpc, tmp_path / "spool", lambda: source, during=watch)
        assert_all_is_accounted_for(station, spool)
    first, second = spool.sessions.values()
    n_first = spool.totals(first.uuid).captured
    assert n_first + spool.totals(second.uuid).captured == 32_000
    elapsed_s = (second.start - first.start).total_seconds()
    assert elapsed_s == pytest.approx(3600 + n_first / 8_000, abs=0.3)


@pytest.mark.parametrize("policy", list(Policy))
def test_a_full_spool_is_declared_to_the_server(
    bundle: Bundle, tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server a small spool overflows; in the end the server has every sample, as sound or as a declared gap."""
    monkeypatch.setattr("songstation.spool.SEGMENT_BYTES", 20_000)
    address = _free_address()
    server = ServerThread(bundle, tmp_path / "data", listen=address)
    stops: list[Callable[[], None]] = []

    def stop_now() -> None:
        stops[0]()

    async def watch(_: FieldStation, stop: asyncio.Event) -> None:
        stops.append(stop.set)

    script: list[Any] = [*[800] * 300, lambda: asyncio.to_thread(server.__enter__), *[800] * 20, stop_now]
    source = Scripted([*script, lambda: asyncio.sleep(30)])
    try:
        station, _, spool = run_station(
            address,
            tmp_path / "spool",
            lambda: source,
            during=watch,
            limits=SpoolLimits(200_000, policy=policy),
            outage_s=600,
            clock_limit_s=inf,
        )
        assert_all_is_accounted_for(station, spool)
        (uuid,) = spool.sessions
        name = ingest_pb2.GetSessionStatusRequest(session=f"stations/north/sessions/{uuid}")
        status = ingest_pb2_grpc.IngestServiceStub(server.channel).GetSessionStatus(name)
    finally:
        server.__exit__(None, None, None)
    assert (status.finished, status.committed_sample) == (True, source.n_given)
    lost_s = station.account.lost_s[LossReason.SPOOL_FULL]
    assert set(station.account.lost_s) == {LossReason.SPOOL_FULL}
    # 200 kB hold 12 of the 32 seconds; what was lost is what is not in the files.
    assert 15 < lost_s < 25


class Restored:
    """A server that is put back to a backup, and a station that may be run more than once."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        self.data, self._copy, self.directory, self._bundle = path / "data", path / "copy", path / "spool", bundle
        self._address = _free_address()
        self.serve()

    def serve(self) -> None:
        """Start the server."""
        self._server = ServerThread(self._bundle, self.data, listen=self._address).__enter__()

    def end_server(self) -> None:
        """Stop it."""
        self._server.__exit__(None, None, None)

    def copy(self) -> None:
        """Take a backup."""
        assert CliRunner().invoke(db, ["backup", "--data-dir", str(self.data), str(self._copy)]).exit_code == 0

    def put_back(self) -> None:
        """Restore it."""
        self.end_server()
        assert CliRunner().invoke(db, ["restore", "--data-dir", str(self.data), str(self._copy)]).exit_code == 0
        self.serve()

    def run(self, *script: Any) -> tuple[FieldStation, Spool]:
        """Run the station until the script is over and all of it is committed."""
        source = Scripted([*script, self.stop, lambda: asyncio.sleep(30)])

        async def meet(station: FieldStation, stop: asyncio.Event) -> None:
            self.station, self._stop = station, stop

        station, _, spool = run_station(
            self._address, self.directory, lambda: source, during=meet, outage_s=600, clock_limit_s=inf
        )
        return station, spool

    def stop(self) -> None:
        """Stop the station in order."""
        self._stop.set()

    def live(self) -> tuple[Spool, UUID]:
        """Return the spool and the session that is being captured."""
        assert self.station._live is not None
        return self.station._spool, self.station._live.uuid

    async def until_committed(self, n_samples: int) -> None:
        """Return when the server has so many samples of the session that is being captured."""
        spool, uuid = self.live()
        async with asyncio.timeout(30):
            while spool.standing(uuid).committed_sample < n_samples:  # noqa: ASYNC110 - a standing
                await asyncio.sleep(0.01)

    async def forget(self, n_samples: int) -> None:
        """Delete that session's files of the first so many samples, as when their grace is over."""
        spool, uuid = self.live()
        for segment in spool.index.of(uuid):
            if segment.end_sample <= n_samples:
                await self.station._on_disk(spool._delete, segment)

    def committed(self) -> dict[str, int]:
        """Return the samples that the server has committed, by session; those with any are finished."""
        with contextlib.closing(sqlite3.connect(self.data / "songs.sqlite")) as database:
            rows = database.execute(
                "SELECT uuid, committed_sample, finished FROM sessions WHERE committed_sample"
            ).fetchall()
        assert all(finished for *_, finished in rows)
        return {uuid: committed for uuid, committed, _ in rows}


def test_a_server_put_back_by_more_than_an_hour_gets_what_the_grace_has(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the session that goes on all that is on the disk comes under another name; finished ones come again; none twice."""
    # Each record has a file of its own, so that the grace is as fine as the sound.
    monkeypatch.setattr("songstation.spool.SEGMENT_BYTES", 1)
    rate, place = 8_000, Restored(bundle, tmp_path)
    try:
        place.run(rate)
        place.copy()
        place.run(2 * rate)
        # The server loses an hour and a half without a device, which the station has no more.
        hole = Lost(5_400 * rate, LossReason.DEVICE_LOST)
        script: list[Any] = [rate, hole, *[rate] * 4, lambda: place.until_committed(5_402 * rate)]
        script += [lambda: place.forget(5_401 * rate), *[rate] * 6, lambda: place.until_committed(5_408 * rate)]
        script += [lambda: asyncio.to_thread(place.put_back), *[rate] * 3]
        station, spool = place.run(*script)
        assert_all_is_accounted_for(station, spool)
        before, finished, went_on = list(spool.sessions)
        standing = spool.standing(went_on)
        assert standing.sample_before == 5_401 * rate
        wanted = {str(before): rate, str(finished): 2 * rate, standing.name: 13 * rate}
        assert place.committed() == wanted
        # Nothing comes twice when the station has forgotten under which name it went on.
        (place.directory / "cursor").unlink()
        _, spool = place.run(rate)
        assert spool.standing(went_on).name == standing.name
        assert place.committed() == wanted | {str(list(spool.sessions)[-1]): rate}
    finally:
        place.end_server()


def test_a_server_put_back_while_the_station_was_off_gets_finished_sessions_again(
    bundle: Bundle, tmp_path: Path
) -> None:
    """What was finished and is still on the disk is offered when the station starts, and sent where it is not known."""
    rate, place = 8_000, Restored(bundle, tmp_path)
    try:
        place.run(rate)
        place.copy()
        place.run(2 * rate)
        had = place.committed()
        place.put_back()
        assert sorted(place.committed().values()) == [rate]
        station, spool = place.run(3 * rate)
        assert_all_is_accounted_for(station, spool)
        assert place.committed() == had | {str(list(spool.sessions)[-1]): 3 * rate}
    finally:
        place.end_server()


def test_a_session_that_is_doubted_after_its_end_is_offered_again(bundle: Bundle, tmp_path: Path) -> None:
    """An earlier session, sent beside it, finds that the server was put back: a stop does not wait for its grace in vain."""

    async def doubt(station: FieldStation, stop: asyncio.Event) -> None:
        while station.account.captured_s < 1:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.01)
        assert station._live is not None
        outbox = station._live.outbox
        stop.set()
        while not outbox.finished:  # noqa: ASYNC110 - a flag
            await asyncio.sleep(0)
        station._spool.doubt_finished()

    with ServerThread(bundle, tmp_path / "data") as server:
        source, began_s = Scripted([8_000, lambda: asyncio.sleep(60)]), time.monotonic()
        address = server.addresses.grpc
        station, _, spool = run_station(address, tmp_path / "spool", lambda: source, during=doubt, stop_grace_s=30)
        assert_all_is_accounted_for(station, spool)
    assert time.monotonic() - began_s < 25


@pytest.mark.parametrize("n_before", [0, 2])
def test_what_a_cut_leaves_of_a_session_is_finished_at_the_server(
    bundle: Bundle, tmp_path: Path, n_before: int
) -> None:
    """Only the opening of its last file is left, of others perhaps the sound: the server hears where it ends."""
    directory = tmp_path / "spool"
    spool = Spool(directory, SpoolLimits(10**9), now_s=time.monotonic)
    spool.begin(Session(UUID(int=7), "north", 8_000, START, 800))
    for _ in range(n_before):
        spool.append(bytes(1_600), 800, 0)
    spool._close_file()
    spool.append(bytes(1_600), 800, 0)
    spool.close()
    newest = max(directory.glob("*.spool"))
    newest.write_bytes(newest.read_bytes()[: next(scan(newest.read_bytes())).end])

    async def stop_at_the_end(station: FieldStation, stop: asyncio.Event) -> None:
        while station.account.captured_s < 1:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.01)
        stop.set()

    with ServerThread(bundle, tmp_path / "data") as server:
        source = Scripted([8_000, lambda: asyncio.sleep(60)])
        station, _, spool = run_station(server.addresses.grpc, directory, lambda: source, during=stop_at_the_end)
        assert_all_is_accounted_for(station, spool)
        name = ingest_pb2.GetSessionStatusRequest(session=f"stations/north/sessions/{UUID(int=7)}")
        status = ingest_pb2_grpc.IngestServiceStub(server.channel).GetSessionStatus(name)
    assert (status.finished, status.committed_sample) == (True, n_before * 800)
    assert all(segment.committed_s is not None for segment in spool.index.segments)
