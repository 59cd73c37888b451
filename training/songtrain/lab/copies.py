"""Whether songs keep their neighbours when they are sung a little differently: a check that needs no label."""

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from sklearn.neighbors import NearestNeighbors

from songcore.arrays import FloatArray, IntArray
from songcore.features import SCALE_DB
from songtrain.datasets.songs import Float16Array, SongSet
from songtrain.lab.chain import Chain

__all__ = ["agreement_with_copies", "altered", "shared_neighbours"]

N_COPIES = 300
N_NEIGHBOURS = 5
TEMPO = 0.08
"""Copies are up to this part faster or slower,"""
LEVEL_DB = 4.0
"""up to this much louder or fainter,"""
RAISED_DB = 6.0
"""in noise that is up to this much louder."""

Rng: TypeAlias = np.random.Generator


def agreement_with_copies(chain: Chain, songs: SongSet, points: FloatArray, rng: Rng) -> float | None:
    """Return which share of their neighbours songs keep when altered; None when the chain cannot place altered songs.

    ``points`` (n, d) are the songs as ``chain``, fitted on them, places them.
    """
    if chain.hears or not chain.places_others or len(songs) <= N_NEIGHBOURS + 1:
        return None
    chosen = np.sort(rng.permutation(len(songs))[:N_COPIES])
    return shared_neighbours(points, chosen, chain.transform(altered(songs.subset(chosen), rng)))


def shared_neighbours(points: FloatArray, chosen: IntArray, copies: FloatArray, n: int = N_NEIGHBOURS) -> float:
    """Return the mean share of the ``n`` nearest points that a chosen point (k,) and its copy (k, d) have in common.

    The point itself counts for neither. Copies with NaN share nothing.
    """
    finite = np.isfinite(copies).all(axis=1)
    if not finite.any():
        return 0.0
    nearest = NearestNeighbors(n_neighbors=n + 1).fit(points)
    own = nearest.kneighbors(points[chosen[finite]], return_distance=False)
    moved = nearest.kneighbors(copies[finite], return_distance=False)
    n_shared = sum(
        len(_others(a, song, n) & _others(b, song, n))
        for a, b, song in zip(own, moved, chosen[finite].tolist(), strict=True)
    )
    return n_shared / (n * len(chosen))


def _others(found: IntArray, own: int, n: int) -> set[int]:
    return set(found[found != own][:n].tolist())


def altered(songs: SongSet, rng: Rng) -> SongSet:
    """Return the songs at another pace and level in louder noise, each by its own random amount, lengths unchanged."""
    parts = [_sung_again(part, rng) for part in np.split(songs.frames, np.cumsum(songs.lengths)[:-1])]
    return replace(songs, frames=np.concatenate(parts))


def _sung_again(frames: Float16Array, rng: Rng) -> Float16Array:
    """One song (n_frames, n_mels): a row of the copy is the row that is due at its pace, silence after the end."""
    due = (np.arange(len(frames)) * np.exp(rng.uniform(-TEMPO, TEMPO))).round().astype(np.int64)
    sung = np.where((due < len(frames))[:, None], frames[np.minimum(due, len(frames) - 1)], 0).astype(np.float32)
    level = rng.uniform(-LEVEL_DB, LEVEL_DB) - rng.uniform(0, RAISED_DB)
    # Silence stays silence, and what sinks below the louder noise becomes it.
    return np.where(sung > 0, np.maximum(sung + level / SCALE_DB, 0), 0).astype(np.float16)
