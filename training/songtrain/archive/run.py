"""``songstream cluster``: recordings → shards of embedded songs → clusters.parquet."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from songcore.bundle import load_bundle
from songcore.errors import InputError
from songtrain.archive.clusters import density_of_shards, kmeans_of_shards
from songtrain.archive.embedding import embed_recordings
from songtrain.archive.shards import n_songs, read_places, write_whole
from songtrain.cluster import ray_session
from songtrain.clusterers.density import by_size
from songtrain.datasets.folder import scan_folder

__all__ = ["ArchiveJob", "cluster_archive"]

TABLE = "clusters.parquet"


@dataclass(frozen=True)
class ArchiveJob:
    """What to cluster, and how."""

    data: Path
    bundle: Path
    out: Path
    n_clusters: int | None = None
    """For k-means; None finds clusters by density."""
    per_shard: int = 20
    """Recordings in one file."""
    channel: int | None = None
    seed: int = 0
    address: str | None = None
    min_songs: int | None = None
    """That a dense cluster needs at least; None for `smallest_cluster`."""


def cluster_archive(job: ArchiveJob, on_shard: Callable[[int, int], None] = lambda *_: None) -> dict[str, Any]:
    """Embed all songs of a folder, cluster them, write one row per song, and return the run's facts.

    Raises InputError when there is no song, ConfigError for what cannot be written.
    """
    folder = scan_folder(job.data)
    rate_hz = load_bundle(job.bundle, device="cpu").stream_config.frontend.sample_rate_hz
    with ray_session(job.address):
        # Absolute: tasks on other nodes work in other folders.
        paths = embed_recordings(
            folder.recordings,
            job.bundle.absolute(),
            job.out.absolute(),
            per_shard=job.per_shard,
            channel=job.channel,
            on_shard=on_shard,
        )
        if not any(map(n_songs, paths)):
            raise InputError(
                f"no songs in the {len(folder.recordings)} recordings of {job.data}", reason="TOO_FEW_SONGS"
            )
        if job.n_clusters is None:
            labels = by_size(density_of_shards(paths, job.min_songs))
        else:
            labels = by_size(kmeans_of_shards(paths, job.n_clusters, job.seed)[0])
    # What songs are called is not held while they are clustered.
    tables, skipped = zip(*map(read_places, paths), strict=True)
    places = pa.concat_tables(tables)
    table = {
        "recording": places["recording"],
        "onset_s": places["onset"].to_numpy() / rate_hz,
        "offset_s": places["offset"].to_numpy() / rate_hz,
        "label": places["label"],
        "cluster": labels,
    }
    write_whole(pa.table(table), job.out / TABLE)
    return {
        "n_songs": len(places),
        "n_recordings": len(folder.recordings),
        "n_skipped": sum(map(len, skipped)),
        "n_clusters": int(labels.max(initial=-1)) + 1,
        "n_unclustered": int((labels < 0).sum()),
        "table": str(job.out / TABLE),
    }
