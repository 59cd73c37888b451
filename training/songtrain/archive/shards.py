"""Embedded songs on disk: Parquet files of a few recordings each, whole or not there."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from songcore.arrays import FloatArray
from songcore.errors import ConfigError, InputError
from songtrain.datasets.distributed import Skipped
from songtrain.datasets.songs import SongPlace

__all__ = ["Shard", "n_songs", "read_embeddings", "read_places", "read_shard", "write_shard", "write_whole"]


PLACE_COLUMNS = ("recording", "onset", "offset", "label")


@dataclass(frozen=True)
class Shard:
    """The songs of some recordings, embedded."""

    places: tuple[SongPlace, ...]
    embeddings: FloatArray
    """(n, d) float32"""
    skipped: tuple[Skipped, ...] = ()


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, whole or not at all; ConfigError when the disk does not take it."""
    d = shard.embeddings.shape[1]
    flat = pa.array(np.ascontiguousarray(shard.embeddings, np.float32).ravel())
    table = pa.table(
        {
            "recording": pa.array([p.recording for p in shard.places], pa.string()),
            "onset": pa.array([p.onset for p in shard.places], pa.int64()),
            "offset": pa.array([p.offset for p in shard.places], pa.int64()),
            "label": pa.array([p.label for p in shard.places], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, d),
        }
    )
    skipped = json.dumps([[s.recording, s.reason, s.message] for s in shard.skipped])
    write_whole(table.replace_schema_metadata({"skipped": skipped}), path)


def write_whole(table: pa.Table, path: Path) -> None:
    """Write a table, whole or not at all; ConfigError when the disk does not take it."""
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two tasks may write one shard where a node was only thought lost: each has its own file until it is whole.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as file:
            partial = Path(file.name)
            # Else a flipped bit in an embedding would be read as another embedding.
            pq.write_table(table, file, write_page_checksum=True)
        partial.rename(path)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write to {path.parent} ({error.strerror or error}); make room, then give the same command again: "
            "what is finished is kept",
            reason="OUTPUT_NOT_WRITABLE",
        ) from error


def read_shard(path: Path) -> Shard:
    """Return what was written; InputError when the file is damaged."""
    table = _read(path)
    try:
        rows = zip(*(table[name].to_pylist() for name in PLACE_COLUMNS), strict=True)
        return Shard(tuple(SongPlace(*row) for row in rows), _embeddings(table), _skipped(table))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a column of another type, or no JSON
        raise _damaged(path, error) from error


def read_places(path: Path) -> tuple[pa.Table, tuple[Skipped, ...]]:
    """Return a shard's songs without their embeddings, one row each, and what was skipped; InputError when it is damaged.

    The table has the columns recording, onset and offset (samples at the bundle's rate) and label.
    """
    table = _read(path, list(PLACE_COLUMNS))
    return table.replace_schema_metadata(None), _skipped(table)


def n_songs(path: Path) -> int:
    """Return how many songs a shard has; InputError when the file is damaged."""
    return int(_read(path, []).num_rows)


def read_embeddings(path: Path) -> FloatArray:
    """Return the embeddings (n, d) float32 of a shard alone; InputError when the file is damaged."""
    return _embeddings(_read(path, ["embedding"]))


def _skipped(table: pa.Table) -> tuple[Skipped, ...]:
    return tuple(Skipped(*entry) for entry in json.loads((table.schema.metadata or {})[b"skipped"]))


def _embeddings(table: pa.Table) -> FloatArray:
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(
        len(column), column.type.list_size
    )


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, partitioning=None, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read ({error}); delete it and give the same command again", reason="NOT_A_TABLE"
    )
