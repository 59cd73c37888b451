"""The loss on the columns in contrastive clustering (Li et al. 2021, eqs. 5-7)."""

import math

from torch import Tensor

from songtrain.losses.contrastive import nt_xent

__all__ = ["column_loss", "size_entropy_gap"]


def column_loss(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean loss over clusters of the shares (n, n_clusters) that two views of n songs have in them.

    A cluster's column is to be like that of the other view and unlike all other clusters' columns (eq. 6), and clusters are
    to be of one size, without which everything ends in one (the entropy of eq. 7).
    """
    contrast = nt_xent(first.float().T, second.float().T, temperature)
    return contrast + size_entropy_gap(first) + size_entropy_gap(second)


def size_entropy_gap(shares: Tensor) -> Tensor:
    """Return how far the entropy of the clusters' mean shares is below its maximum: 0 for equal sizes, log K for one."""
    size = shares.float().mean(dim=0)
    return math.log(shares.shape[1]) + (size * size.clamp(min=1e-12).log()).sum()
