"""Features: decibels above the noise floor in a fixed scale, silence exactly zero, lengths in whole buckets."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
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


def test_what_a_band_holds_is_taken_out_and_notes_stay() -> None:
    """A hum over the whole song vanishes, a note of a tenth of it keeps its level over the hum, the rest is silence."""
    frames = (FLOOR + np.zeros((100, 1))).astype(np.float32)
    frames[:, 5] += 12 / DB_PER_UNIT
    frames[20:30, 5] += 20 / DB_PER_UNIT
    frames[20:30, 40] += 30 / DB_PER_UNIT
    config = FeatureConfig(margin_db=0, steady_share=0.2, steady_below_db=10, bucket_frames=1)
    features = song_features(frames, FLOOR, FRONTEND, config)
    expected = np.zeros((100, 64))
    expected[20:30, 5], expected[20:30, 40] = 2.0, 3.0
    np.testing.assert_allclose(features, expected, atol=2e-5)


@given(n=st.integers(1, 120), share=st.floats(0.05, 0.9), below=st.floats(0, 60), seed=st.integers(0, 100))
def test_the_steady_level_is_exceeded_for_its_share(n: int, share: float, below: float, seed: int) -> None:
    """It is numpy's sorted value, never less than nothing nor nearer to the loudest point than asked."""
    frames = np.random.default_rng(seed).normal(-9, 3, (n, 64)).astype(np.float32)
    plain = FeatureConfig(margin_db=0, range_db=120, bucket_frames=1)
    config = plain.model_copy(update={"steady_share": share, "steady_below_db": below})
    above = (frames - FLOOR) * np.float32(DB_PER_UNIT)
    level = np.sort(above, axis=0)[::-1][int(share * n)]
    steady = np.clip(level, 0, max(0, above.max() - below))
    features = song_features(frames, FLOOR, FRONTEND, config)
    np.testing.assert_allclose(features, np.clip(above - steady, 0, 120) / 10, atol=1e-5)


def test_a_long_whistle_stays() -> None:
    """A band that sounds all the time keeps what stands less than ``steady_below_db`` under the loudest: here all but 5 dB."""
    frames = (FLOOR + np.zeros((100, 1))).astype(np.float32)
    frames[:, 20] += 30 / DB_PER_UNIT
    features = song_features(frames, FLOOR, FRONTEND, FeatureConfig(margin_db=0, steady_share=0.2, bucket_frames=1))
    np.testing.assert_allclose(features[:, 20], 2.5, atol=2e-5)


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
        {"steady_share": 0},
        {"steady_share": 1},
        {"steady_below_db": -1},
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
