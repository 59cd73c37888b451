"""Heads that tell pseudo-labels apart, fresh for every set of labels."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from songtrain.losses.arcface import make_arcface

__all__ = ["SoftmaxHead", "random_arcface"]


class SoftmaxHead(nn.Module):
    """A linear layer and cross-entropy; weights start as N(0, 0.01), biases as 0 (DeepCluster's choice)."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, n_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of features (n, n_features) with labels (n,) int64."""
        return cross_entropy(self.linear(features.float()), labels)


def random_arcface(n_features: int, n_classes: int, *, margin: float, scale: float) -> nn.Module:
    """Return ArcFace with proxies in random directions; the margin is in radians, as papers give it."""
    proxies = normalize(torch.randn(n_classes, n_features))
    loss: nn.Module = make_arcface(proxies, margin_degrees=math.degrees(margin), scale=scale)
    return loss
