"""What SPICE (Niu et al. 2022) learns from: songs near a cluster's prototype, and a loss that does not trust them fully."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

__all__ = ["double_softmax", "prototype_labels"]


def prototype_labels(codes: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return songs (m,) and their labels (m,) int64, as many for each cluster: n / k of n songs and k clusters.

    The songs surest of a cluster, by ``probabilities`` (n, k), have a centre in the space of ``codes`` (n, d); the songs
    nearest to it by cosine are the cluster's, whatever their own probabilities. A song may be near two centres.
    """
    n_clusters = probabilities.shape[1]
    n_each = max(1, len(codes) // n_clusters)
    directions = normalize(codes)
    surest = probabilities.topk(n_each, dim=0).indices
    centres = normalize(directions[surest].mean(dim=0))
    nearest = (directions @ centres.T).topk(n_each, dim=0).indices
    labels = torch.arange(n_clusters, device=codes.device).expand(n_each, -1)
    return nearest.flatten(), labels.flatten()


def double_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of the softmax of the softmax: at least log(1 + (k - 1) / e), however sure."""
    return cross_entropy(logits.softmax(dim=-1), labels)
