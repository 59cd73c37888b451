"""Recordings played to a real server more than once: whatever breaks in between, each sample counts once."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile

from serving import ServerProcess, ServerThread
from songcore.bundle import Bundle
from songcore.errors import InputError
from songserve.v1 import songs_pb2, songs_pb2_grpc
from songstation.channel import Channel
from songstation.link import LinkSettings
from songstation.listening import Account, Station, listen
from songstation.outbox import End, Leave, Outbox, SessionBrokenError, Sound
from songstation.sources import HASHED_BYTES, Lost, Playback
from songstation.wire import HeardSong
from tokens import add_token

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
QUICK = LinkSettings(answer_s=20, heartbeat_s=0.2, first_retry_s=0.05, longest_retry_s=0.5)


def command(path: Path, address: str, *options: str) -> list[str]:
    """Return the words of `songstream listen` for a recording of the station north."""
    return [SONGSTREAM, "listen", str(path), "--server", address, "--station", "north", "--json", *options]


def play(path: Path, address: str, *options: str) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """Play a recording to its end; return songs, account and what was said on standard error."""
    ended = subprocess.run(command(path, address, *options), capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    *songs, last = map(json.loads, ended.stdout.splitlines())
    return songs, last["account"], " ".join(ended.stderr.split())


def stored(channel: grpc.Channel) -> tuple[list[tuple[Any, ...]], list[tuple[str, float]]]:
    """Return what a server has: every song, its name and its place, and the seconds that stations recorded."""
    stub = songs_pb2_grpc.SongServiceStub(channel)
    page = stub.ListSongs(songs_pb2.ListSongsRequest(include_noise=True, page_size=500))
    buckets = stub.QueryFrequencies(songs_pb2.QueryFrequenciesRequest()).buckets
    songs = [
        (song.name, song.session, song.start_time.ToMilliseconds(), song.onset_sample, song.offset_sample,
         song.song_type, song.is_novel, song.similarity, song.p_value)
        for song in page.songs
    ]  # fmt: skip
    # The sum of what the commits add, in whatever parts.
    return sorted(songs), [(bucket.station, round(bucket.recorded_s, 3)) for bucket in buckets]


@pytest.fixture(scope="module")
def undisturbed(bundle: Bundle, recording: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what a server has after one run of the recording."""
    with ServerThread(bundle, tmp_path_factory.mktemp("undisturbed")) as server:
        _, account, errors = play(recording.path, server.addresses.grpc, "--speed", "max")
        songs, effort = stored(server.channel)
    assert (account["had_s"], account["had_all"], account["is_left"], errors) == (0, False, False, "")
    assert len(songs) == len(recording.songs)
    return songs, effort


def test_played_twice_it_counts_once(bundle: Bundle, recording: Any, tmp_path: Path, undisturbed: Any) -> None:
    """The second run of a recording, in other chunks and under another name of its folder, sends nothing and says so."""
    elsewhere = tmp_path / recording.path.name
    shutil.copy(recording.path, elsewhere)
    with ServerThread(bundle, tmp_path / "data") as server:
        play(recording.path, server.addresses.grpc, "--speed", "max")
        began_s = time.monotonic()
        songs, account, _ = play(elsewhere, server.addresses.grpc, "--speed", "1", "--chunk-s", "0.3")
        people = subprocess.run(
            [word for word in command(recording.path, server.addresses.grpc) if word != "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert time.monotonic() - began_s < recording.duration_s  # not at the speed of the recording
        assert stored(server.channel) == undisturbed
    assert songs == []
    assert account["had_all"]
    assert account["had_s"] == account["captured_s"] == account["committed_s"] == pytest.approx(recording.duration_s)
    assert people.returncode == 0
    assert (
        people.stdout
        == f"the server has this recording already, {recording.duration_s:.1f} s of it; nothing was sent\n"
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_goes_on(
    bundle: Bundle, recording: Any, tmp_path: Path, undisturbed: Any, number: signal.Signals
) -> None:
    """Killed or stopped and played again in other chunks, each more than once, it leaves the rows of one run."""
    with ServerThread(bundle, tmp_path / "data") as server:
        for n_songs, chunk_s in ((2, "0.5"), (1, "0.37")):
            station = subprocess.Popen(
                command(recording.path, server.addresses.grpc, "--speed", "8", "--chunk-s", chunk_s),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert station.stdout
            for _ in range(n_songs):
                station.stdout.readline()
            station.send_signal(number)
            rest, errors = station.communicate(timeout=60)
            if number != signal.SIGKILL:
                assert station.returncode == 0, errors
                account = json.loads(rest.splitlines()[-1])["account"]
                assert account["is_left"]
                assert 0 < account["committed_s"] <= account["captured_s"] < recording.duration_s
        assert 3 <= len(stored(server.channel)[0]) < len(recording.songs)
        songs, account, _ = play(recording.path, server.addresses.grpc, "--speed", "max", "--chunk-s", "1.1")
        assert stored(server.channel) == undisturbed
    assert 0 < account["had_s"] < recording.duration_s
    assert account["captured_s"] == account["committed_s"] == pytest.approx(recording.duration_s)
    assert 0 < len(songs) == account["n_songs"] <= len(recording.songs) - 3


def test_what_a_recording_s_session_stands_for(recording: Any, tmp_path: Path) -> None:
    """Another station, start, channel, rate or content is another session; speed, chunks and the zone's form are not."""
    start = datetime(2024, 5, 1, 3, 30, tzinfo=UTC)

    def session(path: Path = recording.path, station: str = "north", **options: Any) -> Any:
        source = Playback(path, **options)
        source.close()
        return source.session(station)

    same = session()
    assert same == session(speed=8, chunk_s=2)
    assert same == session(start=start) == session(start=start.astimezone(timezone(timedelta(hours=2))))
    path = tmp_path / "20240501_053000.wav"
    shutil.copy(recording.path, path)
    samples, rate = soundfile.read(recording.path, dtype="int16")
    changed, slower = tmp_path / recording.path.name, tmp_path / "slower.wav"
    samples[-1] ^= 1
    soundfile.write(changed, samples, rate, subtype="PCM_16")
    soundfile.write(slower, samples, rate // 2, subtype="PCM_16")
    assert changed.stat().st_size == recording.path.stat().st_size > 2 * HASHED_BYTES
    others = [
        session(station="south"),
        session(start=start + timedelta(milliseconds=1)),
        session(channel=1),
        session(path),
        session(changed),
        session(slower, start=start),
    ]
    assert None not in others
    assert len({same, *others}) == 1 + len(others)
    assert session(start="now") is None
    plain = tmp_path / "night.wav"
    shutil.copy(recording.path, plain)
    assert session(plain) is None


def test_another_station_or_start_counts_anew(bundle: Bundle, tmp_path: Path) -> None:
    """The same file of two stations, and of another start, is three sessions, each with the time that was said."""
    path = tmp_path / "night_20260501_213000.wav"
    soundfile.write(path, np.random.default_rng(5).normal(0, 0.01, 2 * 24_000), 24_000)
    with ServerThread(bundle, tmp_path / "data") as server:
        for options in (
            ["--timezone", "Europe/Berlin"],
            ["--timezone", "Europe/Berlin", "--station", "south"],
            ["--start", "2026-05-01T19:30:00Z"],  # as the first
            ["--start", "2026-05-01T23:30", "--timezone", "+02:00"],
        ):
            _, account, errors = play(path, server.addresses.grpc, "--speed", "max", *options)
            assert account["had_all"] == (options == ["--start", "2026-05-01T19:30:00Z"])
            assert errors == ""
        _, effort = stored(server.channel)
    assert effort == [("stations/north", 4.0), ("stations/south", 2.0)]


def test_a_time_that_the_zone_skips_is_told(bundle: Bundle, tmp_path: Path) -> None:
    """Whether the name says it or --start, a local time within the step to summer time is warned of, and played."""
    path = tmp_path / "SM4_20260329_023000.wav"
    soundfile.write(path, np.random.default_rng(5).normal(0, 0.01, 24_000), 24_000)
    with ServerThread(bundle, tmp_path / "data") as server:
        for options, is_told in (
            (["--timezone", "Europe/Berlin"], True),
            (["--timezone", "Europe/Berlin", "--start", "2026-03-29T02:30"], True),
            (["--timezone", "+01:00"], False),
        ):
            _, _, errors = play(path, server.addresses.grpc, "--speed", "max", *options)
            assert ("2026-03-29 02:30:00 is a time that --timezone Europe/Berlin does not have" in errors) == is_told
            assert is_told or errors == ""
        _, effort = stored(server.channel)
    assert effort == [("stations/north", 1.0)]


def test_a_recording_of_unknown_start_is_said_to_be_sung_now(bundle: Bundle, tmp_path: Path) -> None:
    """Faster than it was sung, or with a time without a zone, it is played with a warning; not when now is asked for."""
    night, local = tmp_path / "night.wav", tmp_path / "night_20260501_213000.wav"
    for path in (night, local):
        soundfile.write(path, np.random.default_rng(5).normal(0, 0.01, 24_000), 24_000)
    with ServerThread(bundle, tmp_path / "data") as server:
        address = server.addresses.grpc
        _, account, errors = play(night, address, "--speed", "max")
        assert "it tells no time" in errors
        assert "--start" in errors
        assert not account["had_all"]
        _, _, errors = play(local, address)
        assert "2026-05-01 21:30:00 tells no zone: say --timezone" in errors
        assert play(night, address)[2] == ""
        assert play(night, address, "--speed", "8", "--start", "now")[2] == ""
        assert play(local, address, "--start", "now")[2] == ""
        assert stored(server.channel)[1] == [("stations/north", 5.0)]


@pytest.mark.parametrize("options", [[], ["--start", "now", "--speed", "max"]])
def test_without_a_server_a_stop_ends_at_once(recording: Any, options: list[str]) -> None:
    """SIGTERM before any server was reached is not answered by going on asking, and the exit status says so."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        station = subprocess.Popen(
            command(recording.path, address, *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "500"},
        )
        assert station.stderr
        assert "trying again" in station.stderr.readline() + station.stderr.readline()
        station.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        out, errors = station.communicate(timeout=30)
    assert time.monotonic() - began_s < 5
    assert station.returncode == 1
    assert "SERVER_UNREACHABLE" in errors
    account = json.loads(out)["account"]
    assert account["committed_s"] == 0
    assert (account["captured_s"] > 0) == bool(options)


def test_a_stop_after_a_refusal_tells_it(bundle: Bundle, recording: Any, tmp_path: Path) -> None:
    """A server that was reached and let nobody in is not called unreached."""
    book, token = tmp_path / "tokens.json", tmp_path / "token"
    token.write_text(add_token(book, "south"))
    token.chmod(0o600)
    with ServerThread(bundle, tmp_path / "data", token_file=book) as server:
        station = subprocess.Popen(
            command(recording.path, server.addresses.grpc),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "500", "SONGSTREAM_TOKEN_FILE": str(token)},
        )
        assert station.stderr
        while "trying again" not in (said := station.stderr.readline()):
            assert said
        station.send_signal(signal.SIGTERM)
        _, errors = station.communicate(timeout=30)
    last = errors.splitlines()[-1]
    assert f"stopped before {server.addresses.grpc} let it in" in last
    assert "[STATION_MISMATCH]" in last
    assert last.endswith("[SERVER_UNREACHABLE]")


def test_a_recording_that_cannot_be_read_on_may_be_played_again(
    bundle: Bundle, recording: Any, tmp_path: Path, undisturbed: Any
) -> None:
    """A disk that fails in the middle ends the run and not the session: read again, the rest is sent."""

    class Failing(Playback):
        async def chunks(self) -> AsyncIterator[bytes | Lost]:
            """Fail at a third of the recording."""
            n_left = self.n_samples // 3
            async for chunk in super().chunks():
                n_left -= len(chunk) // 2 if isinstance(chunk, bytes) else 0
                if n_left < 0:
                    raise InputError("the card did not answer", reason="TRUNCATED")
                yield chunk

    with ServerThread(bundle, tmp_path / "data") as server:
        first, _ = run(server.addresses.grpc, Failing(recording.path, speed=inf))
        second, _ = run(server.addresses.grpc, Playback(recording.path, speed=inf))
        assert stored(server.channel) == undisturbed
    assert "the card did not answer" in first.problem
    assert first.is_left
    assert not second.had_all
    assert 0 < second.had_s == first.committed_s < recording.duration_s / 2
    assert second.committed_s == pytest.approx(recording.duration_s)


def test_a_stop_does_not_wait_for_a_server_that_went(bundle_dir: Path, recording: Any, tmp_path: Path) -> None:
    """What is safe in a file keeps nobody waiting for a server that was there and is away."""
    address = free_address()
    server = ServerProcess(bundle_dir, tmp_path / "data", "--listen", address).__enter__()

    def leave(songs: list[HeardSong], stop: asyncio.Event) -> None:
        if len(songs) == 1:
            server.process.kill()
            asyncio.get_running_loop().call_later(1.0, stop.set)

    began_s = time.monotonic()
    account, _ = run(address, Playback(recording.path, speed=4), leave, link=replace(QUICK, answer_s=1.0))
    assert time.monotonic() - began_s < recording.duration_s
    server.process.communicate()
    assert account.is_left
    assert account.committed_s < account.captured_s < recording.duration_s


def free_address() -> str:
    """Return an address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def run(
    address: str,
    source: Playback,
    during: Callable[[list[HeardSong], asyncio.Event], Any] = lambda *_: None,
    *,
    link: LinkSettings = QUICK,
) -> tuple[Account, list[HeardSong]]:
    """Play a recording in this process; ``during`` is called at every song."""
    songs: list[HeardSong] = []

    async def main() -> Account:
        stop = asyncio.Event()

        def on_song(song: HeardSong) -> None:
            songs.append(song)
            during(songs, stop)

        async with Channel(address) as channel:
            playing = listen(
                channel,
                source,
                Station("north", "test", 10**8, link),
                rng=Random(1),
                now=lambda: datetime.now(UTC),
                stop=stop,
                on_song=on_song,
                on_trouble=lambda *_: None,
            )
            return await asyncio.wait_for(playing, 60)

    return asyncio.run(main()), songs


def test_a_reconnect_tells_only_songs_of_this_run(
    bundle_dir: Path, recording: Any, tmp_path: Path, undisturbed: Any
) -> None:
    """A run that goes on and loses its server tells each song behind its begin once, and none that was told before."""
    address = free_address()
    servers = [ServerProcess(bundle_dir, tmp_path / "data", "--listen", address).__enter__()]

    def stop_at_three(songs: list[HeardSong], stop: asyncio.Event) -> None:
        if len(songs) == 3:
            stop.set()

    def change_servers(songs: list[HeardSong], _: asyncio.Event) -> None:
        if len(songs) == 2 and len(servers) == 1:
            servers[0].__exit__(None, None, None)
            servers.append(ServerProcess(bundle_dir, tmp_path / "data", "--listen", address))

    try:
        first, before = run(address, Playback(recording.path, speed=8), stop_at_three)
        second, behind = run(address, Playback(recording.path, speed=8, chunk_s=0.4), change_servers)
        assert stored(servers[1].__enter__().channel) == undisturbed
    finally:
        for server in servers:
            server.process.kill()
            server.process.communicate()
    assert first.is_left
    assert second.had_s == first.committed_s
    assert second.n_streams > 1
    told = [song.name for song in before + behind]
    assert len(set(told)) == len(told)
    # What was committed as a link broke may be told by neither.
    assert len(recording.songs) - 1 <= len(told) <= len(recording.songs)


def test_a_server_that_lost_the_session_gets_no_second_one(bundle_dir: Path, recording: Any, tmp_path: Path) -> None:
    """The database gone in the middle, the run ends with what to do, declares nothing lost, and the next run sends all."""
    address = free_address()
    servers = [ServerProcess(bundle_dir, tmp_path / "data", "--listen", address).__enter__()]

    def change_databases(songs: list[HeardSong], _: asyncio.Event) -> None:
        if len(songs) == 2:
            servers[0].__exit__(None, None, None)
            servers.append(ServerProcess(bundle_dir, tmp_path / "other", "--listen", address))

    try:
        with pytest.raises(SessionBrokenError, match="play the recording again"):
            run(address, Playback(recording.path, speed=8), change_databases)
        account, _ = run(address, Playback(recording.path, speed=inf))
        assert (account.had_s, account.lost_s) == (0, 0)
        assert account.committed_s == pytest.approx(recording.duration_s)
        ((_, recorded_s),) = stored(servers[1].__enter__().channel)[1]
        assert recorded_s == pytest.approx(recording.duration_s, abs=1e-3)
    finally:
        for server in servers:
            server.process.kill()
            server.process.communicate()


def test_an_outbox_takes_a_session_up_where_the_server_is() -> None:
    """Numbers and samples go on from the server's, an end or a leave closes, and nothing that it had is declared lost."""
    outbox = Outbox(max_bytes=100, max_loss_samples=50, joins=True)
    assert outbox.first_available == (1, 0)
    outbox.opened(expected=4, committed_sample=30, window=9)
    assert (outbox.n_joined, outbox.n_captured, outbox.n_committed, outbox.n_lost) == (30, 30, 30, 0)
    assert outbox.offer(b"abcdefg", 7)
    assert outbox.next() == Sound(4, 30, 7, b"abcdefg")
    outbox.leave()
    assert outbox.next() == Leave()
    assert outbox.left
    outbox.closed()
    assert not outbox.left  # asked for again on each stream
    outbox.opened(expected=4, committed_sample=30, window=9)
    assert [outbox.next(), outbox.next()] == [Sound(4, 30, 7, b"abcdefg"), Leave()]
    outbox.acknowledged(received=4, committed=4)
    assert outbox.n_held == 0
    outbox.closed()
    with pytest.raises(SessionBrokenError):
        outbox.opened(expected=4, committed_sample=30, window=9)
    assert outbox.n_lost == 0


def test_an_outbox_ends_a_session_that_was_finished() -> None:
    """What the server has finished is told to it once more, as its account, and that is all."""
    outbox = Outbox(max_bytes=100, max_loss_samples=50, joins=True)
    outbox.opened(expected=4, committed_sample=30, window=9, finished=True)
    assert outbox.had_all
    outbox.end()
    assert outbox.next() == End(3, 30)
    outbox.acknowledged(received=3, committed=3, finished=True)
    assert outbox.finished
    assert (outbox.n_captured, outbox.n_committed) == (30, 30)
