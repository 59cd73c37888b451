"""Images of songs as a network takes them: on its device, scaled, and of its size; and the way back."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from songcore.arrays import FloatArray
from songcore.errors import ConfigError, InputError

__all__ = ["ImageScale", "Scaling", "check_images", "learn_scale"]

Scaling: TypeAlias = Literal["minmax", "standard", "columns", "none"]


@dataclass(frozen=True)
class ImageScale:
    """The same level and span for all images, so that a faint song stays fainter than a loud one."""

    level: Tensor
    """One for all, or one for each value of a frame (n_values,)."""
    span: Tensor
    outside: tuple[int, int]
    """Frames and values per frame of the songs' images."""
    inside: tuple[int, int]
    """The same of the network's."""

    def enter(self, images: Tensor) -> Tensor:
        """Return images (n, *outside) as the network sees them, (n, *inside)."""
        return _resized((images - self.level.to(images.device)) / self.span.to(images.device), self.inside)

    def leave(self, images: Tensor) -> Tensor:
        """Return the network's images (n, *inside) in the songs' units and size."""
        return _resized(images, self.outside) * self.span.to(images.device) + self.level.to(images.device)


def learn_scale(images: FloatArray, scaling: Scaling, size: tuple[int | None, int | None]) -> ImageScale:
    """Return the scale of images (n, n_frames, n_values); where ``size`` is None the network's images stay as they are.

    ``minmax`` takes all values of all images to 0…1, ``standard`` to mean 0 and variance 1, ``columns`` each band or
    coefficient by itself to mean 0 and variance 1.
    """
    outside = (images.shape[1], images.shape[2])
    inside = (size[0] or outside[0], size[1] or outside[1])
    level, span = _level_and_span(images, scaling)
    # Images all of one value stay so, and the laboratory says that there is nothing to tell apart.
    span = np.where(span > 0, span, 1.0)
    return ImageScale(
        torch.tensor(level, dtype=torch.float32), torch.tensor(span, dtype=torch.float32), outside, inside
    )


def _level_and_span(images: FloatArray, scaling: Scaling) -> tuple[Any, Any]:
    match scaling:
        case "minmax":
            return images.min(), np.ptp(images)
        case "standard":
            return images.mean(dtype=np.float64), images.std(dtype=np.float64)
        case "columns":
            return images.mean(axis=(0, 1), dtype=np.float64), images.std(axis=(0, 1), dtype=np.float64)
        case "none":
            return 0.0, 1.0
    raise ConfigError(f"scaling is {scaling!r}; expected minmax, standard, columns or none")


def check_images(images: FloatArray) -> FloatArray:
    """Return images (n, n_frames, n_values) float32 that torch can take; InputError when there are none or they hold NaN."""
    if np.ndim(images) != 3 or not np.size(images):
        raise InputError(
            f"images of shape {np.shape(images)} were given, (songs, frames, values) are expected: name features before "
            "this encoder",
            reason="NO_IMAGES",
        )
    # A copy where the array is read-only, as those from Ray's object store are.
    ready = np.require(images, np.float32, ["C", "W"])
    if not np.isfinite(ready).all():
        raise InputError("features hold NaN or infinity; check the recordings", reason="NOT_FINITE")
    return ready


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[1:] == torch.Size(size):
        return images
    return interpolate(images[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
