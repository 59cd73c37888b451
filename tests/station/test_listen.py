"""A station and a real server: the songs that come back, also when the server goes away in between."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from serving import ServerProcess, ServerThread
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songcore.printed_json import plain_json
from songstation.channel import Channel
from songstation.commands.listen import listen as listen_command
from songstation.link import LinkSettings
from songstation.listening import Account, Station, listen, uuid7
from songstation.microphone import InputDevice
from songstation.outbox import LossReason
from songstation.recovery import Failure
from songstation.sources import Lost, Playback, Source
from songstation.wire import HeardSong
from tokens import add_token

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
START = datetime(2024, 5, 1, 3, 30, tzinfo=UTC)
QUICK = LinkSettings(answer_s=20, heartbeat_s=0.2, first_retry_s=0.05, longest_retry_s=0.5)


class Heard:
    """What a station was told."""

    def __init__(self) -> None:
        self.songs: list[HeardSong] = []
        self.troubles: list[Failure] = []

    @property
    def facts(self) -> list[tuple[float, float, str, bool]]:
        """Onset, offset, type and novelty of every song, as the recording's fixture has them."""
        return [(song.onset_s, song.offset_s, song.type_id, song.novel) for song in self.songs]


def run_station(
    address: str,
    source: Source,
    *,
    buffer_bytes: int = 10**8,
    name: str = "north",
    link: LinkSettings = QUICK,
    during: Callable[[Heard, asyncio.Event], Any] | None = None,
) -> tuple[Account, Heard]:
    """Listen to the source until everything is committed; ``during`` is called at every song and every trouble."""
    heard = Heard()

    async def main() -> Account:
        stop = asyncio.Event()

        def on_song(song: HeardSong) -> None:
            heard.songs.append(song)
            if during:
                during(heard, stop)

        def on_trouble(failure: Failure, _: float) -> None:
            heard.troubles.append(failure)
            if during:
                during(heard, stop)

        async with Channel(address) as channel:
            return await asyncio.wait_for(
                listen(
                    channel,
                    source,
                    Station(name, "test", buffer_bytes, link),
                    rng=Random(1),
                    now=lambda: START,
                    stop=stop,
                    on_song=on_song,
                    on_trouble=on_trouble,
                ),
                timeout=60,
            )

    return asyncio.run(main()), heard


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_prints_the_songs_and_the_account(bundle_dir: Path, recording: Any, tmp_path: Path) -> None:
    """`songstream listen` returns the songs of the offline run with UTC times, and accounts for all of the sound."""
    with ServerProcess(bundle_dir, tmp_path / "data") as server:
        command = [SONGSTREAM, "listen", str(recording.path), "--server", server.ready["address"], "--speed", "max"]
        ended = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=120)
        people = subprocess.run(
            [*command, "--station", "south"], capture_output=True, text=True, check=False, timeout=120
        )
    assert ended.returncode == 0, ended.stderr
    *songs, last = map(json.loads, ended.stdout.splitlines())
    found = [[song["onset_s"], song["offset_s"], song["type_id"], song["novel"]] for song in songs]
    assert found == json.loads(plain_json(recording.songs))
    assert [song["name"] for song in songs] == [f"songs/{song['uid']}" for song in songs]
    assert all(song["start"].startswith("2024-05-01T03:30:") for song in songs)
    account = last["account"]
    assert account["captured_s"] == account["committed_s"] == pytest.approx(recording.duration_s)
    assert (account["lost_s"], account["n_songs"], account["n_streams"]) == (0, len(recording.songs), 1)
    n_novel = sum(novel for *_, novel in recording.songs)
    assert f"{len(recording.songs)} songs ({n_novel} novel, 0 noise)" in people.stdout
    assert people.stdout.count("novel\n") == n_novel


@pytest.mark.parametrize("chunk_s", [0.05, 0.37, 2.0])
def test_chunking_changes_nothing(bundle: Bundle, recording: Any, tmp_path: Path, chunk_s: float) -> None:
    """Songs, their times and types are those of the offline run whatever the size of the chunks."""
    with ServerThread(bundle, tmp_path / "data") as server:
        _, heard = run_station(server.addresses.grpc, Playback(recording.path, speed=inf, chunk_s=chunk_s))
    assert heard.facts == recording.songs


def test_a_server_that_is_away_is_waited_for(bundle_dir: Path, recording: Any, tmp_path: Path) -> None:
    """A station that starts before its server waits, says so, and loses nothing."""
    address = f"127.0.0.1:{free_port()}"
    servers: list[ServerProcess] = []

    def start_server_after_three_failures(heard: Heard, _: asyncio.Event) -> None:
        if len(heard.troubles) == 3 and not servers:
            servers.append(ServerProcess(bundle_dir, tmp_path / "data", "--listen", address))

    try:
        account, heard = run_station(
            address, Playback(recording.path, speed=inf), during=start_server_after_three_failures
        )
    finally:
        for server in servers:
            server.process.kill()
            server.process.communicate()
    assert heard.facts == recording.songs
    assert {failure.code for failure in heard.troubles[:3]} == {"UNAVAILABLE"}
    assert account.lost_s == 0
    assert account.committed_s == pytest.approx(recording.duration_s)


def test_a_server_killed_in_the_middle_costs_nothing(bundle_dir: Path, recording: Any, tmp_path: Path) -> None:
    """After a kill without warning and a restart, every song has come, none twice, and no sound is lost."""
    address = f"127.0.0.1:{free_port()}"

    def serve() -> ServerProcess:
        return ServerProcess(bundle_dir, tmp_path / "data", "--listen", address)

    servers = [serve().__enter__()]

    def kill_after_two_songs(heard: Heard, _: asyncio.Event) -> None:
        if len(heard.songs) == 2 and len(servers) == 1:
            servers[0].process.kill()
            servers[0].__exit__(None, None, None)
            servers.append(serve())

    try:
        account, heard = run_station(address, Playback(recording.path, speed=20), during=kill_after_two_songs)
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.process.kill()
            server.process.communicate()
    assert heard.facts == recording.songs
    assert account.n_streams > 1
    assert account.lost_s == 0
    assert account.committed_s == pytest.approx(recording.duration_s)


def test_a_drained_server_is_followed_by_the_next(bundle: Bundle, recording: Any, tmp_path: Path) -> None:
    """A server that stops in order hands the session over to its successor on the same data."""
    address = f"127.0.0.1:{free_port()}"
    first = ServerThread(bundle, tmp_path / "data", listen=address).__enter__()
    servers = [first]

    def change_servers(heard: Heard, _: asyncio.Event) -> None:
        if heard.songs and not heard.troubles and first._thread.is_alive():
            first.stop()
        elif heard.troubles and len(servers) == 1:
            first.__exit__(None, None, None)
            servers.append(ServerThread(bundle, tmp_path / "data", listen=address).__enter__())

    try:
        account, heard = run_station(address, Playback(recording.path, speed=20), during=change_servers)
    finally:
        if len(servers) == 2:
            servers[1].__exit__(None, None, None)
        else:
            first.__exit__(None, None, None)
    assert heard.facts == recording.songs
    assert account.lost_s == 0
    assert account.n_streams > 1


class Singing:
    """A source that cannot wait, as a microphone: chunks as given, then a pause until it is let go."""

    can_wait = False
    sample_rate_hz = 24_000

    def __init__(
        self, chunks: Sequence[bytes | Lost], *, go_on: Callable[[], bool], rest: Sequence[bytes | Lost] = ()
    ) -> None:
        self._chunks, self._go_on, self._rest = chunks, go_on, rest
        self.closed = False

    def begin(self, now: Callable[[], datetime]) -> datetime:
        """Return now."""
        return now()

    async def chunks(self) -> AsyncIterator[bytes | Lost]:
        """Yield everything at once but the last, and that when `go_on` says so."""
        *most, last = self._chunks
        for chunk in most:
            yield chunk
        while not self._go_on():  # noqa: ASYNC110 - what it waits for is in a thread
            await asyncio.sleep(0.01)
        yield last

    def finish(self) -> Sequence[bytes | Lost]:
        """Return what a stop finds in the ring."""
        return self._rest

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


def test_a_microphone_declares_what_it_cannot_keep(bundle: Bundle, tmp_path: Path) -> None:
    """With the memory full and the server away, sound is lost as a declared gap, and what was kept arrives."""
    address = f"127.0.0.1:{free_port()}"
    servers: list[ServerThread] = []

    def start_server(heard: Heard, _: asyncio.Event) -> None:
        if len(heard.troubles) == 2:
            servers.append(ServerThread(bundle, tmp_path / "data", listen=address).__enter__())

    second = np.zeros(24_000, "<i2").tobytes()
    chunks: list[bytes | Lost] = [*[second] * 8, Lost(4_800, LossReason.DEVICE_OVERRUN), second]
    source = Singing(chunks, go_on=lambda: bool(servers))
    try:
        account, _ = run_station(address, source, buffer_bytes=5 * len(second), during=start_server)
    finally:
        for server in servers:
            server.__exit__(None, None, None)
    assert account.captured_s == account.committed_s == pytest.approx(9.2)
    assert 3.2 <= account.lost_s <= 4.2
    assert source.closed


def test_a_stop_sends_what_the_microphone_still_holds(bundle: Bundle, recording: Any, tmp_path: Path) -> None:
    """Sound and losses that were captured and not yet a chunk when the station is stopped are committed like the rest."""
    samples, _ = soundfile.read(recording.path, dtype="int16", frames=round(recording.songs[2][0] * 48_000))
    seconds = [samples[begin : begin + 48_000].tobytes() for begin in range(0, len(samples), 48_000)]
    rest: list[bytes | Lost] = [
        np.zeros(7_001, "<i2").tobytes(),
        Lost(2_400, LossReason.DEVICE_OVERRUN),
        np.zeros(33, "<i2").tobytes(),
    ]
    source = Singing([*seconds, b""], go_on=lambda: False, rest=rest)
    source.sample_rate_hz = 48_000

    def stop_at_the_first_song(_: Heard, stop: asyncio.Event) -> None:
        stop.set()

    with ServerThread(bundle, tmp_path / "data") as server:
        account, _ = run_station(server.addresses.grpc, source, during=stop_at_the_first_song)
    assert account.captured_s == account.committed_s == (len(samples) + 7_001 + 2_400 + 33) / 48_000
    assert account.lost_s == 2_400 / 48_000
    assert source.closed


def test_ctrl_c_ends_the_session_in_order(bundle_dir: Path, recording: Any, tmp_path: Path) -> None:
    """An interrupted station commits what it has captured, prints its account and ends with status 0."""
    with ServerProcess(bundle_dir, tmp_path / "data") as server:
        command = [SONGSTREAM, "listen", str(recording.path), "--server", server.ready["address"], "--speed", "2"]
        # As if it were sung now: one with a time of its own is left open, to go on when it is played again.
        command += ["--start", "now", "--json"]
        station = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert station.stdout
        first = json.loads(station.stdout.readline())
        station.send_signal(signal.SIGINT)
        rest, errors = station.communicate(timeout=60)
    assert station.returncode == 0, errors
    account = json.loads(rest.splitlines()[-1])["account"]
    assert first["onset_s"] == recording.songs[0][0]
    assert 0 < account["captured_s"] < recording.duration_s
    assert account["captured_s"] == account["committed_s"]


def test_a_recording_that_breaks_off_is_played_to_the_break(bundle: Bundle, recording: Any, tmp_path: Path) -> None:
    """The songs before the break are committed, and the account names the problem."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(recording.path.read_bytes()[: 44 + 2 * 48_000 * 12])
    with ServerThread(bundle, tmp_path / "data") as server:
        account, heard = run_station(server.addresses.grpc, Playback(broken, speed=inf))
    assert "TRUNCATED" in account.problem
    assert account.committed_s == pytest.approx(12.0)
    whole = [song for song in recording.songs if song[1] < 11]
    assert heard.facts[: len(whole)] == whole


def test_a_station_that_is_not_let_in_asks_again(bundle: Bundle, recording: Any, tmp_path: Path) -> None:
    """With a token that the server does not know yet it waits, seldom asking, and has all of its songs in the end."""
    book, with_north = tmp_path / "tokens.json", tmp_path / "later.json"
    add_token(book, "south")
    bearer = add_token(with_north, "north")
    link = replace(QUICK, metadata=lambda: (("authorization", f"Bearer {bearer}"),), refused_retry_s=0.05)

    def let_in(heard: Heard, _: asyncio.Event) -> None:
        if len(heard.troubles) == 10 and with_north.exists():
            with_north.replace(book)

    with ServerThread(bundle, tmp_path / "data", token_file=book) as server:
        began_s = time.monotonic()
        _, heard = run_station(server.addresses.grpc, Playback(recording.path, speed=inf), during=let_in, link=link)
    assert time.monotonic() - began_s > 10 * 0.8 * 0.05
    assert [failure.reason for failure in heard.troubles] == ["TOKEN_INVALID"] * 10
    assert heard.facts == recording.songs


def test_a_station_that_is_refused_stops(bundle: Bundle, recording: Any, tmp_path: Path) -> None:
    """A setup that the server will never take raises ConfigError instead of being tried for ever."""
    with ServerThread(bundle, tmp_path / "data") as server, pytest.raises(ConfigError, match="refuses"):
        run_station(server.addresses.grpc, Playback(recording.path, speed=inf), name="NOT/A STATION")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["absent.wav"], 2, "absent.wav"),
        (["text.wav"], 1, "NOT_AUDIO"),
        (["good.wav", "--speed", "0"], 2, "speed"),
        (["good.wav", "--speed", "fast"], 2, "speed"),
        (["good.wav", "--station", "North Pole"], 2, "station"),
        (["good.wav", "--start", "yesterday"], 2, "yesterday"),
        (["good.wav", "--start", "2026-05-01T21:30"], 2, "--timezone"),
        (["good.wav", "--start", "0001-01-01T00:00+02:00"], 2, "0001"),
        (["good.wav", "--timezone", "Nowhere/Land"], 2, "Nowhere/Land"),
        (["--start", "now"], 2, "--start"),
        (["good.wav", "--channel", "2"], 1, "CHANNEL_MISSING"),
        (["--device", "no such microphone"], 1, "DEVICE_MISSING"),
    ],
)
def test_wrong_usage_is_said_at_once(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    """What cannot work ends the command with its status and a message, without a server and without a trace."""
    (tmp_path / "text.wav").write_text("battery low")
    soundfile.write(tmp_path / "good.wav", np.zeros(24_000), 24_000)
    ended = subprocess.run(
        [SONGSTREAM, "listen", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == status, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_people_are_told_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help explains the mark of novel songs, and each column of the list of microphones has a heading."""
    listed = [InputDevice("USB [Audio]", 2, 48_000, is_default=True), InputDevice("Loop", 16, 8_000, is_default=False)]
    monkeypatch.setattr("songstation.microphone.input_devices", lambda: listed)
    command = typer.Typer()
    command.command()(listen_command)
    assert "T0007?" in CliRunner().invoke(command, ["--help"]).stdout
    lines = CliRunner().invoke(command, ["--list-devices"]).stdout.splitlines()
    cells = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines if line[0] in "┃│"]
    assert cells == [
        ["device", "channels", "rate, Hz", "default"],
        ["USB [Audio]", "2", "48,000", "yes"],
        ["Loop", "16", "8,000", ""],
    ]


def test_playback_keeps_time(recording: Any) -> None:
    """Nothing is played before it is due: chunks at sixteen times the speed take at least a sixteenth of the time."""

    async def play() -> list[float]:
        source = Playback(recording.path, speed=16, chunk_s=0.5)
        began = time.monotonic()
        due = [time.monotonic() - began async for _ in source.chunks()]
        source.close()
        return due

    times = asyncio.run(play())
    assert all(at >= 0.5 * number / 16 - 0.001 for number, at in enumerate(times[:-1], start=1))


def test_session_ids_sort_by_time() -> None:
    """Session UUIDs are version 7, hold their time and do not repeat."""
    rng = Random(3)
    first, second = uuid7(START, rng), uuid7(START, rng)
    later = uuid7(START.replace(year=2025), rng)
    assert (first.version, first.variant) == (7, "specified in RFC 4122")
    assert first != second
    assert max(first, second) < later
    assert first.int >> 80 == int(START.timestamp() * 1000)
