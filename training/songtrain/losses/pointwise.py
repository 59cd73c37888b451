"""The loss of TEMI (Adaloglou et al. 2023): neighbours shall agree on a cluster, the more surprisingly the better."""

import torch
from torch import Tensor

__all__ = ["head_agreement", "pointwise_information"]

SMALLEST = 1e-12
"""Predictions without any overlap would cost infinitely much."""


def pointwise_information(student: Tensor, teacher: Tensor, prior: Tensor, beta: float) -> Tensor:
    """Return -log Σ_k (p_s p_t)^β / p_k for every pair, (n_heads, n).

    ``student`` and ``teacher`` (n_heads, n, k) are the probabilities of a song and of its neighbour, ``prior`` (n_heads, k)
    those of the clusters. β = 1 is the pointwise mutual information, which one cluster per song or two for all can satisfy
    equally well; a smaller one rewards using many clusters, each with confidence.
    """
    overlap = ((student * teacher).clamp(min=SMALLEST) ** beta / prior[:, None]).sum(dim=2)
    return -torch.log(overlap)


def head_agreement(first: Tensor, second: Tensor) -> Tensor:
    """Return how surely all heads put both songs of a pair into one cluster: the mean over heads of Σ_k p p', (n,)."""
    return (first * second).sum(dim=2).mean(dim=0)
