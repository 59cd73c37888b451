"""Nearest songs of many, shard by shard as Ray tasks whose results stay on disk: a killed run goes on with the rest."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa

from songcore.arrays import FloatArray
from songtrain.archive.clusters import neighbours_of_shard
from songtrain.archive.shards import write_whole
from songtrain.archive.tasks import on_cluster
from songtrain.cluster import ray_session
from songtrain.clusterers.reachability import Neighbours, nearest_neighbours
from songtrain.recluster.run_folder import write_whole_file

__all__ = ["kept_neighbours"]


def kept_neighbours(
    points: FloatArray,
    n_neighbours: int,
    folder: Path,
    *,
    shard_songs: int,
    address: str | None,
    on_shard: Callable[[], None] = lambda: None,
) -> Neighbours:
    """Return the neighbours of points (n, d) among themselves, the same wherever and in however many pieces they are found.

    One shard without an address is done here, without Ray. ``folder`` must be one that all nodes of the cluster see.
    """
    n_shards = max(1, -(-len(points) // shard_songs))
    if n_shards == 1 and address is None:
        return nearest_neighbours(points, points, n_neighbours)
    folder.mkdir(parents=True, exist_ok=True)
    shards = [folder.absolute() / f"points-{number:05d}.parquet" for number in range(n_shards)]
    for path, rows in zip(shards, np.array_split(points, n_shards), strict=True):
        if not path.exists():
            flat = pa.array(np.ascontiguousarray(rows, np.float32).ravel())
            write_whole(pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])}), path)
    missing = [path for path in shards if not _kept(path).exists()]
    if missing:
        with ray_session(address):
            for _ in on_cluster(_keep_neighbours, missing, shards, n_neighbours):
                on_shard()
    found = []
    for path in shards:
        with np.load(_kept(path), allow_pickle=False) as arrays:
            found.append((arrays["indices"], arrays["distances"]))
    return Neighbours(np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found]))


def _kept(shard: Path) -> Path:
    return shard.with_name(f"{shard.stem.replace('points', 'neighbours')}.npz")


def _keep_neighbours(path: Path, shards: Sequence[Path], n_neighbours: int) -> None:
    found = neighbours_of_shard(path, shards, n_neighbours)
    file = BytesIO()
    np.savez(file, indices=found.indices, distances=found.distances)
    write_whole_file(_kept(path), file.getvalue())
