"""Random changes of whole batches of images, (n, n_frames, n_bands) tensors: the views of the sources' networks.

Every function draws from the generator it is given, on whose device the images lie, and returns a new tensor of the same
shape. Values are levels in units of 10 dB above the noise floor: 0 is silence, and what is moved or hidden leaves silence.
"""

import math

import torch
from torch import Generator, Tensor

__all__ = ["erase", "fade", "hide_stretches", "mix", "resize_crop", "spec_augment", "time_warp", "translate"]

SOFT = 0.6
"""A change of level acts fully on what is 6 dB above the floor and not on the floor itself."""
LN_10 = math.log(10)


def translate(images: Tensor, generator: Generator, *, share: float = 0.25, max_bands: int = 2) -> Tensor:
    """Move every image by up to ``share`` of its frames and ``max_bands`` whole bands, either way."""
    n, n_frames, n_bands = images.shape
    farthest = int(share * n_frames)
    frames = torch.randint(-farthest, farthest + 1, (n, 1), generator=generator, device=images.device)
    bands = torch.randint(-max_bands, max_bands + 1, (n, 1), generator=generator, device=images.device)
    moved = _take_frames(images, torch.arange(n_frames, device=images.device) - frames)
    return _take_frames(moved.mT, torch.arange(n_bands, device=images.device) - bands).mT


def erase(
    images: Tensor, generator: Generator, *, probability: float = 0.5, area: tuple[float, float] = (0.02, 0.33)
) -> Tensor:
    """Silence one rectangle of some images: random erasing (Zhong et al. 2020, algorithm 1; sides 0.3 to 1/0.3).

    ``area`` is the least and the largest share of the image. A rectangle that is longer than the image is cut at its edge.
    """
    n, n_frames, n_bands = images.shape
    share = _uniform(generator, n, *area)
    ratio = _uniform(generator, n, math.log(0.3), -math.log(0.3)).exp()
    share = share * (_uniform(generator, n, 0, 1) < probability)
    side = (share * n_frames * n_bands).sqrt()
    keep_frame = ~_stretch((side * ratio.sqrt()).round().clamp(max=n_frames), n_frames, generator)
    keep_band = ~_stretch((side / ratio.sqrt()).round().clamp(max=n_bands), n_bands, generator)
    return images * (keep_frame[:, :, None] | keep_band[:, None, :])


def resize_crop(
    images: Tensor,
    generator: Generator,
    *,
    scale: tuple[float, float] = (0.6, 1.5),
    canvas: tuple[float, float] = (1.5, 1.0),
) -> Tensor:
    """Cut a random part and stretch it to the whole: BYOL-A's random resize crop (Niizumi et al. 2021, section III-B).

    The image lies in the middle of a silent canvas that is ``canvas`` times as long and as high; the part's sides are
    ``scale`` of the image's. Linear instead of the source's bicubic interpolation.
    """
    at_frame = _crop(len(images), images.shape[1], scale, canvas[0], generator)
    at_band = _crop(len(images), images.shape[2], scale, canvas[1], generator)
    return _between_frames(_between_frames(images, at_frame).mT, at_band).mT


def fade(images: Tensor, generator: Generator, *, gain: float = 1.0) -> Tensor:
    """Let the level rise or fall along a straight line in time, up to ``gain`` at either end; silence stays silent."""
    n, n_frames, _ = images.shape
    first, last = _uniform(generator, n, -gain, gain), _uniform(generator, n, -gain, gain)
    along = torch.linspace(0, 1, n_frames, device=images.device)
    line = torch.lerp(first[:, None], last[:, None], along)[:, :, None]
    return (images + line * (images / SOFT).clamp(0, 1)).clamp(min=0)


def mix(images: Tensor, others: Tensor, generator: Generator, *, ratio: float = 0.4) -> Tensor:
    """Add up to ``ratio`` of the power of other images (m, n_frames, n_bands), drawn at random, and take off as much.

    BYOL-A's log-mixup-exp (Niizumi et al. 2021, eq. 4), with powers 10^level.
    """
    n = len(images)
    other = others[torch.randint(len(others), (n,), generator=generator, device=others.device)]
    part = _uniform(generator, n, 0, ratio)[:, None, None]
    return torch.logaddexp(images * LN_10 + torch.log1p(-part), other * LN_10 + part.clamp(min=1e-12).log()) / LN_10


def spec_augment(
    images: Tensor,
    generator: Generator,
    *,
    warp: int = 60,
    band_masks: tuple[int, int] = (1, 15),
    frame_masks: tuple[int, int] = (2, 60),
) -> Tensor:
    """SpecAugment (Park et al. 2019) with NSCNet's parameters: time warp, then masks (how many, how long at most).

    Neither moves or hides more than a quarter of a short image at once.
    """
    images = time_warp(images, generator, warp=warp)
    images = hide_stretches(images.mT, generator, n_masks=band_masks[0], longest=band_masks[1]).mT
    return hide_stretches(images, generator, n_masks=frame_masks[0], longest=frame_masks[1])


def time_warp(images: Tensor, generator: Generator, *, warp: int = 60) -> Tensor:
    """Move a random moment by up to ``warp`` frames; what is before and after it is stretched, the ends stay."""
    n, n_frames, _ = images.shape
    warp = min(warp, n_frames // 4)
    if warp == 0:
        return images
    last = n_frames - 1
    centre = _uniform(generator, n, warp, last - warp)[:, None]
    moved = (centre + _uniform(generator, n, -warp, warp)[:, None]).clamp(1e-3, last - 1e-3)
    at = torch.arange(n_frames, device=images.device, dtype=torch.float32)
    before, after = at * centre / moved, last - (last - at) * (last - centre) / (last - moved)
    return _between_frames(images, torch.where(at <= moved, before, after))


def hide_stretches(images: Tensor, generator: Generator, *, n_masks: int, longest: int) -> Tensor:
    """Silence ``n_masks`` stretches of 0 to ``longest`` frames in every image, of a quarter of its frames at most."""
    n, n_frames, _ = images.shape
    longest = min(longest, n_frames // 4)
    for _ in range(n_masks):
        width = torch.randint(longest + 1, (n,), generator=generator, device=images.device)
        images = images * ~_stretch(width, n_frames, generator)[:, :, None]
    return images


def _uniform(generator: Generator, n: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def _stretch(width: Tensor, size: int, generator: Generator) -> Tensor:
    """Return (n, size) bool: True in a stretch of ``width`` (n,) whole places somewhere in each row."""
    begin = (_uniform(generator, len(width), 0, 1) * (size - width + 1)).floor()
    at = torch.arange(size, device=width.device)
    return (at >= begin[:, None]) & (at < (begin + width)[:, None])


def _crop(n: int, size: int, scale: tuple[float, float], canvas: float, generator: Generator) -> Tensor:
    """Return (n, size) places in the image from which the places of the cropped one come."""
    side = (_uniform(generator, n, *scale) * size).clamp(1, canvas * size)[:, None]
    begin = _uniform(generator, n, 0, 1)[:, None] * (canvas * size - side)
    centres = (torch.arange(size, device=side.device) + 0.5) / size
    return begin + centres * side - 0.5 - (canvas - 1) / 2 * size


def _take_frames(images: Tensor, at: Tensor) -> Tensor:
    """Return the frames at whole places ``at`` (n, m), silence from outside the image: (n, m, n_bands)."""
    inside = (at >= 0) & (at < images.shape[1])
    rows = at.clamp(0, images.shape[1] - 1)[:, :, None].expand(-1, -1, images.shape[2])
    return images.gather(1, rows) * inside[:, :, None]


def _between_frames(images: Tensor, at: Tensor) -> Tensor:
    """Return the image at places ``at`` (n, m), linear between frames."""
    low = at.floor()
    return torch.lerp(
        _take_frames(images, low.long()), _take_frames(images, low.long() + 1), (at - low)[:, :, None].to(images.dtype)
    )
