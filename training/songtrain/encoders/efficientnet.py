"""EfficientNet-B0 from transformers, from scratch: the encoder of NSCNet, selectable where there is time for it.

About ten times the work of the light encoder. Maximum over both axes, then a linear layer with LeakyReLU(0.01), as
NSCNet has it.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["EfficientNetEncoder"]


class EfficientNetEncoder(nn.Module):
    """Features (n, 1, n_mels, n_frames) float32 → (n, n_features)."""

    def __init__(self, *, n_features: int = 512) -> None:
        super().__init__()
        from transformers import EfficientNetConfig, EfficientNetModel

        # B0 is the family's unscaled member; transformers' defaults describe B7.
        config = EfficientNetConfig(
            num_channels=1,
            width_coefficient=1.0,
            depth_coefficient=1.0,
            hidden_dim=1280,
            # Share of the newest batch in the running statistics; transformers hands on the share that TensorFlow keeps, 0.99.
            batch_norm_momentum=0.1,
            pooling_type="max",
            dropout_rate=0.2,
        )
        self.n_features = n_features
        # A GPU's convolutions of bfloat16 want the channels last.
        self.memory_format = torch.channels_last if torch.cuda.is_available() else torch.contiguous_format
        self.backbone = EfficientNetModel(config)
        _initialise(self.backbone)
        self.project = nn.Sequential(nn.Linear(config.hidden_dim, n_features), nn.LeakyReLU(0.01))

    def forward(self, features: Tensor) -> Tensor:
        """Return the pooled features of a batch."""
        # The model's own pooler is a window of 1280 x 1280, which ONNX cannot slide over a smaller map: same maximum.
        maps = self.backbone.encoder(self.backbone.embeddings(features)).last_hidden_state
        return self.project(maps.amax(dim=(2, 3)))  # type: ignore[no-any-return]  # nn.Sequential is untyped


def _initialise(backbone: nn.Module) -> None:
    """Begin as EfficientNet's authors do: convolutions N(0, 2 / fan-out), normalisations that change nothing.

    transformers draws everything, the normalisations' scales too, as N(0, 0.02), for weights that are loaded afterwards: from
    scratch all songs would come out the same.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
