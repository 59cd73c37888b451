r"""Audacity label tracks, in and out: ``start<TAB>end<TAB>label`` without a header.

A label with frequencies has a second line, ``\<TAB>low<TAB>high``; Audacity writes -1 for a side that is not set.
"""

from collections.abc import Iterable
from typing import TextIO

from songcore.annotations import Annotation, format_seconds, parse_number, single_line
from songcore.errors import InputError

__all__ = ["read_audacity", "write_audacity"]


def read_audacity(file: TextIO, *, recording: str = "", name: str = "label track") -> list[Annotation]:
    """Return the labels of one recording in the file's order; a point label is a song of no length.

    Raises InputError COLUMN_MISSING, NUMBER_INVALID or TIMES_INVALID, naming file and line, NOT_A_TABLE for anything
    that is not text.
    """
    songs: list[Annotation] = []
    try:
        for number, line in enumerate(file, start=1):
            where, cells = f"{name}, line {number}", line.removeprefix("\ufeff").rstrip("\r\n").split("\t")
            if not line.strip():
                continue
            if cells[0].strip() == "\\":
                if not songs or len(cells) < 3:
                    raise _malformed(where, line, "'\\', low and high in Hz below a label")
                songs[-1] = _with_band(songs[-1], cells, where)
            else:
                songs.append(_label(cells, where, line, recording))
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not readable as text ({error}); expected UTF-8", reason="NOT_A_TABLE") from error
    return songs


def _label(cells: list[str], where: str, line: str, recording: str) -> Annotation:
    if len(cells) < 2:
        raise _malformed(where, line, "start, end and label")
    onset_s, offset_s = parse_number(cells[0], "start", where), parse_number(cells[1], "end", where)
    if not 0 <= onset_s <= offset_s:
        raise InputError(
            f"{where}: label from {onset_s:g} s to {offset_s:g} s; expected 0 <= start <= end", reason="TIMES_INVALID"
        )
    return Annotation(recording, onset_s, offset_s, "\t".join(cells[2:]).strip())


def _with_band(song: Annotation, cells: list[str], where: str) -> Annotation:
    low_hz, high_hz = (parse_number(cell, "frequency", where) for cell in cells[1:3])
    return Annotation(
        song.recording,
        song.onset_s,
        song.offset_s,
        song.label,
        low_hz=low_hz if low_hz >= 0 else None,
        high_hz=high_hz if high_hz >= 0 else None,
    )


def _malformed(where: str, line: str, expected: str) -> InputError:
    return InputError(f"{where}: found {line.strip()[:80]!r}; expected {expected}, by tabs", reason="COLUMN_MISSING")


def write_audacity(file: TextIO, annotations: Iterable[Annotation]) -> None:
    """Write a label track; a song that has frequencies gets the line that holds them."""
    for song in annotations:
        times = format_seconds(song.onset_s), format_seconds(song.offset_s)
        file.write("\t".join([*times, single_line(song.label)]) + "\n")
        if song.low_hz is not None or song.high_hz is not None:
            low_hz, high_hz = (-1.0 if side is None else side for side in (song.low_hz, song.high_hz))
            file.write(f"\\\t{low_hz:.6f}\t{high_hz:.6f}\n")
