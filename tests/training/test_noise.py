"""Noise in training: soundscapes, songs that sink into them, and a layer that learns what only noise changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from songcore.stream import StreamConfig
from songtrain.augment.soundscape import SCENE_FRAMES, soundscape_rows
from songtrain.augment.store import FrameStore
from songtrain.augment.views import ViewMaker
from songtrain.datasets.songs import SongSet
from songtrain.encoders.build import build_encoder
from songtrain.encoders.network import SteadyEncoder
from songtrain.loop.steadying import steady_weights, whitening
from songtrain.settings import AugmentSettings, EncoderSettings, TrainSettings

ONLY_NOISE = AugmentSettings(
    tempo=0, pitch_mels=0, shift_share=0, crop_share=0, gain_db=0, mix_probability=0, background_probability=0,
    raise_floor_probability=1, n_masks=0,
)  # fmt: skip


def test_soundscapes_stand_above_the_floor_and_differ(stream: StreamConfig) -> None:
    """Scenes are in range and follow from the seed; some are all but silent, some have lines, none has all cells loud."""
    rows = soundscape_rows(stream.frontend, stream.features, 32, np.random.default_rng(0))
    again = soundscape_rows(stream.frontend, stream.features, 32, np.random.default_rng(0))
    assert np.array_equal(rows, again)
    assert rows.min() == 0
    assert rows.max() <= stream.features.range_db / 10
    scenes = rows.reshape(32, SCENE_FRAMES, -1)
    loud = (scenes > 0).mean(axis=(1, 2))
    assert loud.min() < 0.1
    assert 0.3 < loud.max() < 0.98
    # An insect: one band far louder, on average over the scene, than most.
    by_band = scenes.mean(axis=1)
    assert (by_band.max(axis=1) - np.median(by_band, axis=1)).max() > 0.5


def _views(songs: SongSet, stream: StreamConfig, settings: AugmentSettings) -> ViewMaker:
    store = FrameStore(songs, torch.device("cpu"))
    views = ViewMaker(store, settings, stream.frontend, stream.features, max_frames=384, seed=0)
    views.seed(1)
    return views


def test_songs_sink_no_deeper_than_asked(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """The lower the lowest ratio, the less of the songs is left; a ratio above the songs' own leaves them alone."""
    songs = toy_songs(48)
    plain = FrameStore(songs, torch.device("cpu")).plain(np.arange(48))

    def loudest(lowest_snr_db: float) -> float:
        settings = ONLY_NOISE.model_copy(update={"lowest_snr_db": lowest_snr_db})
        view = _views(songs, stream, settings).views(np.arange(48))[..., : plain.shape[3]]
        return float(view[plain > 2].mean())

    assert loudest(-10.0) < loudest(0.0) < loudest(10.0) < float(plain[plain > 2].mean()) + 1e-3
    assert loudest(40.0) == pytest.approx(float(plain[plain > 2].mean()), abs=1e-3)


def test_whitening_evens_what_views_change() -> None:
    """A direction along which views of one song differ much counts less; one along which they do not counts more."""
    rng = np.random.default_rng(0)
    spread = np.array([3.0, 1.0, 0.1, 0.0])
    features = rng.normal(size=(1, 4000, 4)) + spread * rng.normal(size=(4, 4000, 4))
    weights = whitening(features.astype(np.float32))
    # (C / mean variance + 1)^(-1/2), by hand.
    expected = 1 / np.sqrt(spread**2 / np.mean(spread**2) + 1)
    assert np.diag(weights) == pytest.approx(expected, rel=0.03)
    assert np.abs(weights - np.diag(np.diag(weights))).max() < 0.02


def test_views_that_do_not_differ_change_nothing() -> None:
    """Without any difference between views every direction counts the same."""
    same = np.repeat(np.random.default_rng(0).normal(size=(1, 8, 4)), 3, axis=0).astype(np.float32)
    assert np.array_equal(whitening(same), np.eye(4, dtype=np.float32))


def test_no_direction_rules_what_views_change(toy_songs: Callable[..., SongSet], stream: StreamConfig) -> None:
    """Behind the layer the differences between new views of a song spread over more directions than before it."""
    torch.manual_seed(0)
    songs = toy_songs(96)
    settings = TrainSettings(encoder=EncoderSettings(width=4, n_features=64, n_steady_songs=48))
    encoder = build_encoder(settings.encoder, 64).eval()
    store = FrameStore(songs, torch.device("cpu"))
    weights = steady_weights(encoder, store, settings, stream)
    assert np.array_equal(weights, steady_weights(encoder, store, settings, stream))
    views = _views(songs, stream, settings.augment)
    first, second = views.views(np.arange(96)), views.views(np.arange(96))

    def largest_share(network: torch.nn.Module) -> float:
        with torch.inference_mode():
            moved = (normalize(network(first)) - normalize(network(second))).numpy()
        return float(np.linalg.norm(moved, ord=2) ** 2 / np.square(moved).sum())

    assert largest_share(SteadyEncoder(encoder, weights)) < 0.8 * largest_share(encoder)


def test_no_songs_for_steadiness_leave_the_encoder_as_it_is(
    toy_songs: Callable[..., SongSet], stream: StreamConfig
) -> None:
    """With n_steady_songs 0 the layer is the identity."""
    settings = TrainSettings(encoder=EncoderSettings(width=4, n_features=16, n_steady_songs=0))
    encoder = build_encoder(settings.encoder, 64)
    store = FrameStore(toy_songs(8), torch.device("cpu"))
    assert np.array_equal(steady_weights(encoder, store, settings, stream), np.eye(16, dtype=np.float32))
