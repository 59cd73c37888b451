"""The light encoder: a small residual network that keeps the frequency axis and pools over time.

About 0.4 million parameters and 45 million multiply-adds for 2.3 s of song. Pitch tells types apart, so bands are laid side
by side for every frame before anything is pooled; then the maximum and the mean over time are added (the pooling of
BYOL-A, Niizumi et al. 2021, section III-C).
"""

import torch
from torch import Tensor, nn

from songtrain.encoders.masking import song_mask

__all__ = ["LightEncoder"]


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; silence around the song stays silent."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(n_out)
        self.second = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # In place where nothing is needed again: these tensors are large, and time goes into memory.
        inner = self.first_norm(self.first(x)).mul_(mask).relu_()
        outer: Tensor = self.second_norm(self.second(inner))
        return outer.add_(self.shortcut(x)).mul_(mask).relu_()


class LightEncoder(nn.Module):
    """Features (n, 1, n_mels, n_frames) float32 → (n, n_features).

    Outside the song everything is set to zero after every stage, as if the tensor ended there: silence before or after
    a song changes nothing.
    """

    def __init__(self, n_mels: int, *, width: int = 16, n_features: int = 512) -> None:
        super().__init__()
        if n_mels % 8:
            raise ValueError(
                f"n_mels is {n_mels}; the encoder halves the frequency axis three times and needs a multiple of 8"
            )
        self.n_features = n_features
        # Quicker, but torch 2.13's convolutions crash in float32 with channels that are no multiple of 16.
        self.memory_format = torch.channels_last if width % 16 == 0 else torch.contiguous_format
        self.stem = nn.Conv2d(1, width, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.stages = nn.ModuleList(
            [
                _Residual(width, width, 1),
                _Residual(width, 2 * width, 2),
                _Residual(2 * width, 4 * width, 2),
                _Residual(4 * width, 4 * width, 1),
            ]
        )
        self._halves_time = (False, True, True, False)
        self.per_frame = nn.Linear(4 * width * (n_mels // 8), n_features)

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song."""
        x = self.stem_norm(self.stem(features))
        # Of the activations' own type: under autocast another one would turn every product back to float32.
        mask = song_mask(features)[..., ::2].to(x.dtype)
        x = x.mul_(mask).relu_()
        for stage, halves in zip(self.stages, self._halves_time, strict=True):
            mask = mask[..., ::2] if halves else mask
            x = stage(x, mask)
        frames = torch.relu(self.per_frame(x.flatten(1, 2).transpose(1, 2)))
        frames = frames * mask[:, 0, 0, :, None]
        n_valid = mask.float().sum(dim=3).flatten(1).clamp(min=1)
        return frames.amax(dim=1) + frames.float().sum(dim=1) / n_valid
