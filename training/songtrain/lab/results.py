"""The table of results: one row per system, parameters and seed, in a Parquet file that is rewritten whole after every row."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from songcore.errors import ConfigError, InputError

__all__ = [
    "FILE_NAME",
    "LABEL_FREE",
    "LABEL_SCORES",
    "SCORES",
    "Key",
    "Row",
    "n_codes",
    "newest",
    "parameters_text",
    "read_rows",
    "without_distances",
    "write_rows",
]

FILE_NAME = "results.parquet"
Key: TypeAlias = tuple[str, str, int]
"""System, its swept parameters as text, and seed."""

LABEL_SCORES = ("nmi", "nmi_geometric", "ami", "ari", "v_measure", "accuracy", "random_nmi")
LABEL_FREE = (
    *("silhouette", "calinski_harabasz", "davies_bouldin", "inertia", "inertia_share"),
    *("stability_halves", "neighbour_agreement", "effective_rank", "largest_share", "n_distinct"),
    *("k_low", "k_high"),
)
SCORES = (*LABEL_SCORES, *LABEL_FREE)
OF_DISTANCES = ("silhouette", "calinski_harabasz", "davies_bouldin", "inertia", "inertia_share", "n_distinct")


def parameters_text(parameters: Iterable[tuple[str, Any]]) -> str:
    """Return swept parameters as one text, the same in whatever order they are given."""
    return ", ".join(f"{name}={value}" for name, value in sorted(parameters))


@dataclass(frozen=True)
class Row:
    """What one system did with one seed; ``error`` is empty unless it failed."""

    system: str
    seed: int
    description: str
    """Every parameter of every part: a row counts only for the system that it was made by."""
    songs: str
    """Digest of the songs."""
    n_songs: int
    parameters: dict[str, Any] = field(default_factory=dict)
    """What a sweep changed in the system, as ``clusterer.n_clusters``; empty for the system itself."""
    n_clusters_given: int | None = None
    n_clusters: int | None = None
    """Clusters found, those left out of all not counted as one."""
    unclustered_share: float | None = None
    n_epochs_asked: int | None = None
    n_epochs: int | None = None
    """Epochs that a network finished; None without a network."""
    seconds: float | None = None
    peak_memory_mib: float | None = None
    """Of the larger of the two processes that worked for the row, libraries included."""
    error: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    """Those of `SCORES` that there are."""
    history: tuple[dict[str, float], ...] = ()
    """One dict per epoch that the encoder finished, as it tells of itself."""
    types: tuple[dict[str, Any], ...] = ()
    """Of every annotated type what `TypeScore` has: songs, cluster, precision, recall."""
    code: str = ""
    """Digest of the code that made the row, which still counts when the code has changed; empty for rows older than this."""
    weights: str = ""
    """Of a frozen encoder, "random" or "pretrained"; empty for all others, and for rows older than this."""
    labels: tuple[int, ...] = ()
    """The cluster of every song, -1 for none."""

    @property
    def key(self) -> Key:
        """What the row is the result of."""
        return self.system, parameters_text(self.parameters.items()), self.seed


_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("system", "description", "songs", "error", "parameters", "history")],
        *[(name, pa.string()) for name in ("types", "code", "weights")],
        *[(name, pa.int64()) for name in ("seed", "n_songs", "n_clusters_given", "n_clusters")],
        *[(name, pa.int64()) for name in ("n_epochs_asked", "n_epochs")],
        *[(name, pa.float64()) for name in ("unclustered_share", "seconds", "peak_memory_mib", *SCORES)],
        ("labels", pa.list_(pa.int32())),
    ]
)
_AS_JSON = ("parameters", "history", "types")
_LATER = {"types": "[]", "code": "", "weights": ""}
"""Columns that older tables lack, and what they have in their place."""


def write_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Write the rows in order of system and seed, whole or not at all; ConfigError when the disk does not take them."""
    flat = []
    for row in sorted(rows, key=lambda row: row.key):
        values = asdict(row)
        values |= {name: json.dumps(values[name]) for name in _AS_JSON}
        flat.append(values | dict.fromkeys(SCORES) | values.pop("scores"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(flat, _SCHEMA), folder / f".{FILE_NAME}.partial")
        (folder / f".{FILE_NAME}.partial").rename(folder / FILE_NAME)
    except OSError as error:
        raise ConfigError(
            f"cannot write results to {folder} ({error}); make room, or choose another folder",
            reason="OUTPUT_NOT_WRITABLE",
        ) from error


def newest(rows: Iterable[Row]) -> list[Row]:
    """Return the rows without those that an earlier command left behind: more seeds, with other parameters.

    Every command begins with the least seed, so that one tells which parameters are the newest.
    """
    first: dict[tuple[str, str], Row] = {}
    rows = sorted(rows, key=lambda row: row.key)
    for row in rows:
        first.setdefault(row.key[:2], row)
    return [row for row in rows if row.description == first[row.key[:2]].description]


def n_codes(rows: Iterable[Row]) -> int:
    """Return how many states of the code made the rows that worked."""
    return len({row.code for row in rows if not row.error})


def without_distances(scores: dict[str, float], clusterer: str) -> dict[str, float]:
    """Return the scores that mean something for points of this clusterer: of shares of clusters no distances do.

    Saturated shares are a handful of points as far apart as can be, however wrong the clusters.
    """
    return {name: value for name, value in scores.items() if clusterer != "argmax" or name not in OF_DISTANCES}


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of the folder, none when there is no table; InputError when the table is not one of ours."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    try:
        table = pq.read_table(path, partitioning=None)
        for name in _LATER.keys() - set(table.column_names):
            table = table.append_column(name, pa.array([_LATER[name]] * len(table), pa.string()))
        lines = table.select(_SCHEMA.names).cast(_SCHEMA).to_pylist()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path} is no table of results ({error}); delete it, or choose another folder", reason="NOT_A_TABLE"
        ) from error
    names = [f.name for f in fields(Row) if f.name not in {"scores", "labels", *_AS_JSON}]
    return [
        Row(
            **{name: line[name] for name in names},
            parameters=json.loads(line["parameters"]),
            history=tuple(json.loads(line["history"])),
            types=tuple(json.loads(line["types"])),
            scores=without_distances(
                {name: line[name] for name in SCORES if line[name] is not None and not _counted_otherwise(name, line)},
                json.loads(line["description"] or "{}").get("clusterer", [""])[0],
            ),
            labels=tuple(line["labels"]),
        )
        for line in lines
    ]


def _counted_otherwise(score: str, line: Mapping[str, Any]) -> bool:
    """Whether it is an accuracy from when songs that a clusterer left out could be named rightly; those rows name no code."""
    return score == "accuracy" and not line["code"] and -1 in line["labels"]
