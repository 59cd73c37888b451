"""The minimum spanning tree of mutual reachability distances, exact and without all distances in memory.

HDBSCAN (Campello et al. 2013) cuts this tree; building it takes all the time. The mutual reachability of two points is the
largest of their distance and their core distances (each to its ``min_samples``-th nearest point, itself counted). Here it is
grown from the graph of nearest neighbours, whose edges are known, and every edge not in it is at least as long as its ends'
farthest neighbours:

1. A shortest edge out of a part of the graph belongs to the tree when no unknown edge out of that part can be shorter. That
   settles nearly all edges and leaves a few hundred parts, since density falls slowly around a dense core.
2. Between the parts that are left, all pairs of points are looked at once, as products of matrices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from sklearn.cluster import HDBSCAN

from songcore.arrays import FloatArray, IntArray

__all__ = [
    "N_NEIGHBOURS",
    "Edges",
    "Lengths",
    "Neighbours",
    "clusters_of_tree",
    "density_labels",
    "nearest_neighbours",
    "reachability_tree",
]

Lengths: TypeAlias = NDArray[np.float64]
N_NEIGHBOURS = 24
"""Neighbours that the graph starts from: fewer leave more to compare in full, more take longer to find."""

SHORTEST = 1e-9
"""Distance given to equal points: sparse graphs drop edges of length zero."""
BLOCK_VALUES = 1 << 23
"""Distances, or values of points, looked at at once: 32 MB, or 64 in double precision."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest points of every point, itself among them, the nearest first."""

    indices: IntArray
    """(n, k)"""
    distances: Lengths
    """(n, k), Euclidean."""


@dataclass(frozen=True)
class Edges:
    """Edges of a graph of points."""

    first: IntArray
    second: IntArray
    lengths: Lengths
    """(m,) mutual reachability."""

    def matrix(self, n: int) -> coo_array:
        """Return the graph of n points as a sparse matrix, each edge once."""
        return coo_array((self.lengths, (self.first, self.second)), shape=(n, n))


def density_labels(
    points: FloatArray,
    min_cluster_size: int,
    min_samples: int,
    *,
    n_neighbours: int = N_NEIGHBOURS,
    neighbours: Neighbours | None = None,
) -> IntArray:
    """Return HDBSCAN's labels (n,) int64 of points (n, d), -1 for noise; ``neighbours`` are searched if not given."""
    if len(points) <= max(min_cluster_size, min_samples):
        return np.full(len(points), -1, np.int64)
    if neighbours is None:
        neighbours = nearest_neighbours(points, points, max(n_neighbours, min_samples))
    return clusters_of_tree(reachability_tree(points, neighbours, min_samples), len(points), min_cluster_size)


def clusters_of_tree(tree: Edges, n: int, min_cluster_size: int) -> IntArray:
    """Return HDBSCAN's labels (n,) int64 for the minimum spanning tree of mutual reachability."""
    once = tree.matrix(n)
    # Of one sample the core distance is the shortest edge at a point, which lengthens no edge of a tree.
    model = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=1, metric="precomputed", copy=False)
    return np.asarray(model.fit_predict((once + once.T).tocsr()), np.int64)


def nearest_neighbours(points: FloatArray, queries: FloatArray, n_neighbours: int) -> Neighbours:
    """Return the ``n_neighbours`` points (n, d) nearest to each of ``queries`` (m, d), all of both compared (faiss)."""
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(np.ascontiguousarray(points, np.float32))
    _, found = index.search(np.ascontiguousarray(queries, np.float32), min(n_neighbours, len(points)))
    distances: Lengths = np.empty((len(queries), found.shape[1]), np.float64)
    step = max(1, BLOCK_VALUES // (found.shape[1] * points.shape[1]))
    for at in range(0, len(queries), step):
        # Anew in double precision: faiss takes differences of squares, which cancel where points are close.
        gaps = points[found[at : at + step]].astype(np.float64) - queries[at : at + step, None]
        distances[at : at + step] = np.sqrt(np.einsum("ijk,ijk->ij", gaps, gaps))
    order = np.argsort(distances, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(found, order, 1), np.take_along_axis(distances, order, 1))


def reachability_tree(points: FloatArray | Callable[[], FloatArray], neighbours: Neighbours, min_samples: int) -> Edges:
    """Return the n - 1 edges of the tree over points (n, d), given at least ``min_samples`` neighbours of each.

    Where ``points`` is a function that returns them, it is called when the neighbours have proven all that they can, if any
    edges are left then. No second copy of the points is made.
    """
    core = neighbours.distances[:, min_samples - 1]
    edges = _settled_edges(neighbours, core)
    n_parts, part = connected_components(edges.matrix(len(core)), directed=False)
    if n_parts == 1:
        return edges
    between = _edges_between(points() if callable(points) else points, core, part.astype(np.int64), n_parts)
    return Edges(
        *(np.concatenate([getattr(edges, name), getattr(between, name)]) for name in ("first", "second", "lengths"))
    )


def _settled_edges(neighbours: Neighbours, core: Lengths) -> Edges:
    """Return those edges of the neighbour graph's own minimum spanning forest that are proven to be in the tree."""
    n, k = neighbours.indices.shape
    # In place: this is where the graph of all neighbours takes the most memory.
    lengths = core[neighbours.indices]
    for least in (core[:, None], neighbours.distances, SHORTEST):
        np.maximum(lengths, least, out=lengths)
    other = neighbours.indices != np.arange(n)[:, None]
    first = np.repeat(np.arange(n), np.count_nonzero(other, axis=1))
    graph = Edges(first, neighbours.indices[other], lengths[other]).matrix(n).tocsr()
    del lengths, other, first
    forest = minimum_spanning_tree(graph, overwrite=True).tocoo()
    order = np.argsort(forest.data, kind="stable")
    found = Edges(forest.row[order].astype(np.int64), forest.col[order].astype(np.int64), forest.data[order])
    # Where all points are listed, no edge is unknown.
    unknown = np.full(n, np.inf) if k == n else neighbours.distances[:, -1]
    settled = _settled(found, unknown)
    return Edges(found.first[settled], found.second[settled], found.lengths[settled])


def _settled(forest: Edges, unknown: Lengths) -> NDArray[np.bool_]:
    """Return (m,) bool for edges in order of length: that no unknown edge out of either end's part is shorter.

    ``unknown`` (n,) is the least length of an edge of each point that is not in the graph.
    """
    root, least = list(range(len(unknown))), unknown.tolist()
    settled = np.zeros(len(forest.lengths), bool)
    edges = zip(forest.first.tolist(), forest.second.tolist(), forest.lengths.tolist(), strict=True)
    for number, (u, v, length) in enumerate(edges):
        a, b = _root(root, u), _root(root, v)
        settled[number] = length <= max(least[a], least[b])
        root[a] = b
        least[b] = min(least[a], least[b])
    return settled


def _root(root: list[int], point: int) -> int:
    """Return the point that stands for this one's part, and shorten the way to it."""
    while root[point] != point:
        root[point] = root[root[point]]
        point = root[point]
    return point


def _edges_between(points: FloatArray, core: Lengths, part: IntArray, n_parts: int) -> Edges:
    """Return the shortest edges that join the parts into one tree."""
    # The largest part comes last: its points are never compared with one another.
    sizes = np.bincount(part, minlength=n_parts)
    rank = np.argsort(np.argsort(sizes, kind="stable"))
    order = np.argsort(rank[part], kind="stable")
    begins = np.concatenate([[0], np.cumsum(np.sort(sizes))])
    lengths, nearest = _part_distances(points, core, order, begins)
    a, b = _tree_of(np.minimum(lengths, lengths.T))
    a, b = np.minimum(a, b), np.maximum(a, b)
    first, second, exact = order[nearest[a, b]], np.empty(len(a), np.int64), np.empty(len(a))
    for number, (p, other) in enumerate(zip(first.tolist(), b.tolist(), strict=True)):
        second[number], exact[number] = _nearest_of(points, core, order[begins[other] : begins[other + 1]], p)
    return Edges(first, second, np.maximum(exact, SHORTEST))


def _nearest_of(points: FloatArray, core: Lengths, among: IntArray, p: int) -> tuple[int, float]:
    """Return which of the points ``among`` is nearest to point ``p`` by mutual reachability, and how far it is."""
    nearest, least, step = -1, np.inf, max(1, BLOCK_VALUES // points.shape[1])
    for at in range(0, len(among), step):
        some = among[at : at + step]
        gaps = points[some].astype(np.float64) - points[p]
        to = np.maximum(np.linalg.norm(gaps, axis=1), np.maximum(core[some], core[p]))
        if to.min() < least:
            nearest, least = int(some[to.argmin()]), float(to.min())
    return nearest, least


def _part_distances(
    points: FloatArray, core: Lengths, order: IntArray, begins: IntArray
) -> tuple[FloatArray, IntArray]:
    """Return (m, m) float32 squared reachability of parts i < j, inf elsewhere, and which point of part i has it.

    Part i is the points that stand in ``order`` (n,) from ``begins[i]`` to ``begins[i + 1]``; these places name its points.
    """
    n, n_parts = len(order), len(begins) - 1
    middle = points.mean(axis=0, dtype=np.float64)
    core2 = (core[order] ** 2).astype(np.float32)
    best = np.full((n_parts, n_parts), np.inf, np.float32)
    nearest = np.zeros((n_parts, n_parts), np.int64)
    width = max(1, BLOCK_VALUES // points.shape[1])
    for begin in range(begins[1], n, width):
        end = min(begin + width, n)
        right = _factors(points[order[begin:end]] - middle, swapped=True).T
        # Parts that have points among these columns.
        first, last = np.searchsorted(begins, [begin, end - 1], side="right") - 1
        for i in range(last):
            columns, later = max(begin, begins[i + 1]), slice(max(i + 1, first), last + 1)
            step = max(1, BLOCK_VALUES // (end - columns))
            for at in range(begins[i], begins[i + 1], step):
                rows = order[at : min(at + step, begins[i + 1])]
                block = _factors(points[rows] - middle) @ right[:, columns - begin :]
                np.maximum(block, core2[columns:end], out=block)
                shortest = np.minimum.reduceat(block, np.maximum(begins[later] - columns, 0), axis=1)
                np.maximum(shortest, core2[at : at + len(block), None], out=shortest)
                row = shortest.argmin(axis=0)
                value = np.take_along_axis(shortest, row[None], 0)[0]
                nearer = value < best[i, later]
                best[i, later][nearer], nearest[i, later][nearer] = value[nearer], at + row[nearer]
    return best, nearest


def _factors(rows: Lengths, *, swapped: bool = False) -> FloatArray:
    """Return (n, d + 2) float32 whose products with the swapped ones of others are |x|² - 2 x·y + |y|²."""
    squares, ones = np.einsum("ij,ij->i", rows, rows)[:, None], np.ones((len(rows), 1))
    return np.hstack(
        [rows, ones, squares] if swapped else [-2 * rows, squares, ones], dtype=np.float32, casting="same_kind"
    )


def _tree_of(lengths: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the ends of the minimum spanning tree of a full graph, lengths (m, m) symmetric: Prim's algorithm."""
    m = len(lengths)
    nearest, parent = lengths[0].copy(), np.zeros(m, np.int64)
    nearest[0], outside = np.inf, np.ones(m, bool)
    outside[0] = False
    ends: list[tuple[int, int]] = []
    for _ in range(m - 1):
        new = int(np.where(outside, nearest, np.inf).argmin())
        ends.append((int(parent[new]), new))
        outside[new] = False
        shorter = outside & (lengths[new] < nearest)
        nearest[shorter], parent[shorter] = lengths[new][shorter], new
    return np.asarray([a for a, _ in ends], np.int64), np.asarray([b for _, b in ends], np.int64)
