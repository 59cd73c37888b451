"""The repertoire of a store: what the command writes is what the songs say, and what a scrape says about retraining."""

import csv
import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from postgres import PostgresServer
from songcore.decisions import Action, Decision, Mark, Merge, Name, Split, Undo
from songcore.errors import SongError
from songcore.manifest import SongType
from songcore.repertoire import chao1, good_turing_coverage
from songserve.commands.repertoire import repertoire
from songserve.database import DATABASE_NAME
from songserve.decision_writing import Intent
from songserve.repertoire.tables import COLUMNS
from songserve.retraining import decided_since, novel_excess, retraining_due
from songserve.times import DAY_MS
from stores import START_MS, Opened, commit, opening, song

ORDER = "ABABCA ACDA  AABE"
"""What was sung, two seconds apart but for blanks, of a minute each."""


def fill(opened: Opened) -> None:
    """Store ORDER on each of two stations, south a month later; north also a novel song and noise."""
    for number, (station, later_s) in enumerate([("north", 0), ("south", 31 * 86_400)], 1):
        record = opened.store.open_session(opening(number, station)).result(10)
        now, songs = float(later_s), []
        for name in ORDER:
            now += 60 if name == " " else 2
            if name != " ":
                songs.append(song(record, now, f"T000{'ABCDE'.index(name) + 1}"))
        if station == "north":
            # Between two songs of one bout: the novel song parts them, the noise does not.
            songs += [song(record, 3.0, novelty="novel"), song(record, 5.0, "T0009", kind="noise")]
        effort = {START_MS + later_s * 1000: 3600.0}
        opened.store.commit(replace(commit(record, 1, *songs), recorded_s=effort)).result(10)
    catalogue = {type_id: SongType(id=type_id) for type_id in ("T0004", "T0005")}
    merge = Merge(type_id="T0005", into="T0004", sound="song")
    opened.store.decide(Intent(merge, "ada", 1, {}, catalogue)).result(10)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data directory of a store."""
    path = tmp_path_factory.mktemp("repertoire") / "data"
    with Opened(path) as opened:
        fill(opened)
    return path


def run(store: Path | str, out: Path, *options: str) -> Any:
    """Run the command and return its JSON."""
    app = typer.Typer()
    app.command()(repertoire)
    arguments = ["--store", str(store), "--out", str(out), "--bootstrap", "20", "--json", *options]
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def table(out: Path, name: str) -> list[dict[str, str]]:
    """Return a table, which is the same as CSV and as Parquet."""
    with (out / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = pq.read_table(out / f"{name}.parquet").to_pylist()
    assert [list(row) for row in columns] == [list(row) for row in rows]
    return rows


@pytest.fixture(scope="module")
def made(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return the answer for the whole store, and the folder."""
    out = tmp_path_factory.mktemp("out")
    return run(store, out), out


def test_the_numbers_are_those_of_the_songs(made: tuple[Any, Path]) -> None:
    """Counts go by people's decisions, estimates are those of songcore for them, novel songs and noise stand beside."""
    answer, out = made
    places = [(one["station"], one["period"]) for one in answer["repertoires"]]
    months = [("all", "2025-11"), ("all", "2025-12")]
    assert places == [
        ("all", "all"),
        *months,
        ("north", "all"),
        ("north", "2025-11"),
        ("south", "all"),
        ("south", "2025-12"),
    ]
    whole = answer["repertoires"][0]
    counts = [14, 6, 4, 4]  # A, B, C and D with E
    assert (whole["n_songs"], whole["n_types"], whole["n_novel"], whole["n_noise"]) == (28, 4, 1, 1)
    assert (whole["chao1"], whole["coverage"]) == (chao1(counts).estimate, good_turing_coverage(counts))
    types = [row for row in table(out, "types") if (row["station"], row["period"]) == ("north", "all")]
    found = {row["song_type"]: int(row["n_songs"]) for row in types}
    assert found == {"T0001": 7, "T0002": 3, "T0003": 2, "T0004": 2}
    assert [(row["n_songs"], row["recorded_hours"]) for row in table(out, "effort")] == [("14", "1.0")] * 2
    assert sum(int(row["n_songs"]) for row in table(out, "days")) == 28
    ends = {row["station"]: float(row["n_types"]) for row in table(out, "accumulation")}
    assert ends == {"all": 4.0, "north": 4.0, "south": 4.0}


def test_what_follows_what_stays_within_bouts(made: tuple[Any, Path]) -> None:
    """Silence and novel songs end a bout, noise does not, and what people merged follows as one."""
    rows = table(made[1], "transitions")
    found: dict[str, dict[str, int]] = {"north": {}, "south": {}, "all": {}}
    for row in rows:
        if row["period"] == "all":
            found[row["station"]][row["song_type"][-1] + row["followed_by"][-1]] = int(row["n"])
    south = {"12": 3, "21": 1, "23": 1, "31": 1, "13": 1, "34": 1, "41": 1, "11": 1, "24": 1}
    assert found["south"] == south
    assert found["north"] == {**south, "12": 2}


def test_the_page_needs_nothing_beside_it(made: tuple[Any, Path]) -> None:
    """One file holds text and pictures of all stations and of each."""
    page = (made[1] / "repertoire.html").read_text()
    assert page.count("<svg") == 3 * 5
    assert re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", page) == []


def test_a_part_of_a_store(store: Path, tmp_path: Path) -> None:
    """A station and days choose songs; the same numbers come from the whole; without pictures there is no page."""
    answer = run(store, tmp_path, "--station", "south", "--from", "2025-12-01", "--period", "none", "--tables-only")
    assert [(one["station"], one["n_songs"]) for one in answer["repertoires"]] == [("all", 14), ("south", 14)]
    assert not (tmp_path / "repertoire.html").exists()
    with pytest.raises(SongError) as error:
        run(tmp_path, tmp_path)
    assert error.value.reason == "DATABASE_MISSING"
    with sqlite3.connect(tmp_path / DATABASE_NAME) as old:
        old.executescript(Path(__file__).with_name("first_schema.sql").read_text())
    old.close()
    with pytest.raises(SongError) as error:
        run(tmp_path, tmp_path)
    assert error.value.reason == "STORE_TOO_OLD"


@pytest.mark.parametrize(
    ("options", "reason", "told"),
    [
        (("--station", "meadow"), "STATION_UNKNOWN", "nothing of a station 'meadow'; it has heard north, south"),
        (("--to", "2020-01-01"), "NO_SONGS", "first was sung on 2025-11-24, the last on 2025-12-25, UTC"),
        (
            ("--station", "south", "--to", "2025-12-01"),
            "NO_SONGS",
            "no song of station 'south' is stored from that time",
        ),
    ],
)
def test_why_there_are_no_songs(store: Path, tmp_path: Path, options: tuple[str, ...], reason: str, told: str) -> None:
    """A station that nobody heard, and a time in which nobody sang, are told apart, and what there is instead is said."""
    with pytest.raises(SongError) as error:
        run(store, tmp_path, *options)
    assert (error.value.reason, told in str(error.value)) == (reason, True), error.value


def test_an_empty_store_is_told(tmp_path: Path) -> None:
    """A server that heard nothing yet has no station, and no first or last song."""
    with Opened(tmp_path / "data"):
        pass
    with pytest.raises(SongError, match=r"^no song is stored yet") as error:
        run(tmp_path / "data", tmp_path)
    assert error.value.reason == "NO_SONGS"
    with pytest.raises(SongError, match="has heard no station yet") as error:
        run(tmp_path / "data", tmp_path, "--station", "meadow")
    assert error.value.reason == "STATION_UNKNOWN"


def test_times_the_wrong_way_round_are_wrong_usage(store: Path, tmp_path: Path) -> None:
    """As `songs list` says it, before the store is looked at."""
    app = typer.Typer()
    app.command()(repertoire)
    options = ["--store", str(store), "--out", str(tmp_path / "out"), "--from", "2026-05-02", "--to", "2026-05-01"]
    done = CliRunner().invoke(app, options, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "--from 2026-05-02T00:00:00Z is not before --to 2026-05-01T00:00:00Z" in done.stderr


def test_a_store_without_types_says_so(tmp_path: Path) -> None:
    """Of novel songs alone nothing is estimated: their number is said, tables have their columns, there are no numbers."""
    with Opened(tmp_path / "data") as opened:
        record = opened.store.open_session(opening(1, "north")).result(10)
        songs = [song(record, 3.0 + 2 * number, novelty="novel") for number in range(3)]
        opened.store.commit(replace(commit(record, 1, *songs), recorded_s={START_MS: 3600.0})).result(10)
    out = tmp_path / "out"
    whole = run(tmp_path / "data", out)["repertoires"][0]
    assert (whole["n_songs"], whole["n_types"], whole["n_novel"]) == (0, 0, 3)
    unknown = {name for name, value in whole.items() if value is None}
    assert unknown == {name for name in whole if name.startswith(("coverage", "chao1", "zipf_"))}
    for name, columns in COLUMNS.items():
        assert (out / f"{name}.csv").read_text().splitlines()[0] == ",".join(columns)
        assert pq.read_schema(out / f"{name}.parquet").names == list(columns)
    assert table(out, "types") == table(out, "days") == table(out, "transitions") == []
    page = (out / "repertoire.html").read_text()
    assert "No song has a type yet; 3 songs are novel." in page
    assert "<b>–</b><span>types, Chao1</span>" in page
    said = print_for_people(tmp_path / "data", out)
    assert "novel songs: 3" in said
    assert "0.0" not in said
    assert "–" in said


def test_one_type_has_no_ranks(tmp_path: Path) -> None:
    """With a single type there is an estimate, but no law of ranks."""
    with Opened(tmp_path / "data") as opened:
        record = opened.store.open_session(opening(1, "north")).result(10)
        opened.store.commit(commit(record, 1, song(record, 3.0, "T0001"), song(record, 5.0, "T0001"))).result(10)
    whole = run(tmp_path / "data", tmp_path / "out")["repertoires"][0]
    assert (whole["chao1"], whole["zipf_exponent"], whole["zipf_p_value"]) == (1.0, None, None)
    assert "One type has no ranks." in (tmp_path / "out" / "repertoire.html").read_text()
    assert "0.00 (1.00)" not in print_for_people(tmp_path / "data", tmp_path / "out")


def test_intervals_are_whole_at_80_columns(store: Path, tmp_path: Path) -> None:
    """Each on the line of its row, within the terminal."""
    terminal = {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}
    lines = print_for_people(store, tmp_path, **terminal).splitlines()
    rows = [line for line in lines if re.search(r"\d \(\d+\.\d-\d+\.\d\)", line)]
    assert len(rows) >= 3
    assert max(map(len, rows)) <= 80
    assert not any("…" in line for line in lines)


def print_for_people(store: Path, out: Path, **environment: str) -> str:
    """Run the command without --json and return what it prints."""
    app = typer.Typer()
    app.command()(repertoire)
    arguments = ["--store", str(store), "--out", str(out), "--bootstrap", "20", "--tables-only"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "120", **environment})
    assert done.exit_code == 0, done
    return done.stdout


def test_the_store_by_its_url(store: Path, made: tuple[Any, Path], tmp_path: Path) -> None:
    """The form that `recluster` takes names the same store; a file of another name is none."""
    url = f"sqlite:///{store / DATABASE_NAME}"
    answer = run(url, tmp_path, "--tables-only")
    assert (answer["store"], answer["repertoires"]) == (url, made[0]["repertoires"])
    with pytest.raises(SongError) as error:
        run(f"sqlite:///{store / 'other.sqlite'}", tmp_path)
    assert error.value.reason == "DATABASE_MISSING"
    with pytest.raises(SongError, match=r"songs.sqlite is a file; name the data directory of a server$"):
        run(store / DATABASE_NAME, tmp_path)


def test_both_databases_say_the_same(made: tuple[Any, Path], tmp_path: Path, postgres: PostgresServer) -> None:
    """The songs in PostgreSQL give the same numbers."""
    url = postgres.new_database()
    with Opened(tmp_path / "data", database_url=url) as opened:
        fill(opened)
    answer = run(url, tmp_path / "out", "--tables-only")
    assert answer["repertoires"] == made[0]["repertoires"]


def test_false_alarms_alone_make_no_retraining_due() -> None:
    """Of 1,000 weeks with nothing new about one in a thousand raises the gauge; forty songs of a new type do every time."""
    rng = np.random.default_rng(5)
    alarms = rng.binomial(2000, 0.05, 1000)
    due = [retraining_due(novel_excess(2000, int(n), 0.05), 0)["novel_songs"] for n in alarms]
    assert sum(due) <= 5
    assert all(retraining_due(novel_excess(2000, int(n) + 60, 0.05), 0)["novel_songs"] for n in alarms[alarms >= 100])
    assert not retraining_due(novel_excess(0, 0, 0.05), 9)["decisions"]
    assert not retraining_due(novel_excess(10, 10, 0.05), 0)["novel_songs"]  # few songs, however strange


def test_ten_decisions_that_hold_make_a_retraining_due() -> None:
    """Names, undone decisions and those before the bundle was made do not count."""
    actions: list[Action] = [
        Name(type_id="T0001", name="x"),
        *[Mark(kind="noise", type_id=f"T{n:04d}") for n in range(1, 11)],
        Split(type_id="T0020", new_id="P0001", songs=("a",), sound="song"),
        Undo(seq=2),
    ]
    decisions = [Decision(seq, START_MS + seq * DAY_MS, "ada", action) for seq, action in enumerate(actions, 1)]
    assert decided_since(decisions, {2}, START_MS) == 10
    assert retraining_due(novel_excess(0, 0, 0.05), 10)["decisions"]
    assert decided_since(decisions, {2}, START_MS + 4 * DAY_MS) == 8 + 1
