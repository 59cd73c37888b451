"""The encoder of BYOL-A: three convolutions that keep the frequency axis, an MLP for every frame, maximum plus mean over time.

After Niizumi et al. 2021, section III-C, in its 512-dimensional variant.
"""

import torch
from torch import Tensor, nn

__all__ = ["ConvolutionEncoder", "RunningNorm"]


class ConvolutionEncoder(nn.Module):
    """Features (n, 1, n_mels, n_frames) float32 → (n, n_features); n_mels and n_frames at least 8."""

    def __init__(self, n_mels: int, *, width: int = 64, n_features: int = 512) -> None:
        super().__init__()
        self.n_features = n_features
        # Quicker, but torch 2.13's convolutions crash in float32 with channels that are no multiple of 16.
        self.memory_format = torch.channels_last if width % 16 == 0 else torch.contiguous_format
        stages: list[nn.Module] = []
        for n_in in (1, width, width):
            stages += [nn.Conv2d(n_in, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        self.stages = nn.Sequential(*stages)
        self.per_frame = nn.Sequential(
            nn.Linear(width * (n_mels // 8), n_features),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(n_features, n_features),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song."""
        frames = self.per_frame(self.stages(features).flatten(1, 2).transpose(1, 2))
        return frames.amax(dim=1) + frames.mean(dim=1)  # type: ignore[no-any-return]  # nn.Sequential is untyped


class RunningNorm(nn.Module):
    """Takes off the mean and divides by the standard deviation of everything seen in training, one number each.

    BYOL-A normalises views this way, since the statistics of a batch of augmented views wander.
    """

    mean: Tensor
    square: Tensor
    n_seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "square", "n_seen"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """Return the images normalised; in training they are counted first."""
        if self.training:
            self.n_seen += len(images)
            share = len(images) / self.n_seen
            self.mean += (images.mean(dtype=torch.float64) - self.mean) * share
            self.square += (images.to(torch.float64).square().mean() - self.square) * share
        if self.n_seen == 0:
            return images
        deviation = (self.square - self.mean**2).clamp(min=1e-12).sqrt()
        return (images - self.mean.to(images.dtype)) / deviation.to(images.dtype)
