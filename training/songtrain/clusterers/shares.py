"""Songs given to the most similar centre, with a word for centres that hardly any song is given to."""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["BalancedLabels"]

ENTROPY_WEIGHT = 0.12
"""Cosine that a cluster's share costs per nat: the source's 6,000 of 50,000 images."""


class BalancedLabels:
    """Labels of batches under a constraint on the sizes of clusters (Qian 2023).

    "size": every cluster shall have at least ``least_share`` of an equal part of the songs; what a cluster lacks raises its
    dual variable, which is added to all similarities with it. "entropy": being large itself costs similarity.
    """

    def __init__(
        self, n_clusters: int, constraint: Literal["size", "entropy"], *, least_share: float, dual_rate: float
    ) -> None:
        self._constraint, self._dual_rate = constraint, dual_rate
        self._bound = least_share / n_clusters
        self.duals = torch.zeros(n_clusters)
        self.shares = torch.full((n_clusters,), 1 / n_clusters)

    def assign(self, similar: Tensor) -> Tensor:
        """Return the cluster (n,) int64 of a batch's similarities (n, n_clusters), and learn from the sizes."""
        device = similar.device
        if self._constraint == "entropy":
            labels = (similar - ENTROPY_WEIGHT * self.shares.log().to(device)).argmax(dim=1)
        else:
            labels = (similar + self.duals.to(device)).argmax(dim=1)
        sizes = torch.bincount(labels, minlength=len(self.duals)).float().cpu() / len(labels)
        self.duals = (self.duals + self._dual_rate * (self._bound - sizes)).clamp(min=0)
        # A share of zero would be infinitely attractive.
        self.shares = torch.lerp(self.shares, sizes, 0.1).clamp(min=1e-4)
        return labels
