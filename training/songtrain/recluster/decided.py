"""New clusters made to agree with what people decided: merged stay merged, split stay split, noise stays noise. Pure.

Clusters are changed before types are matched. Those that a type merged by people fell into become one again. One in which a
type that people decided about would be lost in another is divided: songs with a type go by it, the others by their nearest.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from songcore.arrays import FloatArray, IntArray
from songtrain.recluster.matching import MAIN_SHARE, SPLIT_SHARE, contingency

__all__ = ["Decided", "agree"]


@dataclass(frozen=True)
class Decided:
    """What clusters have to agree with; old types by number."""

    whole: Collection[int] = ()
    """Types that people merged others into: training does not take them apart again."""
    own: Collection[int] = ()
    """Types that people split off, named, merged or marked: they do not become part of another."""
    noise: Collection[int] = ()
    """Types of kind noise: they do not become part of a song type, nor song types of them."""


def agree(
    new: IntArray, old: IntArray, n_old: int, decided: Decided, embeddings: FloatArray
) -> tuple[IntArray, dict[int, int]]:
    """Return clusters (n,), without gaps, that agree with people, and which cluster each type of ``own`` is.

    ``new`` (n,) and ``old`` (n,) are negative for none; ``embeddings`` (n, d) are where ``new`` was found. A type of ``own``
    that has a song in any cluster is one.
    """
    divided, owners = _divide(_fuse(new, old, n_old, decided.whole), old, n_old, decided, embeddings)
    names, packed = np.unique(divided[divided >= 0], return_inverse=True)
    labels = np.full(len(new), -1, np.int64)
    labels[divided >= 0] = packed
    return labels, {number: owners[name] for number, name in enumerate(names.tolist()) if name in owners}


def _fuse(new: IntArray, old: IntArray, n_old: int, whole: Collection[int]) -> IntArray:
    n_new = int(new.max(initial=-1)) + 1
    shared, sizes = contingency(old, n_old, new, n_new), np.bincount(new[new >= 0], minlength=n_new)
    fused = new.copy()
    for column in sorted(whole):
        parts = [row for row in range(n_new) if shared[row, column] >= MAIN_SHARE * max(1, sizes[row])]
        if len(parts) > 1:
            fused[np.isin(new, parts)] = parts[0]
    return fused


def _divide(
    new: IntArray, old: IntArray, n_old: int, decided: Decided, embeddings: FloatArray
) -> tuple[IntArray, dict[int, int]]:
    n_new = int(new.max(initial=-1)) + 1
    shared = contingency(old, n_old, new, n_new)
    present = (shared > 0) & (shared >= SPLIT_SHARE * shared.sum(axis=0))
    # However scattered, it is itself somewhere.
    home = {column: int(shared[:, column].argmax()) for column in decided.own if shared[:, column].any()}
    for column, row in home.items():
        present[row, column] = True
    divided, owners, following = new.copy(), dict[int, int](), n_new
    for row in range(n_new):
        types = np.flatnonzero(present[row]).tolist()
        conflict = _conflict(types, decided)
        members = np.flatnonzero(new == row)
        owner = _owners(old[members], types, embeddings[members]) if conflict else None
        for place, number in enumerate(types):
            part = row if place == 0 or owner is None else following
            if owner is not None and place:
                divided[members[owner == number]] = part
                following += 1
            if home.get(number) == row:
                owners[part] = number
    return divided, owners


def _conflict(types: Sequence[int], decided: Decided) -> bool:
    """Return whether these types may not be one."""
    n_noise = sum(number in decided.noise for number in types)
    return len(types) > 1 and (any(number in decided.own for number in types) or 0 < n_noise < len(types))


def _owners(old: IntArray, types: Sequence[int], embeddings: FloatArray) -> IntArray:
    """Return which of the types each song of a cluster goes to: its own, or that of the nearest song of any of them."""
    own = np.isin(old, types)
    index = faiss.IndexFlatL2(embeddings.shape[1])
    index.add(np.ascontiguousarray(embeddings[own], np.float32))
    _, nearest = index.search(np.ascontiguousarray(embeddings[~own], np.float32), 1)
    owners = old.copy()
    owners[~own] = old[own][nearest[:, 0]]
    return owners
