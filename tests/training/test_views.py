"""Augmented views: in range, reproducible, and each change does what it says."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from songcore.features import FeatureConfig, song_features
from songcore.frontend import DB_PER_UNIT
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.augment.views import ViewMaker, without_steady
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.settings import AugmentSettings

NOTHING = AugmentSettings(
    tempo=0, pitch_mels=0, shift_share=0, crop_share=0, gain_db=0, mix_probability=0, background_probability=0,
    raise_floor_probability=0, n_masks=0,
)  # fmt: skip


def maker(songs: SongSet, stream: StreamConfig, settings: AugmentSettings, max_frames: int = 384) -> ViewMaker:
    """Return a view maker with a seed set."""
    store = FrameStore(songs, torch.device("cpu"))
    views = ViewMaker(store, settings, stream.frontend, stream.features, max_frames=max_frames, seed=0)
    views.seed(1)
    return views


def test_no_change_gives_the_song_itself(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """With every change off a view is the song, padded with silence to the longest of the batch."""
    songs = toy_songs(12)
    view = maker(songs, stream, NOTHING).views(np.array([0, 1]))
    assert view.shape == (2, 1, 64, 96)
    for row, index in enumerate((0, 1)):
        song = songs.features(index)
        assert view[row, 0, :, : len(song)].T.numpy() == pytest.approx(song, abs=1e-3)
        assert (view[row, 0, :, len(song) :] == 0).all()


@pytest.mark.parametrize("below_db", [5.0, 25.0])
def test_steady_sound_leaves_views_as_it_leaves_songs(stream: StreamConfig, below_db: float) -> None:
    """Views of several lengths, moved and padded, lose what the front end takes from the same frames."""
    rng = np.random.default_rng(0)
    songs = [np.maximum(rng.normal(1, 1.5, (n, 64)), 0.01).astype(np.float32) for n in (7, 40, 61)]
    batch = torch.zeros(3, 80, 64)
    for row, song in enumerate(songs):
        batch[row, row : row + len(song)] = torch.from_numpy(song)
    config = FeatureConfig(margin_db=0, steady_share=0.2, steady_below_db=below_db, range_db=120, bucket_frames=1)
    found = without_steady(batch, 0.2, below_db).numpy()
    for row, song in enumerate(songs):
        frames = (song * (10 / DB_PER_UNIT)).astype(np.float32)
        expected = song_features(frames, np.zeros(64, np.float32), stream.frontend, config)
        np.testing.assert_allclose(found[row, row : row + len(song)], expected, atol=1e-4)
    assert float(without_steady(torch.zeros(1, 9, 64), 0.2, below_db).sum()) == 0


def test_views_follow_from_the_seed_and_stay_in_range(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """The same seed gives the same views, another one others, and all lie between silence and the ceiling."""
    views = maker(toy_songs(24), stream, AugmentSettings())
    index = np.arange(24)
    first = views.views(index)
    second = views.views(index)
    views.seed(1)
    assert torch.equal(views.views(index), first)
    assert first.shape != second.shape or not torch.equal(first, second)
    for view in (first, second):
        assert float(view.min()) >= 0
        assert float(view.max()) <= stream.features.range_db / 10


def test_pitch_moves_by_no_more_than_asked(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """A single tone moves by at most two bands, and does move."""
    songs = toy_songs(8)
    tone = np.zeros_like(songs.frames)
    tone[:, 30] = 2
    songs = SongSet(songs.places, songs.lengths, tone, songs.background, 1.0)
    view = maker(songs, stream, NOTHING.model_copy(update={"pitch_mels": 2.0})).views(np.arange(8))
    centre = (view.sum(dim=(1, 3)) * torch.arange(64)).sum(1) / view.sum(dim=(1, 2, 3))
    assert float((centre - 30).abs().max()) <= 2.01
    assert float((centre - 30).abs().max()) > 0.3


def test_raised_floor_lowers_the_song(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """When the noise rises, loud parts come out lower and what was silent flickers."""
    settings = NOTHING.model_copy(update={"raise_floor_probability": 1.0, "lowest_snr_db": -10.0})
    songs = toy_songs(24)
    plain = FrameStore(songs, torch.device("cpu")).plain(np.arange(24))
    view = maker(songs, stream, settings).views(np.arange(24))[..., : plain.shape[3]]
    assert float(view.amax(dim=(1, 2, 3)).mean()) < float(plain.amax(dim=(1, 2, 3)).mean())
    assert float((view[plain == 0] > 0).float().mean()) > 0.02


def test_level_does_not_move_silence(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """Gain acts on the song and leaves silence exactly silent."""
    songs = toy_songs(8)
    plain = FrameStore(songs, torch.device("cpu")).plain(np.arange(8))
    view = maker(songs, stream, NOTHING.model_copy(update={"gain_db": 6.0})).views(np.arange(8))
    assert (view[plain == 0] == 0).all()
    assert not torch.allclose(view, plain, atol=0.05)


def test_long_songs_are_seen_in_stretches(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """No view is longer than the window, and different stretches of a song come up."""
    views = maker(toy_songs(8), stream, NOTHING, max_frames=32)
    seen = {views.views(np.array([0])).sum().item() for _ in range(8)}
    assert views.views(np.arange(8)).shape[3] <= 32
    assert len(seen) > 1


@pytest.mark.parametrize("n_frames", [32, 320])
def test_shift_and_masks_are_parts_of_the_song(stream: StreamConfig, n_frames: int) -> None:
    """A syllable of 32 frames keeps as large a part of itself as a song of 320 does."""
    frames = np.ones((8 * n_frames, 64), np.float16)
    places = tuple(SongPlace("a.wav", index, index + 1) for index in range(8))
    songs = SongSet(places, np.full(8, n_frames, np.int64), frames, frames[:0], 1.0)
    changes = {"shift_share": 0.1, "n_masks": 2, "mask_share": 0.1, "mask_mels": 0}
    view = maker(songs, stream, NOTHING.model_copy(update=changes)).views(np.arange(8))
    kept = view[:, 0].amax(dim=1).sum(dim=1) / n_frames
    # Two masks hide up to a fifth; what a shift moves out of one song's view others make room for.
    assert 0.65 < float(kept.min()) < 0.98
