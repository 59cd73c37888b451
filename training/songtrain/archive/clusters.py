"""Clusters of embedded shards: k-means and nearest neighbours shard by shard, density clusters from the neighbours.

What grows with the square of the songs, or with songs times rounds, runs on all nodes. Where the command runs, k-means holds a
number for each song and, of embeddings, no more than the sample that it starts from. Density clustering holds the indices and
distances of 24 neighbours of each song, 384 bytes, and a few times as much while these become a tree; where they leave some of
its edges open, as they mostly do, the embeddings too: four bytes a value, so 1,024 a song of 256 values, once.
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
from songtrain.clusterers.reachability import (
    N_NEIGHBOURS,
    Neighbours,
    clusters_of_tree,
    nearest_neighbours,
    reachability_tree,
)

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
    sample = np.concatenate([rows for _, rows in on_cluster(_sample, seeds, in_order=True)])
    search = faiss.Kmeans(sample.shape[1], n_clusters, niter=20, nredo=5, seed=seed, min_points_per_centroid=1)
    search.train(sample)
    centres, last = np.asarray(search.centroids, np.float32), np.inf
    rows_of, labels = _rows_of(sizes), np.empty(sizes.sum(), np.int64)
    for _ in range(N_ROUNDS):
        counts, sums, distance = np.zeros(n_clusters, np.int64), np.zeros(centres.shape), 0.0
        # In order: sums of floats depend on it, and the same command shall give the same clusters.
        for shard, (own, n_own, sum_own, distance_own) in on_cluster(_assign, shards, centres, in_order=True):
            labels[rows_of[shard]] = own
            counts += n_own
            sums += sum_own
            distance += distance_own
        if last - distance <= MIN_GAIN * distance:
            break
        last = distance
        # A centre that no song is nearest to stays.
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres).astype(np.float32)
    return labels, centres


def density_of_shards(shards: Sequence[Path], min_cluster_size: int | None = None, min_samples: int = 5) -> IntArray:
    """Return HDBSCAN's labels (n,) int64 of all songs, -1 for noise; as `density_labels` gives them on one machine."""
    n = sum(map(n_songs, shards))
    smallest = min_cluster_size or smallest_cluster(n)
    if n <= max(smallest, min_samples):
        return np.full(n, -1, np.int64)
    neighbours = neighbours_of_shards(shards, max(N_NEIGHBOURS, min_samples))
    return clusters_of_tree(reachability_tree(lambda: _all_embeddings(shards), neighbours, min_samples), n, smallest)


def neighbours_of_shards(shards: Sequence[Path], n_neighbours: int) -> Neighbours:
    """Return every song's nearest among all, one task per shard against all shards in turn."""
    sizes = np.asarray([n_songs(path) for path in shards], np.int64)
    rows_of, shape = _rows_of(sizes), (int(sizes.sum()), min(n_neighbours, int(sizes.sum())))
    found = Neighbours(np.empty(shape, np.int64), np.empty(shape, np.float64))
    for shard, part in on_cluster(neighbours_of_shard, shards, list(shards), n_neighbours):
        found.indices[rows_of[shard]], found.distances[rows_of[shard]] = part.indices, part.distances
    return found


def _all_embeddings(shards: Sequence[Path]) -> FloatArray:
    """Return the embeddings (n, d) float32 of all songs, into which they are read shard by shard."""
    rows_of = _rows_of(np.asarray([n_songs(path) for path in shards], np.int64))
    every = np.empty((rows_of[-1].stop, read_embeddings(shards[0]).shape[1]), np.float32)
    for path, rows in zip(shards, rows_of, strict=True):
        every[rows] = read_embeddings(path)
    return every


def _rows_of(sizes: IntArray) -> list[slice]:
    """Return which of all songs are each shard's."""
    ends = np.cumsum(sizes).tolist()
    return [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


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
        # Else it is still there while the next one is read.
        del rows
    # A shard without songs has no neighbours, but as many columns as the others.
    width = min(n_neighbours, before)
    return Neighbours(indices.reshape(len(queries), width), distances.reshape(len(queries), width))
