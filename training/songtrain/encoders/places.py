"""The spectrum at places of a sound's own length as a layer: how a syllable begins, goes on and ends.

What pools over time forgets the order of things; a sweep at the beginning may be all that tells two syllables apart. Between
places levels are weighed by distance, as if the sound were stretched to a fixed length. Nothing is trained.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from songtrain.encoders.masking import song_mask

__all__ = ["PlacedSpectra"]


class PlacedSpectra(nn.Module):
    """Features (n, 1, n_mels, n_frames) → unit vectors (n, n_mels * n_places); a silent song is zero."""

    def __init__(self, n_mels: int, n_places: int) -> None:
        super().__init__()
        self.n_features = n_mels * n_places
        self.register_buffer("places", torch.arange(n_places) + 0.5)
        self.n_places = n_places

    places: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song."""
        mask = song_mask(features)[:, 0, 0].float()
        # Where the middle of a frame lies, in units of the distance between places.
        at = (mask.cumsum(dim=1) - 0.5) / mask.sum(dim=1, keepdim=True).clamp(min=1) * self.n_places
        weights = (1 - (at[:, :, None] - self.places).abs()).clamp(min=0) * mask[:, :, None]
        # A song of fewer frames than places has none near some of them: these stay zero.
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
        return normalize(torch.bmm(features[:, 0].float(), weights).flatten(1))
