"""ResNet-18 and ResNet-50 (He et al. 2016) from transformers, from scratch, for images with one channel."""

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["ResidualEncoder"]


class ResidualEncoder(nn.Module):
    """Features (n, 1, n_mels, n_frames) float32 → (n, n_features), the mean over both axes: 512 or 2048 values."""

    def __init__(self, depth: Literal[18, 50] = 18) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        basic, bottleneck = [64, 128, 256, 512], [256, 512, 1024, 2048]
        self.n_features = basic[-1] if depth == 18 else bottleneck[-1]
        self.memory_format = torch.channels_last
        self.backbone = ResNetModel(
            ResNetConfig(num_channels=1, layer_type="basic", hidden_sizes=basic, depths=[2, 2, 2, 2])
            if depth == 18
            else ResNetConfig(num_channels=1, layer_type="bottleneck", hidden_sizes=bottleneck, depths=[3, 4, 6, 3])
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song."""
        return self.backbone(features).pooler_output.flatten(1)  # type: ignore[no-any-return]  # untyped
