"""Which new type is which old one: told by the songs they share, never by where they lie, for spaces cannot be compared.

Exemplars are songs like any other here. Shares are of songs that have both an old and a new type; how many songs a type gained
that had none says nothing against it.

1. A pair whose songs are the same by more than half (intersection over union) is one type. No type is in two such pairs.
2. Of the rest those pairs are one type that let most songs keep their id (`scipy.optimize.linear_sum_assignment`), among pairs
   in which the new type has a quarter of the old one's songs, or half of its
   songs from there. So the largest part of a split keeps the id, and the larger of two that merge.
3. A new type without an id so far gets a number that was never used: split, when a quarter of an old type's songs are in it
   and make up half of it; else new.
4. An old type that gave its id to none is retired: merged, when most of its songs are in one type that has another's id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from songcore.arrays import IntArray
from songcore.lineage import Change, TypeChange

__all__ = ["SPLIT_SHARE", "Matching", "contingency", "match_types"]

SAME_IOU = 0.5
SPLIT_SHARE = 0.25
MAIN_SHARE = 0.5

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Matching:
    """What became of old types, and what new ones are called."""

    ids: tuple[str, ...]
    """Of every new type."""
    changes: tuple[TypeChange, ...]
    """Of all types that were not simply kept."""

    def changed(self, change: Change) -> list[TypeChange]:
        """Return the changes of one kind."""
        return [entry for entry in self.changes if entry.change == change]


def match_types(
    old: IntArray,
    old_ids: Sequence[str],
    new: IntArray,
    *,
    first_number: int,
    since: str,
    fixed: Mapping[int, int] = MappingProxyType({}),
) -> Matching:
    """Return ids and changes for songs of old types ``old`` (n,), numbers into ``old_ids``, and new types ``new`` (n,).

    Negative numbers mean no type. New types are numbered from 0 without gaps, ids from ``first_number`` on are unused, and
    ``since`` is the digest of the bundle that the old types are of. ``fixed`` says of some new types which old one they are.
    Old types without songs are retired.
    """
    n_new = int(new.max(initial=-1)) + 1
    shared = contingency(old, len(old_ids), new, n_new)
    given = _given(shared, fixed)
    ids: list[str] = []
    changes: list[TypeChange] = []
    sizes = np.bincount(new[new >= 0], minlength=n_new)
    for number in range(n_new):
        if number in given:
            ids.append(old_ids[given[number]])
            continue
        ids.append(f"T{first_number:04d}")
        first_number += 1
        origin = _origin(shared, number, int(sizes[number]))
        parents = () if origin is None else (old_ids[origin],)
        changes.append(
            TypeChange(
                id=ids[-1],
                change="split" if parents else "new",
                others=parents,
                since=since,
                n_songs=int(sizes[number]),
            )
        )
    return Matching(tuple(ids), (*changes, *_endings(shared, given, ids, old_ids, since)))


def contingency(old: IntArray, n_old: int, new: IntArray, n_new: int) -> IntArray:
    """Return (n_new, n_old) int64: the songs that each new type shares with each old one."""
    shared = np.zeros((n_new, n_old), np.int64)
    both = (old >= 0) & (new >= 0)
    np.add.at(shared, (new[both], old[both]), 1)
    return shared


def _given(shared: IntArray, fixed: Mapping[int, int]) -> dict[int, int]:
    """Return the old type whose id each new one takes, where it takes one."""
    if 0 in shared.shape:
        return {}
    given, of_all = dict(fixed), shared
    shared = shared.copy()
    shared[list(fixed)], shared[:, list(fixed.values())] = 0, 0
    of_old, of_new = of_all.sum(axis=0), of_all.sum(axis=1)
    union = of_old[None] + of_new[:, None] - shared
    given |= {int(row): int(column) for row, column in np.argwhere(shared > SAME_IOU * union)}
    rows = np.setdiff1d(np.arange(len(shared)), list(given))
    columns = np.setdiff1d(np.arange(shared.shape[1]), list(given.values()))
    rest = shared[np.ix_(rows, columns)]
    is_part = (rest >= SPLIT_SHARE * of_old[columns]) | (rest >= MAIN_SHARE * of_new[rows][:, None])
    rest = np.where(is_part, rest, 0)
    for row, column in zip(*linear_sum_assignment(-rest), strict=True):
        if rest[row, column] > 0:
            given[int(rows[row])] = int(columns[column])
    return given


def _origin(shared: IntArray, number: int, size: int) -> int | None:
    """Return the old type that a new one is a part of, if any."""
    if shared.shape[1] == 0:
        return None
    origin = int(shared[number].argmax())
    n = int(shared[number, origin])
    return origin if n and n >= SPLIT_SHARE * shared[:, origin].sum() and n >= MAIN_SHARE * size else None


def _endings(
    shared: IntArray, given: dict[int, int], ids: Sequence[str], old_ids: Sequence[str], since: str
) -> list[TypeChange]:
    """Return what became of old types whose id no new one has, and of those that took them in."""
    changes: list[TypeChange] = []
    for column, old_id in enumerate(old_ids):
        if column in given.values():
            continue
        n = int(shared[:, column].sum())
        heirs = [int(row) for row in np.argsort(-shared[:, column], kind="stable") if shared[row, column] > 0]
        main = [row for row in heirs if shared[row, column] >= MAIN_SHARE * n][:1]
        if main and main[0] in given:
            n_taken = int(shared[main[0], column])
            changes.append(TypeChange(id=ids[main[0]], change="merged", others=(old_id,), since=since, n_songs=n_taken))
        parts = [row for row in heirs if shared[row, column] >= SPLIT_SHARE * n] or heirs[:1]
        changes.append(
            TypeChange(id=old_id, change="retired", others=tuple(ids[row] for row in parts), since=since, n_songs=n)
        )
    return changes
