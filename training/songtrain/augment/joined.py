"""Several batches of views as one: a network sees them in one pass, and normalises over all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["joined"]


def joined(views: Sequence[Tensor]) -> Tensor:
    """Return batches (n, 1, n_mels, n_frames) of any lengths one after the other, padded with silence to the longest."""
    width = max(view.shape[3] for view in views)
    return torch.cat([pad(view, (0, width - view.shape[3])) for view in views])
