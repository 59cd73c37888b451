"""Noise floor and background: unbiased in Gaussian noise by their closed forms, blind to songs, quick to forget."""

import numpy as np
import pytest

from songcore.arrays import FloatArray
from songcore.frontend import DB_PER_UNIT, FrontendConfig, LogMel
from songcore.noise import Background, NoiseConfig, NoiseFloor, frame_power, noise_excess, noise_shape
from songcore.presets import PRESETS

CONFIG = NoiseConfig()


def noise_frames(frontend: FrontendConfig, duration_s: float, seed: int = 3) -> FloatArray:
    """Return log-mel frames of white noise, less those that see the signal's ends."""
    rng = np.random.default_rng(seed)
    samples = (0.01 * rng.standard_normal(round(duration_s * frontend.sample_rate_hz))).astype(np.float32)
    mel = LogMel(frontend)
    return np.concatenate([mel.push(samples), mel.finish()])


def decibels(ratio: FloatArray) -> FloatArray:
    """Return natural logarithms as decibels."""
    return ratio * np.float32(DB_PER_UNIT)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("n_frames", [1, 3, 8])
def test_shape_is_that_of_simulated_noise(preset: str, n_frames: int) -> None:
    """Mean squared over variance of averaged band power, simulated, is the closed form within sampling error."""
    frontend, _ = PRESETS[preset]
    power = np.exp(noise_frames(frontend, 120.0)[8:-8].astype(np.float64))
    whole = power[: len(power) // n_frames * n_frames].reshape(-1, n_frames, frontend.n_mels).mean(axis=1)
    simulated = whole.mean(axis=0) ** 2 / whole.var(axis=0)
    assert np.median(np.abs(simulated / noise_shape(frontend, n_frames) - 1)) < 0.1


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_excess_is_exceeded_as_rarely_as_stated(preset: str) -> None:
    """Of averaged band powers of noise, the stated part lies above the stated excess, within a factor of two."""
    frontend, _ = PRESETS[preset]
    power = np.exp(noise_frames(frontend, 240.0)[8:-8].astype(np.float64))
    whole = power[: len(power) // 3 * 3].reshape(-1, 3, frontend.n_mels).mean(axis=1)
    above = np.mean(whole > whole.mean(axis=0) * noise_excess(frontend, 3, 1e-3))
    assert 0.5e-3 < above < 2e-3


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_floor_of_noise_is_its_mean_power(preset: str) -> None:
    """In white noise the floor is the mean power, to 0.3 dB over bands and time, and wavers by less than 1.5 dB."""
    frontend, _ = PRESETS[preset]
    frames = noise_frames(frontend, 120.0)
    indices = np.arange(round(20 / frontend.hop_s), len(frames), round(0.5 / frontend.hop_s))
    floors = NoiseFloor(CONFIG, frontend).floors_at(frames, indices)
    error_db = decibels(floors - np.log(np.exp(frames.astype(np.float64)).mean(axis=0)))
    assert abs(error_db.mean()) < 0.3
    assert error_db.std(axis=0).max() < 1.5


def test_floor_does_not_follow_songs() -> None:
    """With a tone in one band for 60 % of the time, that band's floor stays within 3 dB of where it was."""
    frontend, _ = PRESETS["song"]
    frames = noise_frames(frontend, 60.0)
    sounding = (np.arange(len(frames)) * frontend.hop_s) % 5.0 < 3.0
    loud = frames.copy()
    loud[sounding, 20] += 8.0
    indices = np.arange(round(20 / frontend.hop_s), len(frames), 31)
    quiet, raised = (NoiseFloor(CONFIG, frontend).floors_at(part, indices)[:, 20] for part in (frames, loud))
    assert decibels(np.abs(raised - quiet)).max() < 3


def test_floor_follows_the_noise() -> None:
    """When the noise grows by 20 dB or falls by 20 dB, the floor has followed within a window."""
    frontend, _ = PRESETS["song"]
    frames = noise_frames(frontend, 80.0)
    step = round(40 / frontend.hop_s)
    frames[step:] += np.float32(20 / DB_PER_UNIT)
    later = np.array([step - 1, step + round((CONFIG.floor_window_s + 1) / frontend.hop_s)])
    for direction in (frames, 2 * frames[:step].mean() - frames):
        before, after = NoiseFloor(CONFIG, frontend).floors_at(direction, later).mean(axis=1)
        assert abs(decibels(after - before)) == pytest.approx(20, abs=1)


@pytest.mark.parametrize("n", [1, 2, 10, 20, 33])
def test_short_recording_has_a_floor(n: int) -> None:
    """A recording shorter than the bootstrap, down to a frame, has a finite floor not far from its own level."""
    frontend, _ = PRESETS["song"]
    frames = noise_frames(frontend, 3.0)[10 : 10 + n]
    floor = NoiseFloor(CONFIG, frontend).floors_at(frames, np.array([0, n - 1]))
    assert floor.shape == (2, frontend.n_mels)
    assert abs(decibels(floor - frames.mean(axis=0)).mean()) < 6


def test_floor_is_not_deceived_by_a_fade_in() -> None:
    """Digital silence before the first sound, as encoders put it there, leaves the first floor within 2 dB."""
    frontend, _ = PRESETS["song"]
    frames = noise_frames(frontend, 10.0)
    faded = frames.copy()
    faded[:14] = np.log(1e-10)
    expected, floor = (NoiseFloor(CONFIG, frontend).floors_at(part, np.array([5]))[0] for part in (frames, faded))
    assert np.abs(decibels(floor - expected)).max() < 2


def test_frame_power_is_positive_and_finite() -> None:
    """Whatever a frame holds, its power can be divided by."""
    wild = np.array([[np.nan, np.inf, -np.inf, 0.0, 500.0, -500.0]], np.float32)
    power = frame_power(wild)
    assert np.isfinite(power).all()
    assert (power > 0).all()
    assert power[0, 3] == 1


def test_background_is_what_pauses_reach() -> None:
    """Steady noise has background 0 dB; pulses 8 dB above it, shorter than a pause, become the background in time."""
    frontend, _ = PRESETS["song"]
    ratios = np.full((3000, frontend.n_mels), 0.5, np.float32)
    assert (Background(CONFIG, frontend, 30).push(ratios) == 0.5).all()
    ratios[::10, 12] = 10**0.8
    relative = Background(CONFIG, frontend, 30).push(ratios)
    assert relative[:60].max() == pytest.approx(10**0.8)
    assert relative[-600:].max() == pytest.approx(1.0)


def test_background_is_limited() -> None:
    """However loud and dense the singing, no more than the limit is put down to the background."""
    frontend, _ = PRESETS["song"]
    relative = Background(CONFIG, frontend, 30).push(np.full((3000, frontend.n_mels), 1e4, np.float32))
    # Once for the band and once for all bands together.
    assert 10 * np.log10(relative[-1]) == pytest.approx(40 - 2 * CONFIG.max_background_db, abs=0.01)
