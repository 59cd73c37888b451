"""Several small networks of one shape side by side, computed as one: cluster heads that compete."""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

__all__ = ["ParallelHeads"]


class ParallelHeads(nn.Module):
    """Independent MLPs of linear layers with ReLU between: (n, d) or (n_heads, n, d) → (n_heads, n, n_out)."""

    def __init__(self, n_heads: int, n_in: int, n_out: int, *, n_hidden: int, n_layers: int) -> None:
        super().__init__()
        sizes = [n_in, *[n_hidden] * (n_layers - 1), n_out]
        # He et al. 2015 keeps the variance through layers with ReLU; small logits begin with all clusters equally likely.
        deviations = [sqrt(2 / size) for size in sizes[:-2]] + [0.1 / sqrt(n_hidden)]
        self.weights = nn.ParameterList(
            [
                nn.Parameter(torch.randn(n_heads, a, b) * deviation)
                for a, b, deviation in zip(sizes, sizes[1:], deviations, strict=False)
            ]
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n_heads, 1, b)) for b in sizes[1:]])
        self.n_heads = n_heads

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every head."""
        hidden = x.expand(self.n_heads, *x.shape[-2:])
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, relu(hidden) if layer else hidden, weight)
        return hidden
