"""The tables of a repertoire, each as CSV and Parquet, and all numbers as one JSON file."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from songserve.repertoire.measures import Repertoire, summary
from songserve.repertoire.season import Season

__all__ = ["write_json", "write_tables"]

Row = dict[str, Any]


def write_tables(folder: Path, season: Season, found: Sequence[Repertoire]) -> list[Path]:
    """Write ``summary``, ``types``, ``accumulation``, ``transitions``, ``days`` and ``effort``; return the files."""
    tables = {
        "summary": [summary(one) for one in found],
        "types": list(_types(found, season.names)),
        "accumulation": list(_accumulation(found)),
        "transitions": list(_transitions(found)),
        "days": list(_days(season)),
        "effort": list(_effort(season)),
    }
    files = []
    for name, rows in tables.items():
        files += [_write_csv(folder / f"{name}.csv", rows), _write_parquet(folder / f"{name}.parquet", rows)]
    return files


def write_json(file: Path, facts: Row, found: Iterable[Repertoire]) -> Path:
    """Write what was asked and the summaries."""
    file.write_text(json.dumps({**facts, "repertoires": [summary(one) for one in found]}, indent=1) + "\n")
    return file


def _place(one: Repertoire) -> Row:
    return {"station": one.station or "all", "period": one.period or "all"}


def _types(found: Iterable[Repertoire], names: dict[str, str]) -> Iterator[Row]:
    for one in found:
        for rank, (type_id, n) in enumerate(one.counts.items(), 1):
            share, per_hour = n / one.n_songs, n / one.hours if one.hours else None
            yield {
                **_place(one),
                "rank": rank,
                "song_type": type_id,
                "name": names.get(type_id, ""),
                "n_songs": n,
                "share": share,
                "songs_per_hour": per_hour,
            }


def _accumulation(found: Iterable[Repertoire]) -> Iterator[Row]:
    for one in found:
        curve = one.curve
        for n_songs, types, low, high in zip(curve.n_songs, curve.types, curve.low, curve.high, strict=True):
            yield {**_place(one), "n_songs": n_songs, "n_types": types, "n_types_low": low, "n_types_high": high}


def _transitions(found: Iterable[Repertoire]) -> Iterator[Row]:
    """Give those that were heard."""
    for one in found:
        matrix, shares = one.transitions, one.transitions.probabilities
        for row, column in zip(*matrix.counts.nonzero(), strict=True):
            yield {
                **_place(one),
                "song_type": matrix.types[row],
                "followed_by": matrix.types[column],
                "n": int(matrix.counts[row, column]),
                "probability": float(shares[row, column]),
            }


def _days(season: Season) -> Iterator[Row]:
    for day in season.days:
        for type_id, n in day.counts.items():
            yield {"station": day.station, "day": day.day, "song_type": type_id, "n_songs": n}


def _effort(season: Season) -> Iterator[Row]:
    for day in season.days:
        yield {
            "station": day.station,
            "day": day.day,
            "recorded_hours": day.recorded_s / 3600,
            "n_songs": sum(day.counts.values()),
            "n_novel": day.n_novel,
            "n_noise": day.n_noise,
        }


def _write_csv(file: Path, rows: Sequence[Row]) -> Path:
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    return file


def _write_parquet(file: Path, rows: Sequence[Row]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file
