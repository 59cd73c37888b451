"""``songstream db``: what it finds, and that a backup brings back what was there, with the real programs."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner, Result

from songcore.errors import ConfigError
from songserve.commands.db import db
from songserve.database import DATABASE_NAME, DataDirectory
from songserve.queries import SongFilter
from songserve.schema import REVISION
from stores import HOUR_MS, START_MS, Opened, Shelf, commit, opening, song

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
ROOT = Path(__file__).resolve().parents[2]
FIRST_SCHEMA = Path(__file__).with_name("first_schema.sql")


class Place:
    """A data directory with songs, effort and clips, and the command on it."""

    def __init__(self, path: Path, database_url: str | None) -> None:
        self.path, self.database_url = path, database_url
        with Opened(path, database_url=database_url) as opened:
            shelf = Shelf(opened)
            shelf.store(*(song(shelf.record, hour * 3600.0, f"T{hour % 3:04d}") for hour in range(30)))
            step = commit(
                shelf.record, 100_000, song(shelf.record, 7, novelty="novel"), song(shelf.record, 8, kind="noise")
            )
            effort = {START_MS + hour * HOUR_MS: 3000.0 for hour in range(30)}
            lost = {"paused": 100_000 - 1.0 - sum(effort.values())}
            opened.store.commit(replace(step, recorded_s=effort, gap_s=lost)).result(10)

    def run(self, *arguments: str) -> Result:
        """Run a sub-command."""
        environment: dict[str, str | None] = {"SONGSTREAM_SERVE_DATA_DIR": str(self.path)}
        environment["SONGSTREAM_SERVE_DATABASE_URL"] = self.database_url
        return CliRunner().invoke(db, arguments, env=environment)

    def reason(self, *arguments: str) -> str:
        """Return the reason for which a sub-command fails."""
        done = self.run(*arguments)
        assert isinstance(done.exception, ConfigError), done
        return done.exception.reason

    def check(self) -> dict[str, Any]:
        """Return the report of a check."""
        done = self.run("check", "--json")
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.exit_code == (1 if report["problems"] else 0)
        return report

    def change(self, *statements: str) -> None:
        """Change the database behind the store's back."""
        engine = create_engine(self.database_url or f"sqlite:///{self.path / DATABASE_NAME}")
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def songs(self) -> list[str]:
        """Return every song's uid, in order of time."""
        with Opened(self.path, database_url=self.database_url) as opened:
            return [one.uid for one in opened.queries.page(SongFilter(include_noise=True), None, 1000)[0]]


@pytest.fixture
def place(tmp_path: Path, database_url: str | None) -> Place:
    """Return a filled store on each database."""
    return Place(tmp_path / "data", database_url)


def test_a_sound_store_is_found_sound_also_while_it_is_open(place: Place) -> None:
    """The report has the totals and no problem, with and without a server."""
    report = place.check()
    assert report["problems"] == []
    assert (report["n_sessions"], report["n_songs"], report["n_clips"]) == (1, 32, 30)
    assert report["recorded_s"] == 1.0 + 30 * 3000.0
    with Opened(place.path, database_url=place.database_url):
        assert place.check() == report
    assert "sound" in place.run("check").stdout


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM songs WHERE type_id = 'T0002'", "counts of the"),
        ("DELETE FROM buckets WHERE width_ms = 0", "counts of the total"),
        ("UPDATE buckets SET recorded_s = 0 WHERE width_ms = 86400000", "seconds by hour, by day and in total differ"),
        ("UPDATE sessions SET committed_sample = 48000", "more than its sessions committed"),
        ("UPDATE sessions SET committed_sample = committed_sample + 4800 * 3", "less than its sessions committed"),
        ("UPDATE buckets SET recorded_s = recorded_s / 2", "less than its sessions committed"),
        ("UPDATE gaps SET declared_s = declared_s - 0.3", "less than its sessions committed"),
        ("DELETE FROM gaps", "0.0 s declared lost, less than its sessions committed"),
        ("UPDATE buckets SET recorded_s = recorded_s + 0.3", "more than its sessions committed"),
        ("INSERT INTO gaps VALUES ('north', 'device_lost', 1e9)", "declared lost, more than its sessions committed"),
        ("DELETE FROM sessions", "songs belong to no session"),
        ("DELETE FROM songs WHERE kind = 'song'", "clips belong to no song"),
        ("UPDATE clips SET n_bytes = n_bytes + 1", "bytes, not"),
    ],
)
def test_what_does_not_agree_is_named(place: Place, statement: str, expected: str) -> None:
    """Each kind of disagreement is a problem of its own."""
    place.change(statement)
    problems = place.check()["problems"]
    assert any(expected in problem for problem in problems), problems


def test_gaps_of_before_they_were_kept_are_noted(place: Place) -> None:
    """An older songstream did not keep what its sessions declared lost: their seconds may be missing, and no more."""
    place.change("DELETE FROM gaps", "UPDATE sessions SET clock_source = NULL")
    report = place.check()
    assert report["problems"] == []
    (note,) = report["notes"]
    assert note.startswith(
        "north: 90001.0 s recorded and 0.0 s declared lost, 9999.0 s less than its sessions committed"
    )
    assert f"note: {note}\nsound\n" in place.run("check").stdout
    with Opened(place.path, database_url=place.database_url) as opened:
        record = opened.store.open_session(opening(2)).result(10)
        opened.store.commit(replace(commit(record, 3), recorded_s={START_MS: 3.0})).result(10)
    place.change("UPDATE sessions SET committed_sample = 9 * 48000 WHERE clock_source IS NULL")
    place.change("UPDATE buckets SET recorded_s = 2")
    assert any("less than its sessions committed, 12.0 s" in problem for problem in place.check()["problems"])


def test_a_missing_clip_is_named(place: Place) -> None:
    """A clip whose file somebody deleted is a problem; a file that a crash left is not, as the next start deletes it."""
    paths = sorted(place.path.glob("clips/*/*/*.flac"))
    paths[3].unlink()
    paths[4].with_name("left.flac").write_bytes(b"")
    (problem,) = place.check()["problems"]
    assert problem == f"{paths[3].relative_to(place.path)} is missing"


def test_a_backup_brings_everything_back(place: Place, tmp_path: Path) -> None:
    """Taken while the store is open and written to, restored after more was stored: it is as it was, and goes on."""
    songs = place.songs()
    with Opened(place.path, database_url=place.database_url) as opened:
        identity, seq = opened.queries.position()
        done = place.run("backup", str(tmp_path / "copy"))
        assert done.exit_code == 0, done
        record = opened.store.open_session(opening(2, "south")).result(10)
        opened.store.commit(commit(record, 1, song(record, 1))).result(10)
        assert place.reason("restore", str(tmp_path / "copy")) in {"DATA_DIR_LOCKED", "DATABASE_LOCKED"}
    assert len(place.songs()) == len(songs) + 1
    done = place.run("restore", str(tmp_path / "copy"))
    assert done.exit_code == 0, done
    assert place.songs() == songs
    assert place.check()["problems"] == []
    with Opened(place.path, database_url=place.database_url) as opened:
        again, last = opened.queries.position()
        assert last == seq
        assert again != identity
        assert opened.store.open_session(opening()).result(10).writer_epoch == 2
        assert (place.path / "clips" / "store").read_text() == f"{again}\n"
    assert place.reason("backup", str(tmp_path / "copy")) == "BACKUP_EXISTS"


def test_the_database_before_a_restore_is_kept(tmp_path: Path) -> None:
    """A wrong restore can be undone: the file that was there has the time behind its name."""
    place = Place(tmp_path / "data", None)
    place.run("backup", str(tmp_path / "copy"))
    with Opened(place.path) as opened:
        record = opened.store.open_session(opening(2, "south")).result(10)
        opened.store.commit(commit(record, 1, song(record, 1))).result(10)
    before = place.songs()
    place.run("restore", str(tmp_path / "copy"))
    (kept,) = place.path.glob("songs.sqlite.*Z")
    kept.rename(place.path / DATABASE_NAME)
    assert place.songs() == before


def test_a_restored_file_has_its_name_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after the new file has taken the old one's place its folder is flushed: a power cut brings back neither."""
    place = Place(tmp_path / "data", None)
    place.run("backup", str(tmp_path / "copy"))
    done: list[Path] = []
    rename, fsync = Path.rename, os.fsync

    def renamed(path: Path, target: Path) -> Path:
        done.append(target)
        return rename(path, target)

    def flushed(handle: int) -> None:
        fsync(handle)
        done.append(Path(f"/proc/self/fd/{handle}").readlink())

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(os, "fsync", flushed)
    assert place.run("restore", str(tmp_path / "copy")).exit_code == 0
    at = done.index(place.path / DATABASE_NAME)
    assert done[at + 1] == place.path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can restore for somebody else")
@pytest.mark.parametrize("before", ["a store", "only clips"])
def test_root_restores_for_the_owner_of_the_directory(tmp_path: Path, before: str) -> None:
    """The files of a restore are the directory's owner's, who can serve them; a link in the way gives nothing away."""
    place = Place(tmp_path / "data", None)
    let_pass(tmp_path)
    assert place.run("backup", str(tmp_path / "copy")).exit_code == 0
    for path in (place.path, *place.path.rglob("*")):
        os.chown(path, 65534, 65534)
    if before == "only clips":
        for path in [*place.path.glob("songs.sqlite*"), place.path / "lock", place.path / "shelf"]:
            path.unlink()
    assert place.run("restore", str(tmp_path / "copy")).exit_code == 0
    assert place.run("upgrade").exit_code == 0
    owners = {path.name: path.stat().st_uid for path in (place.path, *place.path.rglob("*"))}
    assert set(owners.values()) == {65534}, owners
    with as_somebody():
        assert len(place.songs()) == 32
    foreign = tmp_path / "foreign"
    foreign.write_text("root's")
    (place.path / "lock").unlink()
    (place.path / "lock").symlink_to(foreign)
    refused = place.run("upgrade")
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.reason == "DATA_DIR_UNWRITABLE"
    assert (foreign.stat().st_uid, foreign.read_text()) == (0, "root's")


def test_the_drill_is_of_the_shipped_unit() -> None:
    """Every command of the drill names the data directory that the unit gives the service."""
    unit = (ROOT / "deploy" / "systemd" / "songstream-serve.service").read_text()
    assert "--data-dir ${STATE_DIRECTORY}" in unit
    (name,) = re.findall(r"^StateDirectory=(\S+)$", unit, re.MULTILINE)
    (program,) = re.findall(r"^ExecStart=(\S+)/songstream serve", unit, re.MULTILINE)
    page = (ROOT / "docs" / "operating.md").read_text()
    drill = page.split("A drill, to be done")[1].split("What root restores")[0]
    commands = re.findall(r"^    songstream db .*", drill, re.MULTILINE)
    assert len(commands) == 3
    assert all(f"--data-dir /var/lib/{name} " in f"{command} " for command in commands)
    assert f"export PATH={program}:$PATH" in drill


def corrupt(file: Path) -> None:
    """Overwrite pages in the middle."""
    with file.open("r+b") as raw:
        raw.seek(file.stat().st_size // 2)
        raw.write(os.urandom(16_384))


def newer(file: Path) -> None:
    """Mark as made by a later songstream."""
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "checked", "restored"),
    [
        (corrupt, "problem", "BACKUP_INVALID"),
        (newer, "SCHEMA_NEWER", "SCHEMA_NEWER"),
        (lambda file: file.write_text("no database" * 999), "DATABASE_INVALID", "BACKUP_INVALID"),
        (lambda file: file.unlink(), "DATABASE_MISSING", "BACKUP_INVALID"),
    ],
)
def test_a_spoiled_file_is_neither_sound_nor_a_backup(
    tmp_path: Path, spoil: Callable[[Path], object], checked: str, restored: str
) -> None:
    """Damaged, newer, foreign or absent: each is said clearly, and what cannot be restored leaves the store alone."""
    place = Place(tmp_path / "data", None)
    spoiled = Place(tmp_path / "spoiled", None)
    spoil(spoiled.path / DATABASE_NAME)
    if checked == "problem":
        assert spoiled.check()["problems"]
    else:
        assert spoiled.reason("check") == checked
    before = place.songs()
    assert place.reason("restore", str(spoiled.path / DATABASE_NAME)) == restored
    assert place.songs() == before
    assert not list(place.path.glob("songs.sqlite.*"))


def test_an_old_store_is_upgraded_by_hand(tmp_path: Path) -> None:
    """Check names the step, backup and upgrade take it, and afterwards the store is sound."""
    place = Place(tmp_path / "data", None)
    for file in place.path.glob("songs.sqlite*"):
        file.unlink()
    with sqlite3.connect(place.path / DATABASE_NAME) as old:
        old.executescript(FIRST_SCHEMA.read_text())
    old.close()
    (problem,) = place.check()["problems"]
    assert "songstream db upgrade" in problem
    assert place.run("backup", str(tmp_path / "copy")).exit_code == 0
    assert place.run("upgrade").stdout == f"schema {REVISION}\n"
    assert place.check()["problems"] == []
    assert place.run("restore", str(tmp_path / "copy")).exit_code == 0
    assert place.check()["problems"] == []


def test_each_command_prints_one_json_object(place: Place, tmp_path: Path) -> None:
    """For programs: what was written, what was put back and what is set aside, and from which schema to which."""
    copy = tmp_path / "copy"

    def said(*arguments: str) -> dict[str, Any]:
        done = place.run(*arguments, "--json")
        assert done.exit_code == 0, done
        (line,) = done.stdout.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    assert said("backup", str(copy)) == {"backup": str(copy), "n_bytes": copy.stat().st_size}
    restored = said("restore", str(copy))
    kept = [str(path) for path in place.path.glob("songs.sqlite.*Z")]
    assert kept or place.database_url
    expected = {"restored": str(copy), "revision_before": REVISION, "revision": REVISION, "kept_shelf": None}
    assert restored == {**expected, "kept": kept[0] if kept else None}
    assert said("upgrade") == {"revision_before": REVISION, "revision": REVISION}
    if not place.database_url:
        for file in place.path.glob("songs.sqlite*"):
            file.unlink()
        with sqlite3.connect(place.path / DATABASE_NAME) as old:
            old.executescript(FIRST_SCHEMA.read_text())
        old.close()
        assert said("upgrade") == {"revision_before": "0001", "revision": REVISION}


def test_a_settings_file_says_where_the_store_is(tmp_path: Path) -> None:
    """The server's own file is enough; with nothing the command says what it needs."""
    place = Place(tmp_path / "data", None)
    config = tmp_path / "serve.toml"
    config.write_text(f'data_dir = "{place.path}"\nbundle = "x"\n')
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SONGSTREAM_")}
    command = [SONGSTREAM, "db", "check"]
    found = subprocess.run(
        [*command, "--config", str(config)], env=environment, check=True, capture_output=True, text=True
    )
    assert "32 songs" in found.stdout
    nothing = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "[SETTING_INVALID]" in nothing.stderr


def test_a_store_that_cannot_be_written_is_explained_and_can_be_read(tmp_path: Path) -> None:
    """On a file that its user may only read, opening for writing says so, and check works."""
    place = Place(tmp_path / "data", None)
    for path in (place.path, *place.path.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (place.path / DATABASE_NAME).chmod(0o444)
    let_pass(tmp_path)
    with as_somebody(), pytest.raises(ConfigError) as refused:
        DataDirectory(place.path)
    assert refused.value.reason == "DATABASE_READ_ONLY"
    with as_somebody():
        assert place.check()["problems"] == []


def let_pass(path: Path) -> None:
    """Let everybody reach what lies in a folder that pytest made for one."""
    for folder in (path, *path.parents):
        if folder.owner() == path.owner() and "pytest" in str(folder):
            folder.chmod(folder.stat().st_mode | 0o055)


@contextmanager
def as_somebody() -> Iterator[None]:
    """Take the rights of a user who owns nothing, where the tests run as root, who may write everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
