"""Raven selection tables, in and out.

Tab-separated, with a header; the seven columns of `COLUMNS` first and any others after them. In a table over several
recordings ``Begin Path`` names the recording, Begin and End Time accumulate over the recordings in their order, and
``File Offset (s)`` is the begin within its own recording.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import TextIO

from songcore.annotations import Annotation, format_seconds, parse_number, single_line, table_rows
from songcore.errors import InputError

__all__ = ["COLUMNS", "read_raven", "write_raven"]

COLUMNS = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
LABEL_COLUMNS = ("Annotation", "Label", "Song Type", "Species", "Species Code", "Common Name", "Type")
"""What people call the column with the label, in the order of preference."""

VIEW = "Spectrogram 1"
PATH_COLUMNS = ("Begin Path", "Begin File")
OFFSET_COLUMN = "File Offset (s)"


def read_raven(
    file: TextIO, *, recording: str = "", label_column: str | None = None, name: str = "selection table"
) -> list[Annotation]:
    """Return the selections of a table, one each, in its order, times within their own recording.

    ``recording`` names the recording where the table does not. The label is in ``label_column``, or in the first of
    `LABEL_COLUMNS` there is, or empty. Raises InputError COLUMN_MISSING, NUMBER_INVALID, TIMES_INVALID or
    OFFSET_MISSING, naming file and line.
    """
    required = [*COLUMNS[3:5], *([label_column] if label_column else [])]
    selections: dict[tuple[str, ...], tuple[str, dict[str, str]]] = {}
    for where, row in table_rows(file, name=name, delimiter="\t", required=required):
        # Raven writes a selection once per view it is shown in; only a spectrogram's row knows its frequencies. Tables
        # that people glued together number from 1 several times, so the number alone does not make it the same.
        selection = (row.get("Selection") or where, row["Begin Time (s)"], row["End Time (s)"])
        if selection not in selections or row.get("View", "").startswith("Spectrogram"):
            selections[selection] = where, row
    rows = list(selections.values())
    _check_offsets(rows, name)
    return [_annotation(row, where, recording, label_column) for where, row in rows]


def _check_offsets(rows: Sequence[tuple[str, Mapping[str, str]]], name: str) -> None:
    """Refuse times that accumulate over several recordings without the offset within each."""
    paths = {_path(row) for _, row in rows}
    if len(paths) > 1 and any(not row.get(OFFSET_COLUMN) for _, row in rows):
        raise InputError(
            f"{name} covers {len(paths)} recordings without '{OFFSET_COLUMN}' in every line, so the times within a "
            "recording are unknown; add that measurement in Raven and save the table again",
            reason="OFFSET_MISSING",
        )


def _annotation(row: Mapping[str, str], where: str, recording: str, label_column: str | None) -> Annotation:
    begin_s = parse_number(row["Begin Time (s)"], "Begin Time (s)", where)
    end_s = parse_number(row["End Time (s)"], "End Time (s)", where)
    onset_s = parse_number(row[OFFSET_COLUMN], OFFSET_COLUMN, where) if row.get(OFFSET_COLUMN) else begin_s
    if begin_s < 0 or onset_s < 0 or end_s < begin_s:
        raise InputError(
            f"{where}: selection from {begin_s:g} s to {end_s:g} s; expected 0 <= begin <= end",
            reason="TIMES_INVALID",
        )
    column = label_column or next((known for known in LABEL_COLUMNS if known in row), None)
    known = {*COLUMNS, *PATH_COLUMNS, OFFSET_COLUMN, column}
    return Annotation(
        recording=_path(row) or recording,
        onset_s=onset_s,
        offset_s=end_s if onset_s == begin_s else onset_s + (end_s - begin_s),
        label=row[column] if column else "",
        low_hz=_frequency(row, "Low Freq (Hz)", where),
        high_hz=_frequency(row, "High Freq (Hz)", where),
        more={name: value for name, value in row.items() if name not in known},
    )


def _path(row: Mapping[str, str]) -> str:
    """Return the recording's path with forward slashes; Raven on Windows writes backward ones."""
    path = next((row[column] for column in PATH_COLUMNS if row.get(column)), "")
    return PureWindowsPath(path).as_posix() if "\\" in path else path


def _frequency(row: Mapping[str, str], column: str, where: str) -> float | None:
    return parse_number(row[column], column, where) if row.get(column) else None


def write_raven(
    file: TextIO,
    annotations: Iterable[Annotation],
    *,
    durations_s: Mapping[str, float],
    band_hz: tuple[float, float],
    channel: int = 1,
    more: Sequence[str] = (),
) -> None:
    """Write a selection table over the recordings of ``durations_s``, whose order and lengths place Begin and End Time.

    A song without frequencies of its own gets ``band_hz``, as Raven draws no box without them. Raises KeyError for a
    song of a recording that is not in ``durations_s``.
    """
    begins_s, end_s = {}, 0.0
    for recording, duration_s in durations_s.items():
        begins_s[recording] = end_s
        end_s += duration_s
    writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    writer.writerow([*COLUMNS, "Begin Path", OFFSET_COLUMN, "Annotation", *more])
    for number, song in enumerate(annotations, start=1):
        begin_s = begins_s[song.recording]
        times = format_seconds(begin_s + song.onset_s), format_seconds(begin_s + song.offset_s)
        low_hz = band_hz[0] if song.low_hz is None else song.low_hz
        high_hz = band_hz[1] if song.high_hz is None else song.high_hz
        # A path keeps its blanks, several in a row too.
        place = re.sub(r"[\t\r\n]", " ", song.recording), format_seconds(song.onset_s)
        cells = [single_line(cell) for cell in (song.label, *(song.more.get(column, "") for column in more))]
        writer.writerow([number, VIEW, channel, *times, f"{low_hz:.1f}", f"{high_hz:.1f}", *place, *cells])
