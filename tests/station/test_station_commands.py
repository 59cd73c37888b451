"""`songstream station` beside the program itself: the token, and what is taken out of a spool."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from disks import mounted
from songcore.errors import ConfigError, InputError
from songcore.recorders import stated_start
from songstation.commands.station import station
from songstation.spool import Spool
from songstation.spool_index import SpoolLimits
from songstation.spool_sessions import Session
from songstation.station_settings import load_settings

START = datetime(2026, 1, 1, tzinfo=UTC)
ONE, TWO = UUID(int=1 << 127), UUID(int=3 << 126)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return a spool with two sessions of a second each."""
    directory = tmp_path / "spool"
    opened = Spool(directory, SpoolLimits(max_bytes=10**9), now_s=lambda: 0.0)
    for uuid in (ONE, TWO):
        opened.begin(Session(uuid, "north", 8_000, START, 8_000))
        opened.append(bytes(16_000), 8_000, 0)
    opened.close()
    return directory


def run(*arguments: str, **options: Any) -> Any:
    """Run a sub-command of `station`."""
    return CliRunner().invoke(station, arguments, **options)


def refused(*arguments: str, **options: Any) -> ConfigError:
    """Run a sub-command and return why it fails."""
    error = run(*arguments, **options).exception
    assert isinstance(error, ConfigError), error
    return error


@pytest.mark.parametrize("folder", ["none", "file"])
def test_a_token_that_cannot_be_kept_is_told(tmp_path: Path, folder: str) -> None:
    """Without the folder, or with a file in its place, the path and the reason are said."""
    (tmp_path / "file").touch()
    file = tmp_path / folder / "token"
    error = refused("token", "set", "--file", str(file), input="sst_secret\n")
    assert (error.reason, str(file) in str(error)) == ("TOKENS_UNWRITABLE", True)
    assert "sst_secret" not in str(error)


def test_a_token_is_kept_as_a_program_asks(tmp_path: Path) -> None:
    """With --json only the file is said, on standard output."""
    done = run("token", "set", "--file", str(tmp_path / "token"), "--json", input="sst_secret\n")
    assert json.loads(done.output) == {"file": str(tmp_path / "token")}


@pytest.mark.parametrize("to", ["file", "/proc/recordings"])
def test_recordings_that_cannot_be_written_are_told(spool: Path, tmp_path: Path, to: str) -> None:
    """A file in the place of the directory, or a disk that takes none."""
    (tmp_path / "file").touch()
    error = refused("spool", "export", "all", "--spool", str(spool), "--to", str(tmp_path / to))
    assert error.reason == "OUTPUT_NOT_WRITABLE"


@pytest.mark.parametrize("file_format", ["wav", "flac"])
def test_a_full_disk_leaves_no_part_of_a_recording(tmp_path: Path, file_format: str) -> None:
    """FLAC is written when the file is closed, where libsndfile tells nobody that the disk took no more."""
    spool = Spool(tmp_path / "spool", SpoolLimits(max_bytes=10**9), now_s=lambda: 0.0)
    spool.begin(Session(ONE, "north", 8_000, START, 8_000))
    spool.append(np.random.default_rng(0).integers(-(2**15), 2**15, 8_000, np.int16).tobytes(), 8_000, 0)
    spool.close()
    options = ("--spool", str(tmp_path / "spool"), "--format", file_format)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8k", "songstream-test") as disk:
        error = refused("spool", "export", str(ONE), *options, "--to", str(disk))
        assert (error.reason, list(disk.iterdir())) == ("OUTPUT_NOT_WRITABLE", [])


def test_a_recording_that_cannot_be_opened_is_told(spool: Path, tmp_path: Path) -> None:
    """Something else has its name."""
    (tmp_path / "north_20260101_000000Z.flac").mkdir()
    error = refused("spool", "export", str(ONE), "--spool", str(spool), "--to", str(tmp_path))
    assert (error.reason, "north_20260101_000000Z.flac" in str(error)) == ("OUTPUT_NOT_WRITABLE", True)


def test_exported_recordings_tell_when_they_began(spool: Path, tmp_path: Path) -> None:
    """By their names, in UTC, to whoever classifies or plays them later."""
    for file_format in ("wav", "flac"):
        options = ("--spool", str(spool), "--to", str(tmp_path / file_format), "--format", file_format)
        paths = [Path(line) for line in run("spool", "export", "all", *options).stdout.splitlines()]
        assert [stated_start(path.name) for path in paths] == [START, START]
        assert len(set(paths)) == 2, (
            "sessions that began in the same second, as the clock was set back, are two recordings"
        )


def test_programs_are_told_of_a_spool(spool: Path, tmp_path: Path) -> None:
    """Export prints a line of JSON for each recording, repair one for all."""
    wanted = ("spool", "export", str(TWO), "--spool", str(spool), "--to", str(tmp_path / "out"), "--json")
    (line,) = run(*wanted).stdout.splitlines()
    assert json.loads(line)["session"] == str(TWO)
    assert soundfile.info(json.loads(line)["file"]).frames == 8_000
    told = json.loads(run("spool", "repair", "--spool", str(spool), "--json").stdout)
    assert told == {"n_files": 2, "n_repaired": 0}


@pytest.mark.parametrize("environment", [{"COLUMNS": "80"}, {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1"}])
def test_sessions_are_listed_by_their_whole_names(spool: Path, environment: dict[str, str]) -> None:
    """In a pipe and on a terminal, so that they can be copied into `export`."""
    shown = run("spool", "list", "--spool", str(spool), env=environment).stdout
    assert [str(uuid) in shown for uuid in (ONE, TWO)] == [True, True]


@pytest.mark.parametrize("command", [("list",), ("export", "all"), ("repair",)])
def test_a_spool_that_is_not_there_has_a_remedy(tmp_path: Path, command: tuple[str, ...]) -> None:
    """The option that names another."""
    error = run("spool", *command, "--spool", str(tmp_path / "sp")).exception
    assert isinstance(error, InputError)
    assert (error.reason, "by --spool" in str(error)) == ("SPOOL_MISSING", True), error


STATE = {
    "station": "north",
    "time": "2026-11-28T02:02:51.000+00:00",
    "device": "USB Audio",
    "sample_rate_hz": 48_000,
    "session": str(ONE),
    "is_connected": True,
    "refused": "",
    "sessions_waiting": 0,
    "captured_samples": 9,
    "committed_samples": 9,
    "waiting_samples": 0,
    "waiting_s": 0.0,
    "oldest_waiting": None,
    "spool_bytes": 1_500_000,
    "disk_free_bytes": 65_666_928_640,
    "clock": {"source": "unsynced", "error_s": None},
    "clock_offset_s": 0.0125,
    "account": {
        "captured_s": 5400.0,
        "lost_s": {},
        "n_sessions": 2,
        "n_streams_failed": {},
        "n_songs": 1234,
        "n_novel": 5,
        "last_chunk": "2026-11-28T02:02:50.000+00:00",
        "last_trouble": "",
    },
    "metrics": "http://127.0.0.1:9465/metrics",
    "metrics_trouble": "",
}
BACKLOG = {"is_connected": False, "waiting_s": 7300.0, "oldest_waiting": "2026-11-28T00:01:00+00:00"}


@pytest.mark.parametrize(
    ("changes", "running", "told"),
    [
        ({}, True, "runs, hears, nothing waiting"),
        ({}, False, "not running (last seen 2026-11-28 02:02:51 UTC)"),
        ({"device": ""}, True, "runs, hears nothing: no device, nothing waiting"),
        (BACKLOG, True, "runs, hears, not connected, 2.0 h of sound waiting"),
        (
            {"is_connected": False, "refused": "no such token [TOKEN_INVALID]"},
            True,
            "runs, hears, not let in: no such token [TOKEN_INVALID], nothing waiting",
        ),
    ],
)
def test_the_status_begins_with_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], running: bool, told: str
) -> None:
    """Then words and units that people use; nothing of it looks like a program's values, which --json keeps."""
    state = {**STATE, **changes}
    (tmp_path / "state.json").write_text(json.dumps(state))
    monkeypatch.setattr("songstation.spool_files.is_locked", lambda _: running)
    done = run("status", "--spool", str(tmp_path))
    first, *rest = done.stdout.splitlines()
    assert (first, done.exit_code) == (f"station north: {told}", 0 if running and state["device"] else 1)
    text = "\n".join(rest)
    assert all(part in text for part in ("1.5 MB, 65.7 GB free on its disk", "unsynced; +0.013 s", "1,234 songs"))
    assert not set("{}[]") & set(text.replace("[TOKEN_INVALID]", ""))
    assert not any(word in text for word in ("None", "False", "True"))
    assert json.loads(run("status", "--spool", str(tmp_path), "--json").stdout) == {**state, "running": running}


@pytest.mark.parametrize(
    ("given", "reason", "told"),
    [
        ({"station": "Meadow 1"}, "SETTING_INVALID", "station 'Meadow 1'; expected small letters, digits and hyphens"),
        ({"servr": "x"}, "SETTING_UNKNOWN", "servr is no setting of a station; did you mean server?"),
        ({"zzz": "x"}, "SETTING_UNKNOWN", "zzz is no setting of a station; docs/station.md lists those there are"),
    ],
)
def test_wrong_settings_say_what_was_expected(given: dict[str, str], reason: str, told: str) -> None:
    """A name in words, as `listen` says it; and of what is no setting those that it is like."""
    with pytest.raises(ConfigError) as error:
        load_settings(given, environment={})
    assert (error.value.reason, told in str(error.value)) == (reason, True), error.value


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        (
            "SPOLL",
            "SONGSTREAM_STATION_SPOLL in the environment is no setting of a station; did you mean SONGSTREAM_STATION_SPOOL",
        ),
        ("ZZZ", "SONGSTREAM_STATION_ZZZ in the environment is no setting of a station; docs/station.md lists"),
    ],
)
def test_a_variable_that_is_no_setting_is_named(variable: str, told: str) -> None:
    """As it stands in the environment, where it has to be put right."""
    with pytest.raises(ConfigError) as error:
        load_settings({}, environment={f"SONGSTREAM_STATION_{variable}": "x"})
    assert (error.value.reason, told in str(error.value)) == ("SETTING_UNKNOWN", True), error.value
