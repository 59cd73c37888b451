"""Annotated songs, and the table every other part reads and writes: ``songs.csv``.

``recording,onset_s,offset_s,label[,more]``: one song per line, times in seconds from the recording's start, the label
may be empty, columns beyond the four are kept. Raven's and Audacity's own formats are in `raven` and `audacity`; all
of them meet in `Annotation`.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TextIO

from songcore.errors import InputError

__all__ = [
    "SONGS_COLUMNS",
    "Annotation",
    "format_seconds",
    "parse_number",
    "read_songs_csv",
    "single_line",
    "table_rows",
    "write_songs_csv",
]

SONGS_COLUMNS = ("recording", "onset_s", "offset_s", "label")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One song of one recording; times in seconds from the recording's start, ``offset_s`` not before ``onset_s``.

    Equal times are a point in time, as Audacity's point labels are. Raises InputError TIMES_INVALID otherwise.
    """

    recording: str
    onset_s: float
    offset_s: float
    label: str = ""
    low_hz: float | None = None
    high_hz: float | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    """Further columns of the table it came from or goes to, by name."""

    def __post_init__(self) -> None:
        if not (isfinite(self.onset_s) and isfinite(self.offset_s) and 0 <= self.onset_s <= self.offset_s):
            raise InputError(
                f"a song from {self.onset_s} s to {self.offset_s} s; expected 0 <= onset <= offset",
                reason="TIMES_INVALID",
            )


def read_songs_csv(file: TextIO, *, name: str = "songs.csv") -> list[Annotation]:
    """Return every song of an open ``songs.csv``, in its order.

    Raises InputError COLUMN_MISSING, NUMBER_INVALID or TIMES_INVALID, naming file and line. A song of no length is an
    error here: nothing can be cut out of it.
    """
    annotations = []
    for where, row in table_rows(file, name=name, delimiter=",", required=SONGS_COLUMNS[:3]):
        onset_s = parse_number(row["onset_s"], "onset_s", where)
        offset_s = parse_number(row["offset_s"], "offset_s", where)
        if not 0 <= onset_s < offset_s:
            raise InputError(
                f"{where}: onset_s {onset_s:g}, offset_s {offset_s:g}; expected 0 <= onset_s < offset_s",
                reason="TIMES_INVALID",
            )
        more = {column: value for column, value in row.items() if column not in SONGS_COLUMNS}
        annotations.append(Annotation(row["recording"], onset_s, offset_s, row.get("label", ""), more=more))
    return annotations


def write_songs_csv(file: TextIO, annotations: Iterable[Annotation], *, more: Sequence[str] = ()) -> None:
    """Write a ``songs.csv`` with the columns ``more`` besides, to the microsecond; an absent value stays empty."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*SONGS_COLUMNS, *more])
    for song in annotations:
        times = format_seconds(song.onset_s), format_seconds(song.offset_s)
        writer.writerow([song.recording, *times, song.label, *(song.more.get(column, "") for column in more)])


def table_rows(
    file: TextIO, *, name: str, delimiter: str, required: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ("file, line n", row by column) of a table with a header; short rows are filled up with empty cells.

    Raises InputError COLUMN_MISSING, or NOT_A_TABLE when it is not text or a cell never ends.
    """
    if delimiter == "\t":
        # Raven quotes nothing: a quotation mark in one of its notes is a quotation mark.
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _columns(cells, name, required)
                continue
            values = [cell.strip() for cell in cells] + [""] * (len(columns) - len(cells))
            yield f"{name}, line {reader.line_num}", dict(zip(columns, values, strict=False))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{name}, line {reader.line_num + 1}: not readable as a table ({error}); expected UTF-8 text",
            reason="NOT_A_TABLE",
        ) from error
    if columns is None:
        raise InputError(f"{name} is empty; expected a header with {', '.join(required)}", reason="COLUMN_MISSING")


def _columns(cells: Sequence[str], name: str, required: Sequence[str]) -> list[str]:
    columns = [cell.strip().removeprefix("\ufeff") for cell in cells]
    missing = [column for column in required if column not in columns]
    if missing:
        raise InputError(
            f"{name} has no column {', '.join(missing)}; its header is: {', '.join(columns)[:200]}",
            reason="COLUMN_MISSING",
        )
    return columns


def parse_number(text: str, column: str, where: str) -> float:
    """Return the finite number that ``text`` says; raises InputError NUMBER_INVALID, naming line and column."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise InputError(f"{where}: {column} is {text!r}; expected a number such as 12.5", reason="NUMBER_INVALID")
    return number


def format_seconds(time_s: float) -> str:
    """Return the time to the microsecond, finer than the sample period of any recorder, never in powers of ten."""
    return f"{time_s:.6f}"


def single_line(label: str) -> str:
    """Return the label with tabs and line breaks as spaces, for formats that cannot quote."""
    return " ".join(label.split())
