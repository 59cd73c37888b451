"""`songstream songs` against a real server: what it lists, follows and exports is what the server has stored."""

import csv
import json
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from bundles import soundscape
from serving import START_MS, ServerThread, session_name, setup, stream_all
from songcore.annotations import read_songs_csv
from songcore.audacity import read_audacity
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songcore.raven import read_raven
from songserve.clients.connection import Connection, Server
from songserve.clients.songs import SongClient, Wanted
from songserve.commands.songs import _line, songs
from songserve.commands.types import types
from songserve.exporting import fetch_clips
from songserve.v1 import songs_pb2, songs_pb2_grpc
from tokens import add_token

RATE = 24_000
DAY_MS = 86_400_000
NORTH, SOUTH = soundscape([0, 1, 2, 3, 4, 0, 0], 31)[0], soundscape([5, 0, 1, 5], 33)[0]
SONGSTREAM = str(Path(sys.executable).with_name("songstream"))


def later(day: int) -> Any:
    """Return the setup of a session of the northern station, so many days less one after the first."""
    return setup(session_name("north", day), start_ms=START_MS + (day - 1) * DAY_MS)


def fill(server: ServerThread) -> ServerThread:
    """Stream seven known songs of a station and, from a day later, two known and two novel ones of another."""
    stream_all(server.channel, NORTH, [RATE], setup(session_name("north", 1)))
    stream_all(server.channel, SOUTH, [RATE], setup(session_name("south", 2), start_ms=START_MS + DAY_MS))
    return server


@pytest.fixture(scope="module")
def filled(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """Return a server with eleven songs, for tests that change nothing."""
    with ServerThread(bundle, tmp_path_factory.mktemp("filled")) as server:
        yield fill(server)


@pytest.fixture
def heard(server: ServerThread) -> ServerThread:
    """Return a server with the same songs, for tests that decide."""
    return fill(server)


def invoke(server: ServerThread, *arguments: str, options: tuple[str, ...] = (), command: Any = songs) -> Any:
    """Run a sub-command."""
    return CliRunner().invoke(
        command, ["--server", server.addresses.grpc, *options, *arguments], env={"COLUMNS": "200"}
    )


def said(server: ServerThread, *arguments: str, **more: Any) -> str:
    """Run a sub-command and return what it prints."""
    result = invoke(server, *arguments, **more)
    assert result.exit_code == 0, result.output
    text: str = result.stdout
    return text


def listed(server: ServerThread, *arguments: str) -> list[dict[str, Any]]:
    """List songs as a program does."""
    return [json.loads(line) for line in said(server, "list", *arguments, "--json").splitlines()]


def exported(server: ServerThread, out: Path, *arguments: str) -> dict[str, Any]:
    """Export songs and return what the command says of it."""
    told: dict[str, Any] = json.loads(said(server, "export", "--out", str(out), *arguments, "--json"))
    return told


def refused(server: ServerThread, *arguments: str) -> str:
    """Run a sub-command and return the reason why it fails."""
    error = invoke(server, *arguments).exception
    return str(getattr(error, "reason", repr(error)))


def rows(out: Path) -> list[dict[str, str]]:
    """Return the rows of an export's songs.csv."""
    with (out / "songs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_songs_are_listed_newest_first(filled: ServerThread) -> None:
    """A line a song holds all that is known of it; times are UTC and fit the seconds from the session's start."""
    found = listed(filled)
    assert [one["station"] for one in found] == ["south"] * 4 + ["north"] * 7
    starts = [datetime.fromisoformat(one["start"]) for one in found]
    assert starts == sorted(starts, reverse=True)
    for one, start in zip(found, starts, strict=True):
        session_start = datetime.fromtimestamp(START_MS / 1000 + (one["station"] == "south") * 86_400, UTC)
        assert datetime.fromisoformat(one["session_start"]) == session_start
        assert abs(session_start + timedelta(seconds=one["onset_s"]) - start) <= timedelta(milliseconds=1)
        assert round(one["offset_s"] - one["onset_s"], 9) == one["duration_s"] > 1
    assert [one["is_novel"] for one in found] == [True, False, False, True] + [False] * 7
    assert {one["quality"] for one in found} == {"good"}


def test_filters_choose_songs(filled: ServerThread) -> None:
    """Stations, times, types, novelty and the pool narrow the list, several stations and types widen it."""
    everything = listed(filled)

    def uids(*arguments: str) -> list[str]:
        return [one["uid"] for one in listed(filled, *arguments)]

    def expected(keep: Any) -> list[str]:
        return [one["uid"] for one in everything if keep(one)]

    assert uids("--station", "north") == expected(lambda one: one["station"] == "north")
    assert uids("--station", "north", "--station", "south", "--station", "north") == expected(lambda _: True)
    assert uids("--type", "t0001") == expected(lambda one: one["type"] == "T0001") != []
    two = expected(lambda one: one["type"] in {"T0001", "T0003"} and not one["is_novel"])
    assert uids("--type", "T0001", "--type", "T0003") == two
    novel = expected(lambda one: one["is_novel"])
    assert uids("--novel") == novel == uids("--pool")
    near = everything[0]["type"]
    assert uids("--novel", "--type", near) == expected(lambda one: one["is_novel"] and one["type"] == near) != []
    assert uids("--novel", "--type", "T0001") == []
    north = expected(lambda one: one["station"] == "north")
    assert uids("--to", "2026-05-29") == north
    assert uids("--from", "2026-05-28T22:26:40+02:00", "--to", "2026-05-29T00:00:00Z") == north
    assert uids("--from", "2026-05-29T00:00") == expected(lambda one: one["station"] == "south")
    assert uids("--limit", "3") == expected(lambda _: True)[:3]
    assert said(filled, "list", "--novel", "--uids").split() == novel


def test_people_read_a_table(filled: ServerThread) -> None:
    """A table says when, where, what and how sure, in full uids, and that there is more than it shows."""
    text = said(filled, "list", "--limit", "4")
    first, *_ = listed(filled)
    assert first["uid"] in text
    assert f"novel, near {first['type']}" in text
    assert "the newest 4" in text
    assert text.count("2026-05-29") == 4
    assert "the newest" not in said(filled, "list")


def test_a_table_is_read_at_80_columns(filled: ServerThread) -> None:
    """No word is cut, no line is longer, uids are whole and stand below the rest of their song; one in a pipe is a line."""
    terminal = {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}
    arguments = ["--server", filled.addresses.grpc, "list"]
    lines = CliRunner().invoke(songs, arguments, env=terminal).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    found = listed(filled)
    _, first, second, *rest = lines
    assert (first.split()[:3], second.split()[-1]) == (["start,", "UTC", "station"], "song")
    assert len(rest) == 2 * len(found)
    for one, upper, lower in zip(found, rest[::2], rest[1::2], strict=True):
        start = datetime.fromisoformat(one["start"])
        assert upper.startswith(f"{start:%Y-%m-%d %H:%M:%S}  {one['station']} ")
        assert (lower[:2], lower.split()[-1], one["quality"] in lower.split()) == ("  ", one["uid"], True)
    piped = CliRunner().invoke(songs, arguments, env={"COLUMNS": "80"}).stdout.splitlines()
    assert sum(one["uid"] in line and one["station"] in line for one in found for line in piped) == len(found)


def test_the_numbers_of_a_watch_say_what_they_are(filled: ServerThread) -> None:
    """There is no heading over a song that comes in."""
    with Connection(Server(filled.addresses.grpc)) as connection:
        one = next(SongClient(connection).songs(Wanted()))
    line = _line(one, {})
    assert f"  similarity {one.similarity:.3f}  p {one.p_value:.3f}  " in line
    assert line.endswith(f"  {one.duration_s:.2f} s  {one.uid}")


def test_numbers_for_programs_have_no_noise(filled: ServerThread) -> None:
    """A difference of seconds is what a person would write."""
    for line in said(filled, "list", "--json").splitlines():
        (told,) = re.findall(r'"duration_s": ([\d.]+)', line)
        assert len(told.partition(".")[2]) <= 11, told


def test_novel_songs_are_split_off_and_found_again(heard: ServerThread) -> None:
    """The list's uids go into a split; then the songs are of that type, by its name too, and the model's word stands."""
    (near,) = {one["type"] for one in listed(heard, "--novel")}
    assert "novel songs, of no type yet: 2" in said(heard, "list", command=types)
    uids = said(heard, "list", "--novel", "--type", near, "--uids")
    address = ["--server", heard.addresses.grpc]
    split = CliRunner().invoke(types, [*address, "split", near.lower(), "--from", "-", "--by", "ada"], input=uids)
    assert split.exit_code == 0, split.output
    said(heard, "name", "p0001", "[red] whistle", "--by", "ada", command=types)
    assert "novel songs, of no type yet: 0" in said(heard, "list", command=types)
    assert listed(heard, "--novel") == []
    found = listed(heard, "--type", "[RED] Whistle")
    assert sorted(one["uid"] for one in found) == sorted(uids.split())
    assert [(one["type"], one["type_name"], one["is_novel"], one["by_people"]) for one in found] == [
        ("P0001", "[red] whistle", False, True)
    ] * 2
    assert [(one["model_type"], one["novelty"]) for one in found] == [(near, "novel")] * 2
    assert f"P0001 [red] whistle (model: {near})" in said(heard, "list")
    said(heard, "merge", "P0001", "--into", "T0001", "--by", "ada", command=types)
    assert listed(heard, "--type", "P0001") == listed(heard, "--type", "T0001")
    before = len(listed(heard))
    said(heard, "noise", "T0001", "--by", "ada", command=types)
    assert len(listed(heard)) == before - len(listed(heard, "--type", "T0001")) < before
    assert len(listed(heard, "--noise")) == before
    assert "(noise, model: T0001)" in said(heard, "list", "--noise")


def test_novel_is_no_type(filled: ServerThread) -> None:
    """Who asks for the type *novel* is told where such songs are."""
    for command, arguments in ((types, ("show", "novel")), (songs, ("list", "--type", "novel"))):
        error = invoke(filled, *arguments, command=command).exception
        assert error.reason == "TYPE_UNKNOWN"
        assert "songs list --novel" in str(error)


def test_an_export_has_all_that_is_known(filled: ServerThread, tmp_path: Path) -> None:
    """songs.csv holds each song once, in order of time, with the values that the list has, and the project reads it."""
    out = tmp_path / "new" / "folder"
    told = exported(filled, out)
    assert (told["n_songs"], told["clips"], told["files"]) == (11, None, [str(out / "songs.csv")])
    expected = list(reversed(listed(filled)))
    found = rows(out)
    assert [row["uid"] for row in found] == [one["uid"] for one in expected]
    for row, one in zip(found, expected, strict=True):
        assert datetime.fromisoformat(row["onset_utc"]) == datetime.fromisoformat(one["start"])
        assert datetime.fromisoformat(row["offset_utc"]) == datetime.fromisoformat(one["end"])
        figures = ("onset_s", "offset_s", "similarity", "novelty_score", "p_value", "snr_db")
        assert [float(row[name]) for name in figures] == pytest.approx([one[name] for name in figures], abs=1e-6)
        words = ("station", "session", "kind", "novelty", "quality", "bundle")
        assert [row[name] for name in words] == [one[name] for name in words]
        assert (row["type_id"], row["model_type_id"]) == (one["type"], one["model_type"])
        assert (row["novel"], row["label"]) == (("true", "novel") if one["is_novel"] else ("false", one["type"]))
        assert (row["forced_cut"], row["by_people"], row["clip"]) == ("false", "false", "")
    with (out / "songs.csv").open(newline="") as file:
        assert [song.label for song in read_songs_csv(file)] == [row["label"] for row in found]
    assert exported(filled, out, "--novel", "--limit", "1")["n_songs"] == 1
    assert [row["uid"] for row in rows(out)] == [expected[-1]["uid"]]


def test_raven_opens_each_clip_at_its_song(filled: ServerThread, tmp_path: Path) -> None:
    """One table over all clips: by path and offset each selection is its song's sound, by accumulated time too."""
    out = tmp_path / "two  blanks"
    told = exported(filled, out, "--format", "csv,raven", "--clips")
    assert told["clips"] == {"fetched": 11, "there": 0, "gone": 0, "elsewhere": 0, "damaged": 0}
    with (out / "clips.selections.txt").open(newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        file.seek(0)
        selections = read_raven(file)
    by_uid = {row["uid"]: row for row in rows(out)}
    sounds = {"north": NORTH, "south": SOUTH}
    assert {one.more["uid"] for one in selections} == set(by_uid)
    passed_s = 0.0
    for line, one in zip(table, selections, strict=True):
        row = by_uid[one.more["uid"]]
        start = datetime.fromisoformat(row["onset_utc"])
        assert row["clip"] == f"clips/{row['station']}/{start:%Y%m%d}/{start:%H%M%S}_{row['uid']}.flac"
        assert one.recording == str(out / row["clip"])
        assert one.label == row["label"]
        assert (one.low_hz, one.high_hz) == (0, RATE / 2)
        samples, rate = soundfile.read(one.recording, dtype="float32")
        first, last = round(one.onset_s * rate), round(one.offset_s * rate)
        sung = sounds[row["station"]][round(float(row["onset_s"]) * rate) :][: last - first]
        np.testing.assert_allclose(samples[first:last], sung, atol=1 / 30_000)
        assert float(line["Begin Time (s)"]) == pytest.approx(passed_s + one.onset_s, abs=1e-5)
        passed_s += len(samples) / rate
    assert [one.recording for one in selections] == sorted(one.recording for one in selections)


def test_audacity_has_a_track_for_each_session(filled: ServerThread, tmp_path: Path) -> None:
    """Labels count from the session's start, with or without clips."""
    told = exported(filled, tmp_path, "--format", "audacity")
    assert len(told["files"]) == 2
    expected = list(reversed(listed(filled)))
    for file, station, day in zip(sorted(told["files"]), ("north", "south"), (28, 29), strict=True):
        session = next(one["session"] for one in expected if one["station"] == station)
        assert Path(file) == tmp_path / "audacity" / station / f"202605{day}_202640_{session}.labels.txt"
        with Path(file).open() as track:
            labels = [(one.onset_s, one.offset_s, one.label) for one in read_audacity(track)]
        assert labels == [
            (one["onset_s"], one["offset_s"], "novel" if one["is_novel"] else one["type"])
            for one in expected
            if one["station"] == station
        ]
    assert not (tmp_path / "songs.csv").exists()


def test_an_export_goes_on_and_counts_what_retention_took(bundle: Bundle, tmp_path: Path) -> None:
    """What is there is not fetched again, a damaged file is; clips that the server has deleted since are counted."""
    data, out = tmp_path / "data", tmp_path / "out"
    with ServerThread(bundle, data) as server:
        fill(server)
        assert exported(server, out, "--clips", "--limit", "3")["clips"]["fetched"] == 3
        kept = sorted(out.glob("clips/*/*/*.flac"))
        times = [file.stat().st_mtime_ns for file in kept]
        kept[0].write_bytes(b"half a clip")
        assert exported(server, out, "--clips", "--limit", "4")["clips"] == {
            "fetched": 2,
            "there": 2,
            "gone": 0,
            "elsewhere": 0,
            "damaged": 0,
        }
        assert [file.stat().st_mtime_ns == before for file, before in zip(kept, times, strict=True)] == [
            False,
            True,
            True,
        ]
    with ServerThread(bundle, data, clip_days=1) as server:
        deadline = time.monotonic() + 30
        while list(data.glob("clips/*/*/*.flac")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert exported(server, out, "--clips")["clips"] == {
            "fetched": 0,
            "there": 4,
            "gone": 7,
            "elsewhere": 0,
            "damaged": 0,
        }
        text = said(server, "export", "--out", str(out), "--clips", "--format", "raven")
    assert "7 clips not kept by the server, or deleted since" in text
    assert "4 clips there from an earlier run" in text
    assert sum(bool(row["clip"]) for row in rows(out)) == 4
    with (out / "clips.selections.txt").open() as file:
        assert len(read_raven(file)) == 4


def test_what_is_no_clip_is_counted(filled: ServerThread, tmp_path: Path) -> None:
    """Bytes that are no sound file are kept nowhere."""
    with Connection(Server(filled.addresses.grpc)) as connection:
        found = list(SongClient(connection).songs(Wanted(stations=("south",))))
    seen: list[str] = []
    clips, outcomes = fetch_clips(tmp_path, found, lambda _: b"fLaC but no more", seen.append)
    assert (clips, dict(outcomes), seen) == ({}, {"damaged": 4}, ["damaged"] * 4)
    assert list(tmp_path.rglob("*.flac")) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("list", "--station", "nort"), "STATION_UNKNOWN"),
        (("list", "--type", "T0999"), "TYPE_UNKNOWN"),
        (("list", "--type", "no such name"), "TYPE_UNKNOWN"),
        # As an unset variable of a shell gives it; the types of the test bundle have no names.
        (("export", "--out", "OUT", "--type", ""), "NAME_INVALID"),
        (("list", "--watch", "--type", " "), "NAME_INVALID"),
        (("export", "--out", "OUT", "--station", "nort"), "STATION_UNKNOWN"),
        (("export", "--out", "/proc/songs"), "OUTPUT_NOT_WRITABLE"),
        (("list", "--watch", "--resume", "/proc/songs"), "OUTPUT_NOT_WRITABLE"),
    ],
)
def test_what_cannot_be_done_has_a_reason(
    filled: ServerThread, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    """Unknown stations and types, and places that take no files, end with their reason."""
    assert refused(filled, *(str(tmp_path) if one == "OUT" else one for one in arguments)) == reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "--from", "yesterday"), "is no time"),
        (("list", "--to", "0001-01-01T00:00+14:00"), "is no time"),
        (("list", "--from", "2026-05-02", "--to", "2026-05-02"), "is not before"),
        (("list", "--watch", "--limit", "3"), "stored songs"),
        (("list", "--resume", "token"), "--watch only"),
        (("list", "--uids", "--json"), "not both"),
        (("export", "--out", "OUT", "--format", "csv,xls"), "unknown format 'xls'"),
        (("export", "--out", "OUT", "--format", ","), "expected any of csv"),
        (("export", "--out", "OUT", "--format", "raven"), "give --clips"),
        (("export",), "--out"),
    ],
)
def test_wrong_usage_is_explained(filled: ServerThread, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Options that make no sense end with exit code 2, before the server is asked or a folder made."""
    out = tmp_path / "out"
    result = invoke(filled, *(str(out) if one == "OUT" else one for one in arguments))
    assert result.exit_code == 2
    assert words in result.stderr
    assert not out.exists()


def test_without_a_server_or_a_right_there_is_a_reason(start_server: Any, tmp_path: Path) -> None:
    """A port where nobody listens and a token of another role end with one line; a reader may export."""
    for arguments in (["list"], ["list", "--watch"], ["export", "--out", str(tmp_path / "out")]):
        result = CliRunner().invoke(songs, ["--server", "127.0.0.1:1", *arguments])
        assert getattr(result.exception, "reason", None) == "SERVER_UNREACHABLE"
    book = tmp_path / "tokens.json"
    options = {}
    for name, role in (("rita", "read"), ("north", "ingest")):
        file = tmp_path / name
        file.write_text(add_token(book, name, role))
        file.chmod(0o600)
        options[name] = ("--token-file", str(file))
    server = start_server(token_file=book)
    denied = invoke(server, "list", options=options["north"]).exception
    assert getattr(denied, "reason", None) == "ROLE_MISSING"
    assert said(server, "list", "--json", options=options["rita"]) == ""
    assert "0 songs" in said(server, "export", "--out", str(tmp_path / "out"), options=options["rita"])
    assert rows(tmp_path / "out") == []


class Watch:
    """``songstream songs list --watch --json`` as a process; its lines and how it ends at Ctrl-C, or with the block."""

    def __init__(self, address: str, *arguments: str) -> None:
        # Of what runs in a shell's background Ctrl-C is ignored, and whatever it starts inherits that. A `preexec_fn` would
        # not do: with it Python forks, and the forked copy of gRPC's threads writes or even crashes before the command runs.
        command = ["env", "--default-signal=INT", SONGSTREAM, "songs", "--server", address, "list", "--watch", "--json"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*command, *arguments], stdout=pipe, stderr=pipe, text=True)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._take_lines), threading.Thread(target=self._take_errors)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()
            for reader in self._readers:
                reader.join()

    def read(self, n: int) -> list[str]:
        """Return the uids of the next songs, each of which comes within a minute."""
        return [json.loads(self._lines.get(timeout=60))["uid"] for _ in range(n)]

    def end(self) -> tuple[str, str]:
        """Press Ctrl-C and return what else was printed, and the errors."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)
        for reader in self._readers:
            reader.join(timeout=30)
        rest, errors = [], "".join(self._errors)
        while not self._lines.empty():
            rest.append(self._lines.get())
        assert self.process.returncode == 0, errors
        return "".join(rest), errors

    def _take_lines(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)

    def _take_errors(self) -> None:
        assert self.process.stderr
        self._errors.extend(self.process.stderr)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Return what closes at the end of a test."""
    with ExitStack() as stack:
        yield stack


def wait_for(file: Path) -> str:
    """Return the content of a file, once it is there."""
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return file.read_text()


def test_a_watch_survives_server_and_itself(bundle: Bundle, tmp_path: Path, stack: ExitStack) -> None:
    """Each song comes once, over a restart of the server and one of the watch; filters hold."""
    data, token = tmp_path / "data", tmp_path / "seen"
    with ServerThread(bundle, data) as server:
        address = server.addresses.grpc
        watch = stack.enter_context(Watch(address, "--station", "north", "--resume", str(token)))
        wait_for(token)
        fill(server)
        seen = watch.read(7)
    with ServerThread(bundle, data, listen=address) as server:
        stream_all(server.channel, NORTH, [RATE], later(3))
        seen += watch.read(7)
        first, *errors = watch.end()[1].splitlines()
        assert "nothing of a station 'north'; it has heard no station yet; waiting" in first
        assert errors
        assert all("again in" in line for line in errors)
        stream_all(server.channel, NORTH, [RATE], later(4))
        with Watch(address, "--station", "north", "--resume", str(token)) as again:
            seen += again.read(7)
            assert again.end() == ("", "")
        expected = [one["uid"] for one in reversed(listed(server, "--station", "north"))]
    assert seen == expected
    with ServerThread(bundle, tmp_path / "another", listen=address) as server:
        error = invoke(server, "list", "--watch", "--resume", str(token)).exception
    assert getattr(error, "reason", None) == "RESUME_TOKEN_INVALID"
    assert "delete it" in str(error)


def test_a_watch_follows_decisions(heard: ServerThread, tmp_path: Path) -> None:
    """A type that is watched goes on being watched when people merge it into another, and when they undo that."""
    token = tmp_path / "seen"
    with Watch(heard.addresses.grpc, "--type", "T0001", "--resume", str(token)) as watch:
        wait_for(token)
        said(heard, "merge", "T0001", "--into", "T0002", "--by", "ada", command=types)
        stream_all(heard.channel, NORTH, [RATE], later(3))
        seen = watch.read(4)
        assert watch.end() == ("", "")
    since = listed(heard, "--type", "T0002", "--from", "2026-05-30")
    assert seen == [one["uid"] for one in reversed(since)]
    assert {one["model_type"] for one in since} == {"T0001", "T0002"}
    with Watch(heard.addresses.grpc, "--type", "T0001", "--resume", str(token)) as watch:
        stream_all(heard.channel, NORTH, [RATE], later(4))
        seen = watch.read(4)
        said(heard, "undo", "1", "--by", "ada", command=types)
        stream_all(heard.channel, NORTH, [RATE], later(5))
        seen += watch.read(3)
        assert watch.end() == ("", "")
    since = listed(heard, "--type", "T0001", "--from", "2026-06-01")
    assert seen[4:] == [one["uid"] for one in reversed(since)]
    assert {one["model_type"] for one in since} == {"T0001"}


def test_a_watch_by_name_stays_with_the_type(heard: ServerThread, tmp_path: Path) -> None:
    """A name is that of the type which has it at the beginning, whatever types are called later."""
    token = tmp_path / "seen"
    said(heard, "name", "T0001", "whistle", "--by", "ada", command=types)
    with Watch(heard.addresses.grpc, "--type", "Whistle", "--resume", str(token)) as watch:
        wait_for(token)
        said(heard, "name", "T0001", "low whistle", "--by", "ada", command=types)
        said(heard, "name", "T0002", "whistle", "--by", "ada", command=types)
        stream_all(heard.channel, NORTH, [RATE], later(3))
        seen = watch.read(3)
        assert watch.end() == ("", "")
    since = listed(heard, "--type", "T0001", "--from", "2026-05-30")
    assert seen == [one["uid"] for one in reversed(since)]


class Arranged(Connection):
    """A connection to a real server on whose first watch things happen at once, and which ends the watch after its songs.

    ``happen`` is called when the watch begins, before its first response, or after that one; then all songs come together.
    """

    def __init__(self, server: Server, happen: Callable[[], None], *, n_first: int) -> None:
        super().__init__(server)
        self._happen, self._n_first = happen, n_first
        self.n_watches = self.n_names_failed = 0

    def stream(self, method: Any, request: Any, *, timeout_s: float) -> Iterator[Any]:
        """Give the responses, those with songs as one, then press Ctrl-C."""
        self.n_watches += 1
        answers = super().stream(method, request, timeout_s=timeout_s)
        if self.n_watches == 1:
            for _ in range(self._n_first):
                yield next(answers)
            self._happen()
        together = songs_pb2.WatchSongsResponse()
        for answer in answers:
            together.MergeFrom(answer)
            if len(together.songs) == 7:
                yield together
                raise KeyboardInterrupt
        raise AssertionError("the watch ended before its songs came")


@pytest.mark.parametrize("n_first", [0, 1])
def test_a_decision_and_songs_may_come_at_once(
    heard: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_first: int
) -> None:
    """Songs that come together with a merge of their type are shown, also when that is the first response of a watch."""
    token = tmp_path / "seen"
    stub = songs_pb2_grpc.SongServiceStub(heard.channel)
    token.write_text(next(stub.WatchSongs(songs_pb2.WatchSongsRequest(), timeout=60)).resume_token)

    def happen() -> None:
        said(heard, "merge", "T0001", "--into", "T0002", "--by", "ada", command=types)
        stream_all(heard.channel, NORTH, [RATE], later(3))

    with monkeypatch.context() as patch:
        connection = Arranged(Server(heard.addresses.grpc), happen, n_first=n_first)
        patch.setattr("songserve.commands.songs.connect", lambda _: connection)
        text = said(heard, "list", "--watch", "--type", "T0001", "--resume", str(token), "--uids")
    since = listed(heard, "--type", "T0002", "--from", "2026-05-30")
    assert text.split() == [one["uid"] for one in reversed(since)]
    assert {one["model_type"] for one in since} == {"T0001", "T0002"}
    assert connection.n_watches == 2


class NamesFailOnce(Arranged):
    """A connection whose server drains when the names of types are asked for the first time during a watch."""

    def call(self, method: Any, request: Any, *, timeout_s: float | None = None) -> Any:
        """Return the answer, but for the names of types once."""
        if isinstance(request, songs_pb2.ListSongTypesRequest) and not self.n_names_failed:
            self.n_names_failed += 1
            raise ConfigError("the server is shutting down", reason="DRAINING")
        return super().call(method, request, timeout_s=timeout_s)


def test_a_watch_survives_a_server_that_drains_after_a_response(
    heard: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a server goes before it told the names of types, the watch comes back and shows the songs."""
    token = tmp_path / "seen"
    stub = songs_pb2_grpc.SongServiceStub(heard.channel)
    token.write_text(next(stub.WatchSongs(songs_pb2.WatchSongsRequest(), timeout=60)).resume_token)
    stream_all(heard.channel, NORTH, [RATE], later(3))
    with monkeypatch.context() as patch:
        connection = NamesFailOnce(Server(heard.addresses.grpc), lambda: None, n_first=0)
        patch.setattr("songserve.commands.songs.connect", lambda _: connection)
        result = invoke(heard, "list", "--watch", "--resume", str(token), "--uids")
    assert result.exit_code == 0, result.exception
    assert "[DRAINING]; again in 1 s" in result.stderr
    assert result.stdout.split() == [one["uid"] for one in reversed(listed(heard, "--from", "2026-05-30"))]
    assert (connection.n_watches, connection.n_names_failed) == (2, 1)


class SilentLink:
    """A port in front of a server; `forget` lets connections be dead without a word, and new ones work. A context manager."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._port = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._port.getsockname()[1]}"
        self._forgotten: set[socket.socket] = set()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._port, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def forget(self) -> None:
        """Let nothing through any more on the connections there are."""
        self._forgotten |= set(self._open)

    def _accept(self) -> None:
        host, _, port = self._server.rpartition(":")
        with suppress(OSError):
            while True:
                near, far = self._port.accept()[0], socket.create_connection((host, int(port)))
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if source not in self._forgotten:
                    target.sendall(data)


def test_a_dead_link_is_replaced(filled: ServerThread) -> None:
    """A watch over a connection that died without a word ends, and the next one goes over another connection."""
    stub = songs_pb2_grpc.SongServiceStub
    request = songs_pb2.WatchSongsRequest()
    with (
        SilentLink(filled.addresses.grpc) as link,
        Connection(Server(link.address), timeout_s=20, keepalive_s=1) as connection,
    ):
        watch = connection.stream(connection.stub(stub).WatchSongs, request, timeout_s=20)
        next(watch)
        link.forget()
        # Without pings it would end by its time, and well.
        with pytest.raises(ConfigError) as caught:
            next(watch)
        assert caught.value.reason == "SERVER_UNREACHABLE"
        assert next(SongClient(connection).watch(Wanted())).token


class Lying(Connection):
    """A connection to a real server whose songs get other names."""

    def __init__(self, server: Server, **names: str) -> None:
        super().__init__(server)
        self._names = names

    def call(self, method: Any, request: Any, *, timeout_s: float | None = None) -> Any:
        """Return the answer, with its first song renamed."""
        answer: Any = super().call(method, request, timeout_s=timeout_s)
        if isinstance(answer, songs_pb2.ListSongsResponse):
            for field, name in self._names.items():
                setattr(answer.songs[0], field, name)
        return answer


@pytest.mark.parametrize(
    "names",
    [
        {"station": "stations/.."},
        {"station": "stations/"},
        {"name": "songs/.."},
        {"name": "songs/urn:uuid:00000000-0000-0000-0000-000000000001"},
        {"session": "stations/north/sessions/..\\x"},
    ],
)
def test_a_server_does_not_choose_where_files_go(
    filled: ServerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: dict[str, str]
) -> None:
    """A name that is no plain station or UUID ends an export, and nothing is written."""
    out = tmp_path / "out"
    monkeypatch.setattr("songserve.commands.songs.connect", lambda _: Lying(Server(filled.addresses.grpc), **names))
    arguments = ("export", "--out", str(out), "--clips", "--format", "csv,audacity,raven")
    assert refused(filled, *arguments) == "NAME_INVALID"
    assert [path for path in tmp_path.rglob("*") if path != out] == []
