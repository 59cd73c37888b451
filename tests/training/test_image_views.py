"""Random changes of images: against closed forms, within their bounds, and the same for the same seed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from songtrain.augment.images import (
    erase,
    fade,
    hide_stretches,
    mix,
    resize_crop,
    spec_augment,
    time_warp,
    translate,
)

View = Callable[[Tensor, Generator], Tensor]
VIEWS: dict[str, View] = {
    "translate": translate,
    "erase": erase,
    "resize_crop": resize_crop,
    "fade": fade,
    "mix": lambda images, generator: mix(images, images, generator),
    "spec_augment": spec_augment,
}


def seeded(seed: int = 0) -> Generator:
    """Return a generator."""
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("size", [(8, 64), (96, 20), (1, 8)])
def test_views_keep_size_and_follow_from_the_seed(name: str, size: tuple[int, int]) -> None:
    """Images of any size, even of one frame, keep it; values stay finite levels; the seed decides everything."""
    images = 3 * torch.rand(16, *size, generator=seeded(9))
    before = images.clone()
    view = VIEWS[name](images, seeded())
    assert view.shape == images.shape
    assert torch.isfinite(view).all()
    assert float(view.min()) >= 0
    assert torch.equal(images, before)
    assert torch.equal(view, VIEWS[name](images, seeded()))
    if size[0] > 1:
        assert not torch.equal(view, VIEWS[name](images, seeded(1)))


def test_translation_moves_whole_frames_and_bands() -> None:
    """A single loud value is found again, unchanged, no farther away than asked, and in more than one place."""
    images = torch.zeros(64, 40, 16)
    images[:, 20, 8] = 2.0
    places = translate(images, seeded(), share=0.25, max_bands=2).nonzero()
    assert len(places) == 64
    moved = places[:, 1:] - torch.tensor([20, 8])
    assert moved.abs().amax(dim=0).tolist() == [10, 2]
    assert len(torch.unique(moved, dim=0)) > 20


def test_erased_is_one_rectangle_of_the_area_asked() -> None:
    """What is erased is a rectangle of 2 to 33 % of the image, up to rounding, in about half of the images."""
    hidden = erase(torch.ones(400, 60, 64), seeded()) == 0
    rows, columns = hidden.any(dim=2), hidden.any(dim=1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None, :])
    for touched in (rows, columns):
        assert int((touched.int().diff(dim=1) == 1).sum(dim=1).max()) <= 1
    area = hidden.float().mean(dim=(1, 2))
    assert float(area.max()) < 0.36
    assert float(area[area > 0].min()) > 0.01
    assert 160 < int((area > 0).sum()) < 240


def test_resize_crop_of_a_ramp_is_a_ramp() -> None:
    """Along a linear ramp the view stays linear inside the image, with a slope of 0.6 or more, 1 where the image is whole."""
    ramp = (torch.arange(100.0) + 50)[None, :, None].expand(50, 100, 8)
    view = resize_crop(ramp, seeded(), canvas=(1.0, 1.0))
    slope = view[:, 10:90, 2:6].diff(dim=1)  # at the edges the silence outside blends in
    assert torch.allclose(slope, slope[:, :1, :1].expand_as(slope), atol=1e-3)
    assert float(slope.min()) > 0.59
    assert float(slope.min()) < 0.7
    assert float(slope.max()) < 1.01
    wide = resize_crop(ramp, seeded(), canvas=(1.5, 1.0))
    assert (wide[:, 0] == 0).any(), "a canvas longer than the image shows silence beyond its ends"


def test_fade_is_a_line_on_what_sounds_and_nothing_on_silence() -> None:
    """The level of a steady sound changes linearly by at most the gain at its ends; silence stays silent."""
    images = torch.full((32, 50, 4), 3.0)
    images[:, :, 0] = 0
    change = fade(images, seeded(), gain=1.0) - images
    assert (change[:, :, 0] == 0).all()
    assert float(change.abs().max()) <= 1
    assert float(change[:, [0, -1]].abs().max()) > 0.8
    assert torch.allclose(change[:, :, 1:].diff(n=2, dim=1), torch.zeros(()), atol=1e-5)


def test_mixing_adds_powers() -> None:
    """Two constant levels mix to the level of their powers' weighted sum, the other's weight at most the ratio."""
    mine, other = torch.full((200, 2, 2), 1.0), torch.full((1, 2, 2), 3.0)
    level = mix(mine, other, seeded(), ratio=0.4)[:, 0, 0]
    weight = (10**level - 10) / (1000 - 10)
    assert float(weight.min()) >= -1e-4
    assert 0.35 < float(weight.max()) <= 0.4001
    assert float(weight.mean()) == pytest.approx(0.2, abs=0.03)


def test_masks_lie_within_their_bounds() -> None:
    """A mask hides one stretch of 0 to its longest, all widths and both ends occurring, of a short image a quarter."""
    hidden = (hide_stretches(torch.ones(500, 200, 4), seeded(), n_masks=1, longest=15) == 0).all(dim=2)
    assert set(hidden.sum(dim=1).tolist()) == set(range(16))
    assert int((hidden.int().diff(dim=1) == 1).sum(dim=1).max()) <= 1
    assert hidden[:, 0].any()
    assert hidden[:, -1].any()
    short = (hide_stretches(torch.ones(200, 8, 4), seeded(), n_masks=2, longest=60) == 0).all(dim=2).sum(dim=1)
    assert int(short.max()) == 4


def test_spec_augment_hides_time_twice_and_frequency_once() -> None:
    """NSCNet's policy hides at most two stretches of 60 frames and one of 15 bands of a long image."""
    hidden = spec_augment(torch.ones(100, 512, 64), seeded()) == 0
    frames, bands = hidden.all(dim=2).sum(dim=1), hidden.all(dim=1).sum(dim=1)
    assert 60 < int(frames.max()) <= 120
    assert 10 < int(bands.max()) <= 15


@pytest.mark.parametrize("n_frames", [4, 30, 512])
def test_time_warp_keeps_ends_and_order(n_frames: int) -> None:
    """First and last frame stay, time never runs backwards, and no moment moves farther than the warp."""
    ramp = torch.arange(float(n_frames))[None, :, None].expand(64, n_frames, 3)
    warped = time_warp(ramp, seeded(), warp=60)
    assert torch.equal(warped[:, 0], ramp[:, 0])
    assert torch.allclose(warped[:, -1], ramp[:, -1], atol=1e-3)
    assert float(warped.diff(dim=1).min()) >= 0
    moved = (warped - ramp).abs().amax(dim=(1, 2))
    assert float(moved.max()) <= min(60, n_frames // 4) + 1e-2
    assert float(moved.max()) > 0.4 * min(60, n_frames // 4)


def test_warped_time_goes_through_the_moved_moment() -> None:
    """The warp is the piecewise line of its definition: two slopes, meeting in one point."""
    ramp = torch.arange(200.0, dtype=torch.float64)[None, :, None].expand(20, 200, 1).float()
    curve = time_warp(ramp, seeded(3), warp=40)[:, :, 0].numpy()
    for line in curve:
        bend = np.abs(np.diff(line, 2)) > 1e-3
        assert 1 <= bend.sum() <= 2
        assert np.flatnonzero(bend).max() - np.flatnonzero(bend).min() <= 1
