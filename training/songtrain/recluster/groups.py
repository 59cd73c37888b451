"""Dense groups of songs that nothing known explains, and what they are: a new type, more of an old one, or too little to say.

The pool is clustered together with songs of known types. A type that drifted is then in one cluster with what it was, since
the songs in between are there, and what hangs together with a good part of a known type is that type.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from songcore.arrays import FloatArray, IntArray
from songtrain.clusterers.density import by_size, smallest_cluster
from songtrain.clusterers.reachability import N_NEIGHBOURS, Lengths, Neighbours, density_labels, nearest_neighbours
from songtrain.recluster.matching import SPLIT_SHARE

__all__ = ["GroupSettings", "Groups", "Occasion", "group_pool", "n_neighbours_of"]

REACH = 1.25
"""Times the distance at which songs of a known type still have others around them: beyond this it ends."""

Occasion = tuple[str, int]
"""Session of a song, and the day it was sung on."""


class GroupSettings(BaseModel):
    """When a dense group is a type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_songs: int | None = Field(default=None, ge=2)
    """Songs of a new type at least; None: 0.2 % of the pool, but no fewer than 5 and no more than 10."""
    min_samples: int = Field(default=5, ge=1)
    min_occasions: int = Field(default=2, ge=1)
    """Sessions or UTC days that a new type was sung in at least: once may be a passing machine, or one odd bird."""


@dataclass(frozen=True)
class Groups:
    """What the songs of the pool are, (n,) numbers from 0, negative for none of it."""

    fresh: IntArray
    """New types, by size."""
    extended: IntArray
    """Known types, numbered as in the reference."""
    n_waiting: int
    """Dense groups heard on too few occasions so far."""


def group_pool(
    pool: FloatArray,
    occasions: Sequence[Occasion],
    reference: FloatArray,
    reference_type: IntArray,
    settings: GroupSettings,
    *,
    neighbours: Neighbours | None = None,
) -> Groups:
    """Return what songs of the pool (n, d) are, given songs of known types ``reference`` (m, d), ``reference_type`` (m,).

    ``neighbours`` are those of the pool followed by the reference among both, `n_neighbours_of` each; found here if not given.
    """
    points = np.concatenate([pool, reference]).astype(np.float32)
    smallest = settings.min_songs or smallest_cluster(len(pool))
    nothing = np.full(len(pool), -1, np.int64)
    if len(points) <= max(smallest, settings.min_samples):
        return Groups(nothing, nothing, 0)
    if neighbours is None:
        neighbours = nearest_neighbours(points, points, n_neighbours_of(len(points), settings))
    labels = density_labels(points, smallest, settings.min_samples, neighbours=neighbours)
    parts, known_of = _parted(labels, neighbours, reference_type, settings.min_samples)
    fresh, extended, n_waiting = nothing.copy(), nothing.copy(), 0
    for part in range(int(parts.max(initial=-1)) + 1):
        members = np.flatnonzero(parts[: len(pool)] == part)
        if len(members) == 0:
            continue
        if known_of[part]:
            extended[members] = _nearest_type(pool[members], reference, reference_type, known_of[part])
        elif len(members) >= smallest:
            enough = _n_occasions([occasions[i] for i in members.tolist()]) >= settings.min_occasions
            n_waiting += not enough
            fresh[members] = part if enough else -1
    return Groups(by_size(fresh), extended, n_waiting)


def n_neighbours_of(n: int, settings: GroupSettings) -> int:
    """Return how many neighbours of each of n songs the clustering starts from."""
    return min(n, max(N_NEIGHBOURS, settings.min_samples))


def _parted(
    labels: IntArray, neighbours: Neighbours, types: IntArray, min_samples: int
) -> tuple[IntArray, list[list[int]]]:
    """Return clusters (n + m,) of which those with a known type are cut where songs are farther apart than its own are.

    And for each the known types that it holds. What is scattered around known types falls into one cluster with them; here it
    falls off again, and so does a new type beside them.
    """
    n_pool = len(labels) - len(types)
    core = neighbours.distances[:, min_samples - 1]
    parts, known_of, following = np.full(len(labels), -1, np.int64), list[list[int]](), 0
    claims = _claims(labels[n_pool:], types, int(labels.max(initial=-1)) + 1)
    for cluster, claimed in enumerate(claims):
        members = np.flatnonzero(labels == cluster)
        cut = np.zeros(len(members), np.int64)
        if claimed:
            of_claimed = n_pool + np.flatnonzero(np.isin(types, claimed) & (labels[n_pool:] == cluster))
            cut = _components(members, neighbours, core, REACH * float(np.quantile(core[of_claimed], 0.95)))
        parts[members] = following + cut
        following += int(cut.max()) + 1
        for part in range(len(known_of), following):
            inside = types[parts[n_pool:] == part]
            known_of.append([known for known in claimed if known in inside])
    return parts, known_of


def _components(members: IntArray, neighbours: Neighbours, core: Lengths, longest: float) -> IntArray:
    """Return the connected parts (m,) of members joined by edges of mutual reachability up to ``longest``."""
    place = np.full(len(core), -1, np.int64)
    place[members] = np.arange(len(members))
    first = np.repeat(members, neighbours.indices.shape[1])
    second = neighbours.indices[members].ravel()
    lengths = np.maximum(np.maximum(core[first], core[second]), neighbours.distances[members].ravel())
    used = (place[second] >= 0) & (lengths <= longest)
    graph = coo_array((np.ones(int(used.sum())), (place[first[used]], place[second[used]])), shape=(len(members),) * 2)
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _claims(labels: IntArray, types: IntArray, n_clusters: int) -> list[list[int]]:
    """Return for each cluster the known types of which it has a quarter or more."""
    claims: list[list[int]] = [[] for _ in range(n_clusters)]
    for known in np.unique(types).tolist():
        of_type = labels[types == known]
        counts = np.bincount(of_type[of_type >= 0], minlength=n_clusters)
        for cluster in np.flatnonzero(counts >= max(1.0, SPLIT_SHARE * len(of_type))).tolist():
            claims[cluster].append(known)
    return claims


def _n_occasions(occasions: Sequence[Occasion]) -> int:
    return max(len({session for session, _ in occasions}), len({day for _, day in occasions}))


def _nearest_type(songs: FloatArray, reference: FloatArray, types: IntArray, among: Sequence[int]) -> IntArray:
    of_them = np.isin(types, among)
    index = faiss.IndexFlatL2(reference.shape[1])
    index.add(np.ascontiguousarray(reference[of_them], np.float32))
    _, nearest = index.search(np.ascontiguousarray(songs, np.float32), 1)
    return types[of_them][nearest[:, 0]]
