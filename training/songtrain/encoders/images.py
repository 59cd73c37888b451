"""Any of the encoders, by name, for images as the laboratory's features give them."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from songcore.errors import ConfigError
from songtrain.encoders.convolution import ConvolutionEncoder
from songtrain.encoders.efficientnet import EfficientNetEncoder
from songtrain.encoders.light import LightEncoder
from songtrain.encoders.residual import ResidualEncoder
from songtrain.loop.precision import multiplies_bfloat16

__all__ = ["EncoderName", "ImageEncoder"]

EncoderName: TypeAlias = Literal["light", "conv", "resnet-18", "resnet-50", "efficientnet-b0"]

MAKERS: Mapping[str, Callable[[int], nn.Module]] = {
    "light": LightEncoder,
    "conv": ConvolutionEncoder,
    "resnet-18": lambda _: ResidualEncoder(18),
    "resnet-50": lambda _: ResidualEncoder(50),
    "efficientnet-b0": lambda _: EfficientNetEncoder(),
}
MIN_BANDS = 32
"""The deepest of these networks halve both sides five times."""
MIN_FRAMES = 40
"""Maps of one frame by several bands, what 32 frames come to, torch 2.13's bfloat16 convolutions fill from unwritten memory:
other numbers at each call, and NaN at some. Two frames are safe."""


class ImageEncoder(nn.Module):
    """Images (n, n_frames, n_bands) float32 of any size → (n, n_features) float32.

    Silence is added after the last frame up to 40 frames, and above the highest band up to 32 bands and a multiple of 8:
    syllables of a few frames and cepstra pass through every network. Where the device has bfloat16 the network runs in it.
    """

    def __init__(self, name: EncoderName, n_bands: int) -> None:
        super().__init__()
        if name not in MAKERS:
            raise ConfigError(
                f"no network {name!r}: choose among {', '.join(get_args(EncoderName))}", reason="PART_UNKNOWN"
            )
        n_mels = max(MIN_BANDS, -(-n_bands // 8) * 8)
        network = MAKERS[name](n_mels)
        self._memory_format: torch.memory_format = network.memory_format  # type: ignore[assignment]  # a module's attribute
        self.network = network.to(memory_format=self._memory_format)  # type: ignore[call-overload]  # torch's stub
        self.n_features = int(network.n_features)  # type: ignore[arg-type]  # a module's attribute
        self._n_mels = n_mels

    def forward(self, images: Tensor) -> Tensor:
        """Return one vector per image."""
        _, n_frames, n_bands = images.shape
        x = pad(images, (0, self._n_mels - n_bands, 0, max(0, MIN_FRAMES - n_frames))).mT[:, None]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=multiplies_bfloat16(x.device)):
            codes: Tensor = self.network(x.contiguous(memory_format=self._memory_format))
        return codes.float()
