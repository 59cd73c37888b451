"""Tables for people: an id is whole wherever it is printed, so that it can be copied into the next command."""

import pytest
from rich.table import Table

from songcore.printed_tables import add_id_column, print_table

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
    assert (text.count("several words that may be wrapped") == 2) == (not terminal or columns == 200)


def test_a_terminal_is_filled_no_wider_than_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is wide enough for words and ids, no line is longer than it."""
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert max(map(len, printed(capsys))) <= 90
