"""The autoencoders of the literature: an image of a song → a short code → the image again.

Each takes images of one size, whatever it is: layers round sizes up on the way down, and the way up aims at the sizes that the
way down had. So a syllable of five frames has a code too.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from songcore.errors import ConfigError

__all__ = ["Architecture", "Autoencoder", "PooledAutoencoder", "StridedAutoencoder", "build_autoencoder"]

Architecture: TypeAlias = Literal["chroma", "mfcc", "mel", "vaenet"]
Size: TypeAlias = tuple[int, int]
"""Frames and values per frame."""
Strides: TypeAlias = Sequence[tuple[int, int]]


class Autoencoder(nn.Module):
    """What both have: images (n, n_frames, n_values) ⇄ codes (n, n_latent)."""

    n_latent: int
    to_code: nn.Module
    """The last layer of the way down."""

    def encode(self, images: Tensor) -> Tensor:
        """Return codes (n, n_outputs): n_latent values, or twice as many, means and log variances."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Return images for codes (n, n_latent)."""
        raise NotImplementedError


class StridedAutoencoder(Autoencoder):
    """Convolutions that step over the image, a dense code, and their transposes; no pooling."""

    def __init__(self, size: Size, widths: Sequence[int], strides: Strides, n_latent: int, n_outputs: int) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.sizes = [size]
        self.down, up = nn.ModuleList(), []
        for n_in, n_out, stride in zip((1, *widths), widths, strides, strict=False):
            # As wide as the step and the half of it on either side: no pixel is stepped over, and sizes are rounded up.
            kernel = (_odd(stride[0]), _odd(stride[1]))
            margin = (kernel[0] // 2, kernel[1] // 2)
            self.down.append(nn.Conv2d(n_in, n_out, kernel, stride, margin))
            up.append(nn.ConvTranspose2d(n_out, n_in, kernel, stride, margin))
            last = self.sizes[-1]
            self.sizes.append((-(-last[0] // stride[0]), -(-last[1] // stride[1])))
        self.up = nn.ModuleList(reversed(up))
        self.map_shape = (widths[-1], *self.sizes[-1])
        n_map = widths[-1] * self.sizes[-1][0] * self.sizes[-1][1]
        self.to_code = nn.Linear(n_map, n_outputs)
        self.from_code = nn.Linear(n_latent, n_map)

    def encode(self, images: Tensor) -> Tensor:
        """Return codes (n, n_outputs)."""
        x = images[:, None]
        for layer in self.down:
            x = torch.relu(layer(x))
        codes: Tensor = self.to_code(x.flatten(1))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return images (n, n_frames, n_values)."""
        x = torch.relu(self.from_code(codes)).reshape(-1, *self.map_shape)
        for layer, size in zip(self.up, self.sizes[-2::-1], strict=True):
            x = layer(x, output_size=size)
            x = torch.relu(x) if layer is not self.up[-1] else x
        image: Tensor = x[:, 0]
        return image


class PooledAutoencoder(Autoencoder):
    """3×3 convolutions with 2×2 max-pooling after each; the last map is the code, unless a dense one is asked for.

    The way back mirrors it: convolution, then every pixel becomes four.
    """

    def __init__(self, size: Size, widths: Sequence[int], n_latent: int, n_outputs: int) -> None:
        super().__init__()
        self.sizes = [size]
        for _ in widths:
            self.sizes.append((-(-self.sizes[-1][0] // 2), -(-self.sizes[-1][1] // 2)))
        n_map = widths[-1] * self.sizes[-1][0] * self.sizes[-1][1]
        self.n_latent = n_latent or n_map
        self.map_shape = (widths[-1], *self.sizes[-1])
        self.down = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 3, padding=1) for n_in, n_out in zip((1, *widths[:-1]), widths, strict=True)
        )
        back = widths[::-1]
        self.up = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 3, padding=1) for n_in, n_out in zip((back[0], *back[:-1]), back, strict=True)
        )
        self.last = nn.Conv2d(back[-1], 1, 3, padding=1)
        self.to_code = nn.Linear(n_map, n_outputs) if n_latent else nn.Identity()
        self.from_code = nn.Linear(n_latent, n_map) if n_latent else nn.Identity()

    def encode(self, images: Tensor) -> Tensor:
        """Return codes (n, n_outputs)."""
        x = images[:, None]
        for layer in self.down:
            # After pooling a quarter of the work, and the same values: the larger of two stays the larger.
            x = torch.relu(max_pool2d(layer(x), 2, ceil_mode=True))
        codes: Tensor = self.to_code(x.flatten(1))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return images (n, n_frames, n_values)."""
        x = self.from_code(codes).reshape(-1, *self.map_shape)
        for layer, size in zip(self.up, self.sizes[-2::-1], strict=True):
            x = interpolate(torch.relu(layer(x)), size=size)
        image: Tensor = self.last(x)
        return image[:, 0]


HALVES = (2, 2)
STRIDED: Mapping[str, tuple[Sequence[int], Strides]] = {
    # Twelve pitch classes become three, time is halved three times: 474 frames to 60. The source does not tell the widths.
    "chroma": ((16, 32, 32), (HALVES, HALVES, (2, 1))),
    # The source tells the size of the image alone.
    "mel": ((16, 32, 64, 128), (HALVES,) * 4),
    # 512 frames of 64 bands to 8 × 1 × 256. Five halvings would give 16 × 2: the first layer steps by four.
    "vaenet": ((16, 32, 64, 128, 256), ((4, 4), *(HALVES,) * 4)),
}
POOLED: Mapping[str, Sequence[int]] = {"mfcc": (128, 128, 64, 32)}


def build_autoencoder(
    architecture: Architecture, size: Size, n_latent: int, *, variational: bool = False
) -> Autoencoder:
    """Return the network with random weights for images of that size; ConfigError when it does not exist so.

    ``n_latent`` 0 makes the last map the code, which only the pooled network can. A variational one gives a mean and a
    log variance for every value of the code.
    """
    if architecture not in STRIDED and architecture not in POOLED:
        raise ConfigError(
            f"no autoencoder {architecture!r}: choose among {', '.join((*STRIDED, *POOLED))}", reason="PART_UNKNOWN"
        )
    has_own_code = architecture in POOLED and not variational
    if n_latent < (0 if has_own_code else 1):
        raise ConfigError(f"n_latent is {n_latent}; {architecture} needs the length of its code, one at least")
    n_outputs = n_latent * (2 if variational else 1)
    if architecture in POOLED:
        return PooledAutoencoder(size, POOLED[architecture], n_latent, n_outputs)
    widths, strides = STRIDED[architecture]
    return StridedAutoencoder(size, widths, strides, n_latent, n_outputs)


def _odd(stride: int) -> int:
    return 3 if stride <= 2 else stride + 1 - stride % 2
