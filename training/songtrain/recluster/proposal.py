"""What a run proposes: the types, what changed, and the arrays that tell songs of them from others."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import faiss
import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.assign import mean_neighbour_distance
from songcore.bundle import BundleParts
from songcore.lineage import TypeChange
from songcore.manifest import SongType
from songtrain.clusterers.prototypes import medoids

__all__ = ["Members", "Proposal", "divided", "exemplar_names", "song_prototypes", "song_scores"]

N_EXEMPLARS = 6
MAX_SONGS = 100
"""Songs of a type that are prototypes of it, at least where people named more."""


@dataclass(frozen=True)
class Proposal:
    """The types that are proposed, and everything a bundle says of them."""

    types: tuple[SongType, ...]
    changes: tuple[TypeChange, ...]
    labels: IntArray
    """(n,) of the run's songs: the type, -1 for none."""
    in_bank: IntArray
    """Numbers of the run's songs that the bank has."""
    prototypes: FloatArray
    type_index: IntArray
    bank: FloatArray
    calibration: FloatArray
    calibration_type: IntArray | None
    exemplars: Mapping[str, tuple[int, ...]]
    """By type id, the most typical of the run's songs."""

    def described_anew(self, parent: Sequence[SongType]) -> list[tuple[SongType, SongType]]:
        """Return the parent's types that have another name or kind now, as they were and as they are."""
        before = {one.id: one for one in parent}
        kept = [(before[one.id], one) for one in self.types if one.id in before]
        return [(old, new) for old, new in kept if (old.name, old.kind) != (new.name, new.kind)]

    def parts(self, parent: BundleParts, parent_digest: str, created_at: datetime, created_by: str) -> BundleParts:
        """Return the bundle that is made of its parent; encoder, gate, report and training are as they were."""
        return replace(
            parent,
            created_at=created_at,
            created_by=created_by,
            types=self.types,
            prototypes=self.prototypes,
            type_index=self.type_index,
            bank=self.bank,
            calibration=self.calibration,
            calibration_type=self.calibration_type,
            parent_digest=parent_digest,
            lineage=(*parent.lineage, *self.changes),
        )


@dataclass(frozen=True)
class Members:
    """Songs of a new type: those for the bank, and those that calibrate and are in no bank."""

    bank: IntArray
    held_out: IntArray


def divided(members: IntArray, *, held_out_share: float, max_bank: int, n_neighbours: int, seed: int) -> Members:
    """Return the songs of a type divided at random; the bank has as many as a song is compared with, if there are so many."""
    order = np.random.default_rng([seed, len(members)]).permutation(members)
    n_held = max(0, min(round(held_out_share * len(members)), len(members) - n_neighbours))
    return Members(np.sort(order[n_held:][:max_bank]), np.sort(order[:n_held]))


def song_scores(bank: FloatArray, embeddings: FloatArray, n_neighbours: int) -> FloatArray:
    """Return novelty scores (n,) float32 of unit embeddings (n, d) against a bank (r, d)."""
    if len(embeddings) == 0:
        return np.empty(0, np.float32)
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(np.ascontiguousarray(bank, np.float32))
    return mean_neighbour_distance(index, embeddings, min(n_neighbours, len(bank)))


def song_prototypes(
    embeddings: FloatArray, labels: IntArray, numbers: Iterable[int], placed: Collection[int], seed: int
) -> tuple[FloatArray, IntArray]:
    """Return songs as prototypes (p, d) of the types ``numbers``, and their types (p,); first those that people ``placed``.

    For types that people parted: the encoder hears little between them, or it would have parted them itself, and means of
    their songs lie side by side. So a song is called like its nearest one, as the service does since people parted them.
    """
    rng = np.random.default_rng([seed, 3])
    chosen = []
    for number in numbers:
        members = np.flatnonzero(labels == number)
        own = members[np.isin(members, list(placed))]
        others = rng.permutation(np.setdiff1d(members, own))
        chosen.append(np.concatenate([own, others[: max(0, MAX_SONGS - len(own))]]))
    songs = np.concatenate([np.empty(0, np.int64), *chosen]).astype(np.int64)
    return embeddings[songs], labels[songs]


def exemplar_names(
    uids: Sequence[str], embeddings: FloatArray, members: IntArray
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the most typical of a type's songs, and what a bundle calls them."""
    if len(members) == 0:
        return (), ()
    (best,) = medoids(embeddings[members], np.zeros(len(members), np.int64), N_EXEMPLARS)
    typical = tuple(int(members[i]) for i in best)
    return typical, tuple(f"songs/{uids[i]}" for i in typical)
