"""A backup that comes back on an empty disk: clips and the active bundle are as they were, whatever is copied first."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, insert, text
from typer.testing import CliRunner

from bundles import Family, soundscape
from serving import ServerThread, stream_all
from songcore.bundle import load_bundle
from songcore.errors import ConfigError
from songserve.commands.db import db
from songserve.database import DATABASE_NAME
from songserve.schema import bundle_events
from songserve.server import serving
from songserve.v1 import models_pb2, models_pb2_grpc, songs_pb2, songs_pb2_grpc
from stores import Opened, Shelf, song

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ORDERS = ["clips first", "database first"]
N_SONGS = 15


def drill(tmp_path: Path, family: Family) -> tuple[str, list[str]]:
    """Return the backup of the drill in the docs as a script, and the commands of the way back, all with places of a test."""
    page = (ROOT / "docs" / "operating.md").read_text().split("A drill, to be done")[1].split("What root restores")[0]
    export, *lines = re.findall(r"^    (\S.*)", page, re.MULTILINE)
    assert export == "export PATH=/opt/songstream/bin:$PATH"
    places = {"/var/lib/songstream": "data", "/backup": "backup", "/etc": "etc", "/opt/songstream": "opt"}
    changed: list[str] = []
    for line in lines:
        command = line
        for theirs, ours in places.items():
            command = re.sub(rf"(?<=[ =]){theirs}(?=[/ ]|$)", str(tmp_path / ours), command)
        # The same, of a whole folder to a new place; not every machine of the tests has rsync.
        changed.append(command if shutil.which("rsync") else command.replace("rsync -a", "cp -a"))
    stop, start = (changed.index(f"systemctl {word} songstream-serve") for word in ("stop", "start"))
    assert start == len(changed) - 1
    shutil.copytree(family.first_dir, tmp_path / "opt" / "bundle")
    (tmp_path / "etc" / "songstream").mkdir(parents=True)
    (tmp_path / "etc" / "songstream" / "tokens.json").write_text("{}")
    (tmp_path / "backup").mkdir()
    return "\n".join(changed[:stop]), changed[stop + 1 : start]


def run(script: str) -> str:
    """Run a script whose every command must succeed, and return its output."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stub_of_models(server: ServerThread) -> Any:
    """Return the stub of ModelBundleService."""
    return models_pb2_grpc.ModelBundleServiceStub(server.channel)


def clips_of(server: ServerThread) -> dict[str, bytes]:
    """Return every song's clip as a client gets it, by the song's name."""
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    names = [one.name for one in stub.ListSongs(songs_pb2.ListSongsRequest(page_size=1000)).songs]
    return {
        name: b"".join(part.data for part in stub.GetSongClip(songs_pb2.GetSongClipRequest(name=name)))
        for name in names
    }


@pytest.mark.parametrize("order", ORDERS)
def test_the_drill_brings_clips_and_the_active_bundle_back(
    order: str, family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The commands of the docs, onto an empty disk: each clip is read, the activated bundle serves, nobody is warned."""
    backup, back = drill(tmp_path, family)
    shutil.copytree(family.shelf / family.child, tmp_path / "data" / "models" / family.child)
    settings: dict[str, Any] = {"bundle": tmp_path / "opt" / "bundle"}
    with ServerThread(load_bundle(family.first_dir, device="cpu"), tmp_path / "data", **settings) as server:
        stream_all(server.channel, soundscape([0, 1, 2], 5)[0], [12_000])
        name = f"modelBundles/{family.child}"
        stub_of_models(server).ActivateModelBundle(models_pb2.ActivateModelBundleRequest(name=name), timeout=60)
        run(backup)
        before = clips_of(server)
    assert len(before) == 3
    for folder in ("data", "etc", "opt"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "opt").mkdir()
    (tmp_path / "etc").mkdir()
    if order == "database first":
        at = next(number for number, line in enumerate(back) if "db restore" in line)
        back.insert(0, back.pop(at))
    assert run("\n".join(back)).endswith("sound\n")
    caplog.clear()
    with ServerThread(load_bundle(tmp_path / "opt" / "bundle", device="cpu"), tmp_path / "data", **settings) as server:
        assert clips_of(server) == before
        active = models_pb2.GetModelBundleRequest(name="modelBundles/active")
        assert stub_of_models(server).GetModelBundle(active).digest == family.child
    assert len(list(tmp_path.glob("data/clips/*/*/*.flac"))) == 3
    assert (tmp_path / "etc" / "songstream" / "tokens.json").is_file()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


class Moved:
    """A store with clips, its backup, and a new place for it."""

    def __init__(self, tmp_path: Path, database_url: str | None) -> None:
        self.old, self.new, self.copy = tmp_path / "old", tmp_path / "new", tmp_path / "copy"
        self.database_url = database_url
        with Opened(self.old, database_url=database_url) as opened:
            shelf = Shelf(opened)
            shelf.clean()
            shelf.store(*(song(shelf.record, second * 10.0) for second in range(N_SONGS)))
            self.name = shelf.shelf.shelf
        self.run("backup", str(self.copy), at=self.old)

    def run(self, *arguments: str, at: Path | None = None) -> dict[str, Any]:
        """Run a sub-command on the new place and return what it says in JSON."""
        environment: dict[str, str | None] = {"SONGSTREAM_SERVE_DATA_DIR": str(at or self.new)}
        environment["SONGSTREAM_SERVE_DATABASE_URL"] = self.database_url
        done = CliRunner().invoke(db, [*arguments, "--json"], env=environment)
        assert done.exit_code == 0 or (arguments == ("check",) and done.exit_code == 1), done
        said: dict[str, Any] = json.loads(done.stdout)
        assert arguments != ("check",) or done.exit_code == (1 if said["problems"] else 0)
        return said

    def copy_clips(self) -> None:
        """Put the clips in the new place."""
        shutil.copytree(self.old / "clips", self.new / "clips", dirs_exist_ok=True)

    def restore(self, order: str = ORDERS[0]) -> dict[str, Any]:
        """Do the drill on the new place; return what the restore says."""
        steps: list[Callable[[], Any]] = [self.copy_clips, lambda: self.run("restore", str(self.copy))]
        done = [step() for step in (steps if order == "clips first" else steps[::-1])]
        said: dict[str, Any] = next(one for one in done if one)
        return said

    def start(self) -> tuple[int, int]:
        """Clean as a start does; return how many files that deletes, and how many clips are left that can be read."""
        with Opened(self.new, database_url=self.database_url) as opened:
            shelf = Shelf(opened)
            n_deleted = shelf.clean()
            return n_deleted, opened.queries.clip_totals(shelf.shelf.shelf)[0] if len(shelf.files()) == N_SONGS else 0

    def rename(self, shelf: str, n_clips: int, *, at: Path) -> None:
        """Have the rows of the oldest clips name another directory, behind the store's back."""
        oldest = "SELECT song FROM clips ORDER BY song_start_ms LIMIT :n"
        engine = create_engine(self.database_url or f"sqlite:///{at / DATABASE_NAME}")
        with engine.begin() as connection:
            statement = text(f"UPDATE clips SET shelf = :shelf WHERE song IN ({oldest})")  # noqa: S608 - ours
            connection.execute(statement, {"shelf": shelf, "n": n_clips})
        engine.dispose()

    def add_event(self, shelf: str) -> None:
        """Have another server of the database begin with a bundle."""
        engine = create_engine(self.database_url or "")
        row = {"shelf": shelf, "time_ms": 0, "kind": "started", "bundle": "0" * 64, "who": "", "detail": "{}"}
        with engine.begin() as connection:
            connection.execute(insert(bundle_events), row)
        engine.dispose()

    def back_up_again(self, *, at: Path) -> None:
        """Take a newer backup."""
        self.copy.unlink()
        self.run("backup", str(self.copy), at=at)


@pytest.fixture
def moved(tmp_path: Path, database_url: str | None) -> Moved:
    """Return a store that moves, on each database."""
    return Moved(tmp_path, database_url)


@pytest.mark.parametrize("order", ORDERS)
def test_an_empty_disk_takes_the_name_of_the_old_one(
    moved: Moved, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a file `shelf` in the backup every clip is found and none is deleted; check is content, and the log silent."""
    moved.restore(order)
    report = moved.run("check")
    assert (report["problems"], report["n_clips"], report["n_clips_elsewhere"]) == ([], N_SONGS, 0)
    assert (moved.new / "shelf").read_text() == f"{moved.name}\n"
    assert moved.start() == (0, N_SONGS)
    assert [record for record in caplog.records if record.name == "songserve.clips_shelf"] == []


def test_clips_that_did_not_come_back_are_missed(moved: Moved) -> None:
    """A restore without the folder of clips is not sound."""
    moved.run("restore", str(moved.copy))
    assert any("is missing" in problem for problem in moved.run("check")["problems"])


@pytest.mark.parametrize("order", ORDERS)
def test_a_place_where_a_server_was_started_before_is_renamed(tmp_path: Path, order: str) -> None:
    """Installing starts the service, which names its directory: a restore sets that name aside, as it does the database."""
    moved = Moved(tmp_path, None)
    Opened(moved.new).close()
    before = (moved.new / "shelf").read_text()
    said = moved.restore(order)
    assert Path(said["kept_shelf"]).read_text() == before
    assert Path(said["kept"]).is_file()
    assert moved.run("check")["problems"] == []
    assert moved.start() == (0, N_SONGS)


def test_a_directory_without_its_name_is_given_it_again(tmp_path: Path) -> None:
    """Where somebody copied all of a stopped server but `shelf`, the next start knows the clips, and check sees them, too."""
    moved = Moved(tmp_path, None)
    shutil.copytree(moved.old, moved.new)
    (moved.new / "shelf").unlink()
    assert moved.run("check")["problems"] == []
    assert moved.start() == (0, N_SONGS)
    assert (moved.new / "shelf").read_text() == f"{moved.name}\n"


def test_clips_by_several_names_are_one_directory_s_again(tmp_path: Path) -> None:
    """Rows by two names in one SQLite file, as older versions of restore left them, are a problem that a restore cures."""
    moved = Moved(tmp_path, None)
    shutil.copytree(moved.old, moved.new)
    other = str(uuid4())
    moved.rename(other, 7, at=moved.new)
    report = moved.run("check")
    assert report["n_clips_elsewhere"] == 7
    assert [problem for problem in report["problems"] if other in problem and "db restore" in problem]
    moved.back_up_again(at=moved.new)
    moved.run("restore", str(moved.copy))
    report = moved.run("check")
    assert (report["problems"], report["n_clips_elsewhere"]) == ([], 0)
    assert moved.start() == (0, N_SONGS)


def test_a_further_server_s_clips_are_counted_and_no_problem(tmp_path: Path, postgres: Any) -> None:
    """On a shared PostgreSQL a directory keeps its own name, and check says how many clips it did not look at."""
    moved = Moved(tmp_path, postgres.new_database())
    Opened(moved.new, database_url=moved.database_url).close()
    before = (moved.new / "shelf").read_text()
    moved.run("restore", str(moved.copy))
    assert (moved.new / "shelf").read_text() == before
    report = moved.run("check")
    assert (report["problems"], report["n_clips"], report["n_clips_elsewhere"]) == ([], N_SONGS, N_SONGS)
    environment = {"SONGSTREAM_SERVE_DATA_DIR": str(moved.new), "SONGSTREAM_SERVE_DATABASE_URL": moved.database_url}
    assert "15 of these clips are of other data dir" in CliRunner().invoke(db, ["check"], env=environment).stdout
    assert moved.run("check", at=moved.old)["n_clips_elsewhere"] == 0


@pytest.mark.parametrize("n_renamed", [7, 0])
def test_a_shared_postgresql_names_no_empty_disk(tmp_path: Path, postgres: Any, n_renamed: int) -> None:
    """Where rows are of two servers nobody knows which of them comes back: the directory gets a name of its own."""
    moved = Moved(tmp_path, postgres.new_database())
    moved.rename(str(uuid4()), n_renamed, at=moved.old)
    if not n_renamed:
        # The other server keeps no clips, and is known by what was done with its bundles.
        moved.add_event(str(uuid4()))
    moved.back_up_again(at=moved.old)
    moved.restore()
    assert not (moved.new / "shelf").exists()
    assert moved.start() == (0, 0)
    assert len(list(moved.new.glob("clips/*/*/*.flac"))) == N_SONGS


def test_a_name_that_is_none_is_not_taken(tmp_path: Path) -> None:
    """What a backup has in the place of a name does not keep the server from starting."""
    moved = Moved(tmp_path, None)
    moved.rename("../x", N_SONGS, at=moved.old)
    moved.back_up_again(at=moved.old)
    moved.restore()
    assert moved.start() == (0, 0)
    assert len(list(moved.new.glob("clips/*/*/*.flac"))) == N_SONGS


def test_a_bundle_that_was_active_elsewhere_is_told(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory with another name than the one where a bundle was activated begins with the given one, and says so."""
    data = tmp_path / "data"
    settings: dict[str, Any] = {"bundle": family.first_dir, "models_dir": family.shelf}
    first = load_bundle(family.first_dir, device="cpu")
    with ServerThread(first, data, **settings) as server:
        name = f"modelBundles/{family.child}"
        stub_of_models(server).ActivateModelBundle(models_pb2.ActivateModelBundleRequest(name=name), timeout=60)
    for expected in (1, 0):  # once: afterwards it has a history of its own
        caplog.clear()
        (data / "shelf").write_text("00000000-0000-4000-8000-000000000001\n")
        with ServerThread(first, data, **settings):
            pass
        told = [
            record.getMessage() for record in caplog.records if f"models activate {family.child}" in record.getMessage()
        ]
        assert len(told) == expected


def test_a_bundle_that_did_not_come_back_keeps_the_server_from_starting(family: Family, tmp_path: Path) -> None:
    """A restore without the folder of bundles is refused at start, and does not serve another bundle in silence."""
    shutil.copytree(family.shelf / family.child, tmp_path / "data" / "models" / family.child)
    first = load_bundle(family.first_dir, device="cpu")
    with ServerThread(first, tmp_path / "data", bundle=family.first_dir) as server:
        name = f"modelBundles/{family.child}"
        stub_of_models(server).ActivateModelBundle(models_pb2.ActivateModelBundleRequest(name=name), timeout=60)
    songstream = BIN / "songstream"
    run(f"{songstream} db backup --data-dir {tmp_path / 'data'} {tmp_path / 'copy'}")
    run(f"{songstream} db restore --data-dir {tmp_path / 'new'} {tmp_path / 'copy'}")

    async def start() -> None:
        settings = ServerThread(first, tmp_path / "new", bundle=family.first_dir).settings
        async with serving(settings, first, version="test"):
            pass

    with pytest.raises(ConfigError) as refused:
        asyncio.run(start())
    assert refused.value.reason == "ACTIVE_BUNDLE_MISSING"
