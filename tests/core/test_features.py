"""Features: decibels above the noise floor in a fixed scale, silence exactly zero, lengths in whole buckets."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from songcore.features import FeatureConfig, song_features
from songcore.frontend import DB_PER_UNIT, FrontendConfig

FRONTEND = FrontendConfig()
CONFIG = FeatureConfig(margin_db=3, range_db=40, bucket_frames=8)
FLOOR = np.linspace(-12, -9, 64).astype(np.float32)


@pytest.mark.parametrize(
    ("above_db", "expected"), [(-50, 0), (0, 0), (3, 0), (4, 0.1), (13, 1), (23.5, 2.05), (43, 4), (90, 4)]
)
def test_scale(above_db: float, expected: float) -> None:
    """A band so many dB above its floor is (dB - margin) / 10, between 0 and the range, whatever the floor."""
    frames = (FLOOR + above_db / DB_PER_UNIT + np.zeros((5, 1))).astype(np.float32)
    features = song_features(frames, FLOOR, FRONTEND, CONFIG)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[:5], expected, atol=2e-5)


def test_agrees_with_a_naive_loop() -> None:
    """Every value is that of the formula for one frame and one band."""
    frames = np.random.default_rng(0).normal(-8, 4, (21, 64)).astype(np.float32)
    features = song_features(frames, FLOOR, FRONTEND, CONFIG)
    for i, frame in enumerate(frames):
        for band, value in enumerate(frame):
            above_db = (float(value) - float(FLOOR[band])) * 10 / np.log(10) - 3
            assert features[i, band] == pytest.approx(min(max(above_db, 0), 40) / 10, abs=1e-5)


@settings(deadline=None)
@given(n_frames=st.integers(0, 900), bucket=st.integers(1, 64), max_song_s=st.floats(0.01, 15))
def test_length(n_frames: int, bucket: int, max_song_s: float) -> None:
    """Features are as long as the song, cut at the longest, in whole buckets and at least one; the padding is silence."""
    config = FeatureConfig(bucket_frames=bucket, max_song_s=max_song_s)
    features = song_features(np.zeros((n_frames, 64), np.float32), FLOOR, FRONTEND, config)
    n_kept = min(n_frames, max(1, round(max_song_s / 0.016)))
    assert len(features) % bucket == 0
    assert n_kept <= len(features) < n_kept + bucket or len(features) == bucket
    assert (features[:n_kept] > 0).all()
    assert (features[n_kept:] == 0).all()


def test_a_longer_song_begins_alike() -> None:
    """What follows the longest song changes nothing."""
    frames = np.random.default_rng(1).normal(-8, 4, (900, 64)).astype(np.float32)
    n_longest = FRONTEND.n_frames(CONFIG.max_song_s)
    whole, cut = (song_features(frames[:n], FLOOR, FRONTEND, CONFIG) for n in (900, n_longest))
    np.testing.assert_array_equal(whole, cut)


@pytest.mark.parametrize(
    "setting",
    [
        {"margin_db": -1},
        {"margin_db": 41},
        {"range_db": 0},
        {"range_db": 121},
        {"max_song_s": 0},
        {"max_song_s": 61},
        {"bucket_frames": 0},
        {"bucket_frames": 1_025},
        {"median": True},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(setting: dict[str, Any]) -> None:
    """Values out of range and unknown keys are refused by name."""
    with pytest.raises(ValidationError, match=next(iter(setting))):
        FeatureConfig.model_validate(setting)


def test_levels_may_count_from_the_loudest_point() -> None:
    """Whatever the gain and the floor, the loudest point has the top value, and what is `range_db` fainter has none."""
    config = FeatureConfig(reference="loudest", range_db=60)
    frames = np.full((32, 64), -4.0, np.float32)
    frames[3, 7] = -4.0 + 20 / DB_PER_UNIT
    frames[5, 9] = -4.0 - 50 / DB_PER_UNIT
    features = song_features(frames, FLOOR, FRONTEND, config)
    assert features[3, 7] == pytest.approx(6.0)
    assert features[0, 0] == pytest.approx(4.0, abs=1e-4)
    assert features[5, 9] == 0
    assert song_features(frames - 3, FLOOR + 5, FRONTEND, config) == pytest.approx(features, abs=1e-4)
