"""The loss of BYOL and its slowly following target (Grill et al. 2020)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

__all__ = ["follow", "regression_loss"]


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared distance of unit vectors (n, d), 2 - 2 cos (eq. 2); the target has no gradient."""
    return (2 - 2 * (normalize(prediction.float()) * normalize(target.detach().float())).sum(dim=1)).mean()


def follow(target: nn.Module, online: nn.Module, decay: float) -> None:
    """Move every parameter of the target to decay x target + (1 - decay) x online (eq. 1)."""
    with torch.no_grad():
        for slow, quick in zip(target.parameters(), online.parameters(), strict=True):
            slow.lerp_(quick, 1 - decay)
