"""Signs that training has collapsed: everything the same vector, or everything one cluster.

Internal scores reward collapse (64 distinct points have a silhouette of 0.998), so these checks come before any score.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcore.arrays import FloatArray, IntArray
from songcore.errors import SongError

__all__ = [
    "CollapseError",
    "check_clusters",
    "check_embeddings",
    "check_variation",
    "differ",
    "effective_rank",
    "relative_spread",
]

MIN_RANK = 8.0
"""Directions that many types span at least."""
MIN_SPREAD = 0.2
MIN_VARIATION = 0.01
"""Of unit features around their mean: what is less is rounding, in which components would find as many directions as asked."""


class CollapseError(SongError):
    """Training lost what tells songs apart; nothing it gives can be used."""

    default_reason = "TRAINING_COLLAPSED"


def differ(points: NDArray[np.floating[Any]]) -> bool:
    """Whether any two of the points (n, ...) do."""
    return bool(np.ptp(points, axis=0).any())


def effective_rank(embeddings: FloatArray) -> float:
    """Return exp of the entropy of the covariance's eigenvalues (Roy & Vetterli 2007), 1 when all variance lies on a line."""
    centred = embeddings - embeddings.mean(axis=0)
    power = np.linalg.svd(centred.astype(np.float64), compute_uv=False) ** 2
    if power.sum() <= 1e-12 * len(embeddings):
        return 1.0
    share = power[power > 0] / power.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def relative_spread(embeddings: FloatArray) -> float:
    """Return the mean standard deviation per dimension over 1/sqrt(d), that of unit vectors in all directions."""
    return float(embeddings.std(axis=0).mean() * np.sqrt(embeddings.shape[1]))


def check_variation(features: FloatArray) -> None:
    """Raise CollapseError when unit features (n, d) are all but one and the same; to be asked before components are drawn."""
    variation = float(np.sqrt(features.astype(np.float64).var(axis=0).sum()))
    if not variation >= MIN_VARIATION:  # NaN is not less, either
        raise CollapseError(
            f"the network says the same of every song: its features vary by {variation:.2g} (at least {MIN_VARIATION} "
            "expected); lower the learning rate, or check that the songs differ",
        )


def check_embeddings(embeddings: FloatArray, *, n_types: int = 2, rank: float | None = None) -> float:
    """Return the effective rank of unit embeddings (n, d), ``rank`` if it is known; CollapseError for too few directions.

    Songs of ``n_types`` well separated types span n_types - 1 directions and need not span more. As long as nobody knows
    how many there are, they may be two.
    """
    needed = min(MIN_RANK, 0.3 * min(embeddings.shape), 0.5 * n_types)
    rank = effective_rank(embeddings) if rank is None else rank
    spread = relative_spread(embeddings)
    if rank < needed or spread < MIN_SPREAD:
        raise CollapseError(
            f"the embeddings have collapsed: effective rank {rank:.1f} (at least {needed:.1f} expected), spread {spread:.3f} "
            f"(at least {MIN_SPREAD}); lower the learning rate, or check that the songs differ",
        )
    return rank


def check_clusters(labels: IntArray, *, max_share: float = 0.6) -> None:
    """Raise CollapseError unless labels (n,), -1 for none, hold two clusters or more.

    Nor may one of them have more than ``max_share`` of the songs.
    """
    known = labels[labels >= 0]
    counts = np.bincount(known) if len(known) else np.zeros(1, np.int64)
    if np.count_nonzero(counts) < 2:
        raise CollapseError(
            f"{np.count_nonzero(counts)} dense cluster among {len(labels)} songs; there is nothing to tell apart: "
            "give more songs, or a smaller clusters.min_cluster_size",
            reason="NO_TYPES",
        )
    share = counts.max() / len(labels)
    if share > max_share:
        raise CollapseError(
            f"one cluster holds {share:.0%} of the songs (at most {max_share:.0%} expected): training has collapsed; "
            "give more songs, or raise clusters.max_share if one type really is that common"
        )
