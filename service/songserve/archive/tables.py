"""The tables of a finished run: one of all songs as CSV and Parquet, one per recording for Raven and Audacity."""

import csv
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from songcore.annotations import SONGS_COLUMNS, Annotation
from songcore.audacity import write_audacity
from songcore.raven import write_raven
from songcore.recorders import utc_start
from songserve.archive.results import FoundSong, RecordingResult, atomic_file, atomic_path, create_folder
from songserve.archive.worker import BundleFacts, Outcome
from songserve.cells import NOVEL, cell, utc

__all__ = ["FORMATS", "SongRow", "song_rows", "write_failed", "write_tables"]

FORMATS = ("csv", "parquet", "raven", "audacity")
ROWS_PER_GROUP = 50_000


@dataclass(frozen=True, slots=True)
class SongRow:
    """One row of ``songs.csv`` and ``songs.parquet``, columns in this order."""

    recording: str
    onset_s: float
    offset_s: float
    label: str
    """The type's name, its id where it has none, or `NOVEL`."""
    type_id: str
    """The nearest type, also when the song is novel."""
    type_name: str
    """Empty where it has none."""
    kind: str
    similarity: float
    p_value: float
    novel: bool
    novelty: str
    """known, uncertain or novel."""
    forced_cut: bool
    snr_db: float
    quality: str
    """good, or the first thing that is wrong: short, clipped, faint, overlapped."""
    onset_utc: datetime | None
    """Where it is known when the recording began."""
    channel: int | None
    """The one chosen, counted from 1; None for the mean of all."""
    bundle: str
    """Digest of the bundle that decided."""


COLUMNS = tuple(column.name for column in fields(SongRow))


def song_rows(result: RecordingResult, facts: BundleFacts, zone: tzinfo | None = None) -> list[SongRow]:
    """Return a recording's songs as rows, in order of time; ``zone`` is that of starts which tell none."""
    start = utc_start(result.start, zone)
    return [_row(result, song, facts.type_names.get(song.type_id, ""), start) for song in result.songs]


def _row(result: RecordingResult, song: FoundSong, type_name: str, start: datetime | None) -> SongRow:
    onset_s = song.onset / result.bundle_rate_hz
    return SongRow(
        recording=result.recording,
        onset_s=onset_s,
        offset_s=song.offset / result.bundle_rate_hz,
        label=NOVEL if song.novel else type_name or song.type_id,
        type_id=song.type_id,
        type_name=type_name,
        kind=song.kind,
        similarity=song.similarity,
        p_value=song.p_value,
        novel=song.novel,
        novelty=song.novelty,
        forced_cut=song.forced_cut,
        snr_db=song.snr_db,
        quality=song.quality,
        onset_utc=None if start is None else start + timedelta(seconds=onset_s),
        channel=result.channel,
        bundle=result.bundle,
    )


def write_tables(
    out: Path,
    results: Iterable[RecordingResult],
    facts: BundleFacts,
    formats: Sequence[str],
    *,
    zone: tzinfo | None = None,
) -> list[str]:
    """Write the tables named in ``formats``, and ``recordings.csv`` with every recording's length: the effort.

    Return the tables of earlier runs that are left in ``out``, by their paths below it: of recordings that are not among
    the results, or in formats that are not asked for. ``zone`` is that of starts which tell none.

    Results are taken one at a time, so an archive of any size needs the memory of one recording, of the `ROWS_PER_GROUP`
    songs that Parquet writes together, and of the names of its tables. Each table appears whole or not at all; raises
    ConfigError OUTPUT_NOT_WRITABLE.
    """
    with ExitStack() as stack:
        effort = csv.writer(stack.enter_context(atomic_file(out / "recordings.csv")), lineterminator="\n")
        effort.writerow(["recording", "duration_s", "sample_rate_hz", "n_channels", "n_songs", "start_utc", "problem"])
        adders = [_TABLES[name](out, facts, stack) for name in formats]
        written = {f"songs.{name}" for name in formats}
        for result in results:
            effort.writerow(_effort(result, zone))
            rows = song_rows(result, facts, zone)
            for add in adders:
                add(result, rows)
            written |= {_place(name, result.recording) for name in _PLACES if name in formats}
    return sorted(_tables_in(out) - written)


_PLACES = {"raven": ".selections.txt", "audacity": ".labels.txt"}
"""Folders with a table per recording, and what follows the recording's name there."""


def _place(folder: str, recording: str) -> str:
    return f"{folder}/{recording}{_PLACES[folder]}"


def _tables_in(out: Path) -> set[str]:
    found = [path for name in ("csv", "parquet") if (path := out / f"songs.{name}").exists()]
    for folder, suffix in _PLACES.items():
        found += (out / folder).rglob(f"*{suffix}")
    return {path.relative_to(out).as_posix() for path in found}


def _effort(result: RecordingResult, zone: tzinfo | None) -> list[object]:
    start = utc_start(result.start, zone)
    return [
        result.recording,
        f"{result.duration_s:.3f}",
        result.sample_rate_hz,
        result.n_channels,
        len(result.songs),
        "" if start is None else utc(start),
        "" if result.problem is None else result.problem.reason,
    ]


def write_failed(out: Path, outcomes: Iterable[Outcome]) -> None:
    """Write ``failed.csv``: every recording that could not be read, or not to its end, and why."""
    with atomic_file(out / "failed.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["recording", "reason", "message", "seconds_used"])
        for outcome in sorted(outcomes, key=lambda outcome: outcome.recording.name):
            if outcome.problem is not None:
                seconds = f"{outcome.duration_s:.3f}"
                writer.writerow([outcome.recording.name, outcome.problem.reason, outcome.problem.message, seconds])


Adder = Callable[[RecordingResult, Sequence[SongRow]], None]


def _csv_table(out: Path, _: BundleFacts, stack: ExitStack) -> Adder:
    writer = csv.writer(stack.enter_context(atomic_file(out / "songs.csv")), lineterminator="\n")
    writer.writerow(COLUMNS)

    def add(_: RecordingResult, rows: Sequence[SongRow]) -> None:
        writer.writerows([cell(getattr(row, column)) for column in COLUMNS] for row in rows)

    return add


def _parquet_table(out: Path, _: BundleFacts, stack: ExitStack) -> Adder:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _parquet_schema(pa)
    path = stack.enter_context(atomic_path(out / "songs.parquet"))
    writer = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
    waiting: list[SongRow] = []

    def flush() -> None:
        columns = [pa.array([getattr(row, column) for row in waiting], schema.field(column).type) for column in COLUMNS]
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        waiting.clear()

    def add(_: RecordingResult, rows: Sequence[SongRow]) -> None:
        waiting.extend(rows)
        if len(waiting) >= ROWS_PER_GROUP:
            flush()

    # Runs before the writer closes: callbacks run in reverse order.
    stack.push(lambda kind, *_: flush() if kind is None else None)
    return add


def _parquet_schema(pa: Any) -> Any:
    types: dict[Any, Any] = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), int | None: pa.int16()}
    types[datetime | None] = pa.timestamp("ms", tz="UTC")
    return pa.schema([(column.name, types[column.type]) for column in fields(SongRow)])


def _raven_tables(out: Path, facts: BundleFacts, _: ExitStack) -> Adder:
    def add(result: RecordingResult, rows: Sequence[SongRow]) -> None:
        path = out / _place("raven", result.recording)
        create_folder(path.parent)
        with atomic_file(path) as file:
            write_raven(
                file,
                map(_annotation, rows),
                durations_s={result.recording: result.duration_s},
                band_hz=facts.band_hz,
                channel=result.channel or 1,
                more=[column for column in COLUMNS if column not in SONGS_COLUMNS],
            )

    return add


def _audacity_tables(out: Path, _facts: BundleFacts, _: ExitStack) -> Adder:
    def add(result: RecordingResult, rows: Sequence[SongRow]) -> None:
        path = out / _place("audacity", result.recording)
        create_folder(path.parent)
        with atomic_file(path) as file:
            write_audacity(file, map(_annotation, rows))

    return add


def _annotation(row: SongRow) -> Annotation:
    more = {column: cell(getattr(row, column)) for column in COLUMNS if column not in SONGS_COLUMNS}
    return Annotation(row.recording, row.onset_s, row.offset_s, row.label, more=more)


_TABLES: dict[str, Callable[[Path, BundleFacts, ExitStack], Adder]] = {
    "csv": _csv_table,
    "parquet": _parquet_table,
    "raven": _raven_tables,
    "audacity": _audacity_tables,
}
