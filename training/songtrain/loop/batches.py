"""Which songs go together into a batch."""

import numpy as np

from songcore.arrays import FloatArray, IntArray

__all__ = ["epoch_batches", "mutual_neighbours", "sampling_weights"]

POOL_BATCHES = 6
"""Songs are sorted by length within this many batches: little padding, and still songs of many lengths in an epoch."""


def epoch_batches(
    lengths: IntArray,
    batch_size: int,
    rng: np.random.Generator,
    weights: FloatArray | None = None,
    *,
    rank: int = 0,
    n_ranks: int = 1,
) -> list[IntArray]:
    """Return this worker's batches of song indices; every worker gets equally many.

    Every song once, in random order, or as many draws with replacement in proportion to ``weights`` (n,).
    """
    n = len(lengths)
    order = rng.permutation(n) if weights is None else rng.choice(n, size=n, p=weights / weights.sum())
    mine = order[rank : n - n % n_ranks : n_ranks] if n_ranks > 1 else order
    n_batches = max(1, round(len(mine) / batch_size))
    pools = np.array_split(mine, max(1, n_batches // POOL_BATCHES))
    batches = []
    for pool in pools:
        by_length = pool[np.argsort(lengths[pool], kind="stable")]
        batches += np.array_split(by_length, max(1, round(len(pool) / batch_size)))
    return [np.asarray(batches[i], np.int64) for i in rng.permutation(len(batches))]


def sampling_weights(labels: IntArray, exponent: float) -> FloatArray:
    """Return (n,) float32: size^-exponent of the song's cluster, and for songs in no cluster the mean of the others."""
    counts = np.bincount(labels[labels >= 0])
    weights = np.zeros(len(labels), np.float32)
    known = labels >= 0
    weights[known] = counts[labels[known]].astype(np.float32) ** -exponent
    weights[~known] = weights[known].mean() if known.any() else 1.0
    return weights


def mutual_neighbours(embeddings: FloatArray, n_neighbours: int) -> IntArray:
    """Return (n, n_neighbours) indices of songs that are among each other's nearest by cosine; -1 where there is none."""
    from sklearn.neighbors import NearestNeighbors

    n = min(n_neighbours, len(embeddings) - 1)
    nearest = NearestNeighbors(n_neighbors=n).fit(embeddings).kneighbors(return_distance=False)
    back = (nearest[nearest] == np.arange(len(nearest))[:, None, None]).any(axis=2)
    return np.where(back, nearest, -1).astype(np.int64)
