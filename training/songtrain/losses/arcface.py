"""ArcFace (Deng et al. 2019) from pytorch-metric-learning, with its proxies where the classes are."""

import math

import torch
from pytorch_metric_learning.losses import ArcFaceLoss
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["class_means", "make_arcface"]


POLE = 1 - 1e-6
"""Largest cosine whose angle has a usable gradient: that of the arc cosine is infinite at 1."""


class _ArcFace(ArcFaceLoss):  # type: ignore[misc]  # the library has no types
    """The library's loss, with a finite gradient where an embedding lies exactly on its proxy or opposite."""

    def get_angles(self, cosine_of_target_classes: Tensor) -> Tensor:
        return super().get_angles(cosine_of_target_classes.clamp(-POLE, POLE))  # type: ignore[no-any-return]  # as above


def make_arcface(means: Tensor, *, margin_degrees: float, scale: float) -> ArcFaceLoss:
    """Return the loss for classes whose unit mean embeddings are ``means`` (n_classes, d).

    A fresh loss every round: the number of classes changes, and proxies that start at the class means make it
    irrelevant how clusters happen to be numbered.
    """
    loss = _ArcFace(num_classes=len(means), embedding_size=means.shape[1], margin=margin_degrees, scale=scale)
    # Other versions of the library take radians; 11.5 rad would train nonsense without a word.
    if not math.isclose(loss.margin, math.radians(margin_degrees), abs_tol=1e-6):
        raise RuntimeError(
            f"pytorch-metric-learning holds a margin of {loss.margin} for {margin_degrees} degrees; install version 2.9"
        )
    with torch.no_grad():
        loss.W.copy_(means.T)
    return loss


def class_means(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return unit means (n_classes, d) of embeddings (n, d) by labels (n,) int64 from 0; label -1 belongs to none."""
    known = labels >= 0
    n_classes = int(labels.max()) + 1
    sums = torch.zeros(n_classes, embeddings.shape[1], dtype=torch.float32)
    sums.index_add_(0, labels[known], normalize(embeddings[known].float()))
    return normalize(sums)
