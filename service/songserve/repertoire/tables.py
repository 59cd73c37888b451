"""The tables of a repertoire, each as CSV and Parquet, and all numbers as one JSON file."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from songcore.zipf import ZipfFit
from songserve.repertoire.measures import Repertoire, summary
from songserve.repertoire.season import Season

__all__ = ["write_json", "write_tables"]

Row = dict[str, Any]

_PLACE = {"station": str, "period": str}
COLUMNS: dict[str, dict[str, type]] = {
    "summary": {
        **_PLACE,
        "recorded_hours": float,
        "n_songs": int,
        "songs_per_hour": float,
        **dict.fromkeys(("n_novel", "n_noise", "n_types", "n_types_once", "n_types_twice"), int),
        **dict.fromkeys(("coverage", "chao1", "chao1_low", "chao1_high"), float),
        **{f"zipf_{field.name}": float for field in fields(ZipfFit)},
    },
    "types": {
        **_PLACE,
        "rank": int,
        "song_type": str,
        "name": str,
        "n_songs": int,
        "share": float,
        "songs_per_hour": float,
    },
    "accumulation": {**_PLACE, "n_songs": int, "n_types": float, "n_types_low": float, "n_types_high": float},
    "transitions": {**_PLACE, "song_type": str, "followed_by": str, "n": int, "probability": float},
    "days": {"station": str, "day": str, "song_type": str, "n_songs": int},
    "effort": {"station": str, "day": str, "recorded_hours": float, "n_songs": int, "n_novel": int, "n_noise": int},
}
"""Of each table, also of one without rows."""


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
        columns = COLUMNS[name]
        files.append(_write_csv(folder / f"{name}.csv", columns, rows))
        files.append(_write_parquet(folder / f"{name}.parquet", columns, rows))
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


def _write_csv(file: Path, columns: Mapping[str, type], rows: Sequence[Row]) -> Path:
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    return file


def _write_parquet(file: Path, columns: Mapping[str, type], rows: Sequence[Row]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), file)
    return file
