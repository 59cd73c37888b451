"""The songs that stand for their types: prototypes, examples, and the bank that tells what is novel."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from songcore.arrays import FloatArray, IntArray

__all__ = ["draw_bank", "make_prototypes", "medoids"]

SONGS_PER_PROTOTYPE = 12


def make_prototypes(
    embeddings: FloatArray, labels: IntArray, *, max_per_type: int, seed: int
) -> tuple[FloatArray, IntArray]:
    """Return unit prototypes (p, d) float32 and the type of each (p,) int64, for labels (n,) numbered from 0.

    A type sung in several ways, or by several singers, is not one ball, so it has several.
    """
    prototypes, type_index = [], []
    for label in range(int(labels.max()) + 1):
        members = embeddings[labels == label]
        n_distinct = len(np.unique(members, axis=0))
        n = min(max_per_type, 1 + len(members) // SONGS_PER_PROTOTYPE, n_distinct)
        centres = (
            KMeans(n, n_init=2, random_state=seed).fit(members).cluster_centers_
            if n > 1
            else members.mean(axis=0)[None]
        )
        prototypes.append(normalize(centres))
        type_index += [label] * n
    return np.concatenate(prototypes).astype(np.float32), np.asarray(type_index, np.int64)


def medoids(embeddings: FloatArray, labels: IntArray, n_each: int) -> list[list[int]]:
    """Return for each type the songs most similar to its mean, most typical first."""
    typical = []
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        similarity = embeddings[members] @ embeddings[members].mean(axis=0)
        typical.append([int(i) for i in members[np.argsort(-similarity, kind="stable")[:n_each]]])
    return typical


def draw_bank(labels: IntArray, *, most: int, of_each: int, rng: np.random.Generator) -> IntArray:
    """Return the numbers of at most ``most`` songs for the bank, in order, of songs with labels (n,) numbered from 0.

    They are drawn at random, but ``of_each`` of every type first: of a rare one a large archive would leave none in the bank,
    and every song of it would be called novel.
    """
    order = rng.permutation(len(labels))
    by_type = np.argsort(labels[order], kind="stable")
    sizes = np.bincount(labels)
    turn = np.empty(len(labels), np.int64)
    turn[by_type] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # All first songs, then all second ones and so on: where there is no room for all, each type has its share.
    first = np.argsort(np.minimum(turn, of_each), kind="stable")
    return np.sort(order[first[:most]]).astype(np.int64)
