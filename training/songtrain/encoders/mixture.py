"""A mixture of Gaussians as the prior of codes, its parameters learned."""

from math import log, pi

import torch
from torch import Tensor, nn

from songcore.arrays import FloatArray

__all__ = ["MixturePrior"]


class MixturePrior(nn.Module):
    """p(z) = Σ π_c N(z; µ_c, diag σ_c²), for codes z (n, n_latent)."""

    def __init__(self, shares: FloatArray, means: FloatArray, variances: FloatArray) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.from_numpy(shares).log())
        self.means = nn.Parameter(torch.from_numpy(means))
        self.log_variances = nn.Parameter(torch.from_numpy(variances).log())

    def log_shares(self) -> Tensor:
        """Return log π (n_clusters,)."""
        return self.logits.log_softmax(dim=0)

    def log_responsibilities(self, codes: Tensor) -> Tensor:
        """Return log p(c | z) (n, n_clusters), the log γ of VaDE: finite where γ itself is rounded to nothing."""
        distance = (codes[:, None] - self.means).square() / self.log_variances.exp()
        log_density = -0.5 * (distance + self.log_variances + log(2 * pi)).sum(dim=2)
        return (self.log_shares() + log_density).log_softmax(dim=1)
