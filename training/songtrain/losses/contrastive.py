"""NT-Xent, the loss of SimCLR (Chen et al. 2020, eq. 1), with pairs that are known not to be negatives left out."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

__all__ = ["nt_xent"]


def nt_xent(first: Tensor, second: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """Return the mean loss, float32, of projections (n, d) of two views.

    ``same`` (n, n) bool marks songs that count as the same type (or are the same song, drawn twice): these neither attract nor
    repel.
    """
    n = len(first)
    z = normalize(torch.cat([first, second]).float())
    logits = z @ z.T / temperature
    rows = torch.arange(2 * n, device=z.device)
    partner = (rows + n) % (2 * n)
    ignored = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    if same is not None:
        ignored = ignored | same.tile(2, 2)
        ignored[rows, partner] = False
    return cross_entropy(logits.masked_fill(ignored, float("-inf")), partner)
