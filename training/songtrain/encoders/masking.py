"""Where a song lies inside its padded tensor."""

import torch
from torch import Tensor

__all__ = ["song_mask"]


def song_mask(features: Tensor) -> Tensor:
    """Return (n, 1, 1, n_frames): one from a song's first to its last frame that is not silent, zero elsewhere.

    Computed inside the exported graph, so that serving needs no lengths. A silent song has no valid frame.
    """
    sounds = features.amax(dim=(1, 2)) > 0
    at = torch.arange(features.shape[3], device=features.device)
    first = torch.where(sounds, at, features.shape[3]).amin(dim=1, keepdim=True)
    last = torch.where(sounds, at, -1).amax(dim=1, keepdim=True)
    return ((at >= first) & (at <= last)).to(features.dtype)[:, None, None, :]
