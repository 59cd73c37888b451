"""Clusters of embedded shards: k-means and nearest neighbours shard by shard, density clusters from the neighbours.

What grows with the square of the songs, or with songs times rounds, runs on all nodes; the embeddings themselves, 256 bytes a
song, and 24 neighbours of each are in memory once, where the command runs.
"""

from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from songcore.arrays import FloatArray, IntArray
from songcore.errors import InputError
from songtrain.archive.shards import n_songs, read_embeddings
from songtrain.archive.tasks import on_cluster
from songtrain.clusterers.density import smallest_cluster
from songtrain.clusterers.reachability import N_NEIGHBOURS, Neighbours, density_labels, nearest_neighbours

__all__ = ["density_of_shards", "kmeans_of_shards", "neighbours_of_shard", "neighbours_of_shards"]

SAMPLE_PER_CLUSTER = 256
"""Songs per cluster among which the first centres are sought; faiss recommends as many."""
N_ROUNDS = 50
MIN_GAIN = 1e-4
"""Relative fall of the squared distances below which k-means has arrived."""


def kmeans_of_shards(shards: Sequence[Path], n_clusters: int, seed: int) -> tuple[IntArray, FloatArray]:
    """Return labels (n,) int64 and centres (n_clusters, d) float32 by Lloyd's algorithm, started by faiss on a sample.

    Raises InputError when there are fewer songs than clusters.
    """
    rng = np.random.default_rng(seed)
    sizes = np.asarray([n_songs(path) for path in shards], np.int64)
    if sizes.sum() < n_clusters:
        raise InputError(
            f"{n_clusters} clusters are asked of {sizes.sum()} songs; give more recordings or ask for fewer",
            reason="TOO_FEW_SONGS",
        )
    most = rng.multivariate_hypergeometric(sizes, min(int(sizes.sum()), SAMPLE_PER_CLUSTER * n_clusters))
    seeds = [(path, int(count), int(rng.integers(2**31))) for path, count in zip(shards, most, strict=True)]
    sample = np.concatenate([rows for _, rows in sorted(on_cluster(_sample, seeds), key=lambda pair: pair[0])])
    search = faiss.Kmeans(sample.shape[1], n_clusters, niter=20, nredo=5, seed=seed, min_points_per_centroid=1)
    search.train(sample)
    centres, last = np.asarray(search.centroids, np.float32), np.inf
    for _ in range(N_ROUNDS):
        found = [part for _, part in sorted(on_cluster(_assign, shards, centres), key=lambda pair: pair[0])]
        labels, distance = np.concatenate([part[0] for part in found]), sum(part[3] for part in found)
        counts = np.sum([part[1] for part in found], axis=0)
        sums = np.sum([part[2] for part in found], axis=0)
        if last - distance <= MIN_GAIN * distance:
            break
        last = distance
        # A centre that no song is nearest to stays.
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres).astype(np.float32)
    return labels, centres


def density_of_shards(shards: Sequence[Path], min_cluster_size: int | None = None, min_samples: int = 5) -> IntArray:
    """Return HDBSCAN's labels (n,) int64 of all songs, -1 for noise; as `density_labels` gives them on one machine."""
    points = np.concatenate([read_embeddings(path) for path in shards])
    smallest = min_cluster_size or smallest_cluster(len(points))
    if len(points) <= max(smallest, min_samples):
        return np.full(len(points), -1, np.int64)
    neighbours = neighbours_of_shards(shards, max(N_NEIGHBOURS, min_samples))
    return density_labels(points, smallest, min_samples, neighbours=neighbours)


def neighbours_of_shards(shards: Sequence[Path], n_neighbours: int) -> Neighbours:
    """Return every song's nearest among all, one task per shard against all shards in turn."""
    found = sorted(on_cluster(neighbours_of_shard, shards, list(shards), n_neighbours), key=lambda pair: pair[0])
    return Neighbours(
        np.concatenate([part.indices for _, part in found]), np.concatenate([part.distances for _, part in found])
    )


def _sample(seed: tuple[Path, int, int]) -> FloatArray:
    path, most, number = seed
    rows = read_embeddings(path)
    return rows[np.sort(np.random.default_rng(number).permutation(len(rows))[:most])]


def _assign(path: Path, centres: FloatArray) -> tuple[IntArray, IntArray, NDArray[np.float64], float]:
    """Return labels of a shard's songs; songs, sums (k, d) and squared distances by cluster."""
    rows = read_embeddings(path)
    index = faiss.IndexFlatL2(centres.shape[1])
    index.add(np.ascontiguousarray(centres))
    distances, nearest = index.search(rows, 1)
    labels = nearest[:, 0].astype(np.int64)
    sums = np.zeros(centres.shape, np.float64)
    np.add.at(sums, labels, rows)
    return labels, np.bincount(labels, minlength=len(centres)).astype(np.int64), sums, float(distances.sum())


def neighbours_of_shard(path: Path, shards: Sequence[Path], n_neighbours: int) -> Neighbours:
    """Return the nearest songs among all shards of every song of one."""
    queries = read_embeddings(path)
    indices, distances, before = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0)), 0
    for other in shards:
        rows = read_embeddings(other)
        if len(rows) and len(queries):
            near = nearest_neighbours(rows, queries, n_neighbours)
            indices = np.hstack([indices, near.indices + before])
            distances = np.hstack([distances, near.distances])
            best = np.argsort(distances, axis=1, kind="stable")[:, :n_neighbours]
            indices, distances = np.take_along_axis(indices, best, 1), np.take_along_axis(distances, best, 1)
        before += len(rows)
    # A shard without songs has no neighbours, but as many columns as the others.
    width = min(n_neighbours, before)
    return Neighbours(indices.reshape(len(queries), width), distances.reshape(len(queries), width))
