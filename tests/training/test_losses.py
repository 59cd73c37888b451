"""Losses: units of the margin, finite gradients, negatives left out, proxies that do not care for numbering."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from songtrain.losses.arcface import class_means, make_arcface
from songtrain.losses.contrastive import nt_xent


def naive_nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float, same: np.ndarray) -> float:
    """Equation 1 of the paper, one pair at a time."""
    z = normalize(torch.cat([first, second])).numpy()
    n = len(first)
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [k for k in range(2 * n) if k != i and (k == j or not same[i % n, k % n])]
        exp = {k: math.exp(float(z[i] @ z[k]) / temperature) for k in others}
        total -= math.log(exp[j] / sum(exp.values()))
    return total / (2 * n)


def test_nt_xent_equals_the_paper_pair_by_pair() -> None:
    """The loss equals a loop over pairs, with and without pairs that are left out."""
    torch.manual_seed(0)
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    same = np.eye(5, dtype=bool)
    same[0, 3] = same[3, 0] = True
    assert float(nt_xent(first, second, 0.2, torch.from_numpy(same))) == pytest.approx(
        naive_nt_xent(first, second, 0.2, same), abs=1e-4
    )
    none = np.zeros((5, 5), bool)
    assert float(nt_xent(first, second, 0.5)) == pytest.approx(naive_nt_xent(first, second, 0.5, none), abs=1e-4)


def test_margin_is_in_degrees_and_held_in_radians() -> None:
    """11.5 degrees are 0.2 rad inside the loss."""
    loss = make_arcface(torch.eye(3, 8), margin_degrees=11.5, scale=16)
    assert loss.margin == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_arcface_gradient_is_finite_at_its_poles(sign: float) -> None:
    """An embedding exactly on its proxy, or exactly opposite, gives a finite loss and gradient."""
    loss = make_arcface(torch.eye(3, 8), margin_degrees=11.5, scale=16)
    embeddings = (sign * torch.eye(3, 8)).requires_grad_()
    value = loss(embeddings, torch.arange(3))
    value.backward()
    assert torch.isfinite(value)
    assert embeddings.grad is not None
    assert torch.isfinite(embeddings.grad).all()


def test_renumbered_clusters_change_nothing() -> None:
    """With proxies at the class means the first loss of a round is the same however its clusters are numbered."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 5
    embeddings = torch.randn(5, 16)[labels] + 0.1 * torch.randn(60, 16)
    losses = []
    for order in (torch.arange(5), torch.tensor([3, 0, 4, 1, 2])):
        renumbered = order[labels]
        loss = make_arcface(class_means(embeddings, renumbered), margin_degrees=11.5, scale=16)
        losses.append(loss(embeddings, renumbered).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    random = make_arcface(normalize(torch.randn(5, 16)), margin_degrees=11.5, scale=16)
    assert random(embeddings, labels).item() > 2 * losses[0]


def test_class_means_leave_out_songs_in_no_cluster() -> None:
    """A song labelled -1 has no part in any mean."""
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    means = class_means(embeddings, torch.tensor([0, 0, 1, -1]))
    assert torch.allclose(means, torch.eye(2))
