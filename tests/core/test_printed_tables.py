"""Tables for people: an id is whole wherever it is printed, so that it can be copied into the next command."""

import re

import pytest
from rich.table import Table

from songcore.printed_tables import add_id_column, add_number_columns, print_fields, print_table

UID = "f3c7f4a0-5a3c-5f0e-9d3a-0b9f6f0a1b2c"


def printed(capsys: pytest.CaptureFixture[str], *, rows: int = 2) -> list[str]:
    """Return the lines of a table of several columns with an id in the middle."""
    table = Table("start, UTC", "said", title="songs")
    add_id_column(table, "song")
    table.add_column("more")
    for _ in range(rows):
        table.add_row("2026-05-01 04:30:00", "several words that may be wrapped", UID, "quality")
    print_table(table)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [10, 40, 80, 200])
@pytest.mark.parametrize("terminal", ["", "1"])
def test_ids_are_whole(
    columns: int, terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However narrow the terminal, and without one, nothing is cut; without one each row is a line."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", terminal)
    text = "\n".join(printed(capsys))
    assert text.count(UID) == 2
    assert "…" not in text
    # On a terminal of 10 it is wrapped, between words; any other has room for it in a line.
    assert (text.count("several words that may be wrapped") == 2) == (not terminal or columns >= 40)
    for word in ("2026-05-01", "04:30:00", "several", "wrapped", "quality", "start,", "more"):
        assert text.count(word) in {1, 2}, text


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Print as on a terminal of 80 columns."""
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_what_does_not_fit_beside_the_rest_stands_below_it(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Column by column, so that headings stand over what they are of; the box goes first."""
    del terminal
    assert printed(capsys, rows=1) == [
        "songs",
        "start, UTC           said",
        "  song                                  more",
        "2026-05-01 04:30:00  several words that may be wrapped",
        f"  {UID}  quality",
    ]


def test_prose_is_broken_between_words_where_the_rest_has_room(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its column, and the box stays."""
    table = Table("what", "said")
    add_number_columns(table, "n")
    table.add_row("merged", " ".join(["perhaps"] * 12), "7")
    table.add_row("", "", "1,000")
    print_table(table)
    lines = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.count("perhaps") for line in lines) == 12
    assert [line.rstrip(" │")[-5:] for line in lines if "7 │" in line or "000" in line] == ["    7", "1,000"]
    terminal.setenv("COLUMNS", "24")
    print_table(table)
    lines = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 24
    assert sum(line.count("perhaps") for line in lines) == 12


def test_fields(terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A value stands beside its name, or below it when it is an id that has no room there; markup is none."""
    del terminal
    digest = "d" * 64
    print_fields([("name", "[b]x"), ("same_songs_as_active", digest), ("words", "perhaps " * 10)])
    assert capsys.readouterr().out.splitlines() == [
        "name                  [b]x",
        "same_songs_as_active",
        f"  {digest}",
        "words                 perhaps perhaps perhaps perhaps perhaps perhaps perhaps",
        "                      perhaps perhaps perhaps",
    ]


def test_a_terminal_is_filled_no_wider_than_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is wide enough for words and ids, no line is longer than it."""
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert max(map(len, printed(capsys))) <= 90
