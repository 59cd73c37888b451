"""What the report needs beside the table of results: a table of the songs, and the points of every system's first seed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError
from songtrain.datasets.songs import SongSet
from songtrain.evaluation.song_statistics import SongStatistics
from songtrain.lab.trial import Points

__all__ = ["KeptPoints", "SongTable", "has_songs", "keep_points", "keep_songs", "read_points", "read_songs"]

FILE_NAME = "songs.parquet"
MAX_POINTS = 3000
"""Maps and distances of more songs say nothing more, and take minutes."""
STATISTICS = tuple(f.name for f in fields(SongStatistics))


@dataclass(frozen=True)
class SongTable:
    """The songs of a run, in the order of the labels of its rows."""

    labels: tuple[str, ...]
    duration_s: FloatArray
    """(n,)"""
    statistics: dict[str, FloatArray]
    """(n,) each, by the name it has in `SongStatistics`; empty when the recordings were not to be had."""


@dataclass(frozen=True)
class KeptPoints:
    """Up to 3,000 songs as a system's first seed placed them."""

    chosen: IntArray
    """(k,) which songs."""
    values: FloatArray
    """(k, d)"""
    reconstructions: FloatArray | None
    """(2, m, n_frames, d) songs as an autoencoder got them, and as it gave them back."""


def keep_points(folder: Path, system: str, points: Points) -> None:
    """Write the points of a system; ConfigError when the disk does not take them."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(points.values))[:MAX_POINTS]).astype(np.int64)
    arrays: dict[str, Any] = {"chosen": chosen, "values": points.values[chosen]}
    if points.reconstructions is not None:
        arrays["reconstructions"] = points.reconstructions
    path = _points_file(folder, system)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.rename(path)
    except OSError as error:
        raise _not_written(path, error) from error


def read_points(folder: Path, system: str) -> KeptPoints | None:
    """Return the points of a system, None when there are none."""
    path = _points_file(folder, system)
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        again = arrays.get("reconstructions")
        return KeptPoints(arrays["chosen"], arrays["values"], again)


def has_songs(folder: Path, digest: str) -> bool:
    """Whether the folder has the table of the songs with this digest."""
    path = folder / FILE_NAME
    return path.exists() and (pq.read_schema(path).metadata or {}).get(b"songs") == digest.encode()


def keep_songs(folder: Path, songs: SongSet, rate: int, statistics: Sequence[SongStatistics], digest: str) -> None:
    """Write the table of the songs, places in samples at ``rate``; ConfigError when the disk does not take it.

    Songs whose sound could not be had again have no statistics: ``statistics`` is then empty.
    """
    path = folder / FILE_NAME
    table: dict[str, Any] = {
        "recording": songs.recordings,
        "onset": [place.onset for place in songs.places],
        "offset": [place.offset for place in songs.places],
        "label": songs.labels,
        "duration_s": [(place.offset - place.onset) / rate for place in songs.places],
    }
    if statistics:
        table |= {name: [getattr(song, name) for song in statistics] for name in STATISTICS}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table).replace_schema_metadata({"songs": digest}), path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    except OSError as error:
        raise _not_written(path, error) from error


def read_songs(folder: Path) -> SongTable | None:
    """Return the table of the songs, None when no run got so far."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    table = pq.read_table(path, partitioning=None)
    columns = {name: np.asarray(table[name]) for name in STATISTICS if name in table.column_names}
    return SongTable(tuple(table["label"].to_pylist()), np.asarray(table["duration_s"]), columns)


def _points_file(folder: Path, system: str) -> Path:
    return folder / "points" / f"{quote(system, safe='')}.npz"


def _not_written(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot write {path} ({error.strerror}); make room, or choose another folder", reason="OUTPUT_NOT_WRITABLE"
    )
