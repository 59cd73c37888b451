"""The losses of SeCu (Qian 2023): clusters told apart by cross-entropy that leaves the centres of other clusters alone."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize, one_hot

__all__ = ["centre_loss", "representation_loss"]


def centre_loss(songs: Tensor, centres: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of unit projections (n, d) against centres (k, d), for the centres alone.

    A song pulls the centre that it is given to, the harder the less sure it is of it, and pushes no other: a centre in
    a batch without songs of its own stays where it is, rather than being driven off by everyone else's.
    """
    similar = songs.detach() @ normalize(centres).T
    own = one_hot(labels, len(centres)).bool()
    return cross_entropy(torch.where(own, similar, similar.detach()) / temperature, labels)


def representation_loss(
    views: Tensor, centres: Tensor, labels: Tensor, temperature: float, label_weight: float
) -> Tensor:
    """Return the mean cross-entropy of two views (2, n, d) of the same songs, for the projections alone.

    The target is the song's label by ``label_weight``, and for the rest what the other view makes of it.
    """
    logits = views @ normalize(centres.detach()).T / temperature
    other = logits.detach().softmax(dim=2).flip(0)
    target = label_weight * one_hot(labels, len(centres)) + (1 - label_weight) * other
    return -(target * log_softmax(logits, dim=2)).sum(dim=2).mean()
