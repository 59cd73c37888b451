"""What else is heard where birds sing: insects, wind, leaves and water, as rows of features without any song.

A noise floor knows only the quietest moments, so whatever comes and goes stands above it. Stationary noise does by chance
alone; an insect draws a line through a few bands, steady, pulsed or in phrases; wind and water swell and ebb over many bands.
All is drawn from wide ranges: an encoder that has heard many soundscapes listens to the song.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from songcore.arrays import FloatArray
from songcore.features import SCALE_DB, FeatureConfig
from songcore.frontend import FrontendConfig
from songcore.noise import noise_shape

__all__ = ["SCENE_FRAMES", "soundscape_rows"]

SCENE_FRAMES = 512
"""Length of one scene."""
STEADY_SHARE = 0.3
"""Scenes with nothing but stationary noise."""
MAX_INSECTS = 5
INSECT_DB = (3.0, 22.0)
GUST_DB = (2.0, 8.0)
"""Spread of the level of wind and water."""

Float64Array = NDArray[np.float64]


def soundscape_rows(
    frontend: FrontendConfig, features: FeatureConfig, n_scenes: int, rng: np.random.Generator
) -> FloatArray:
    """Return (n_scenes * SCENE_FRAMES, n_mels) float32 in units of 10 dB above the noise floor, 0 for silence."""
    return np.concatenate([_scene(frontend, features, rng) for _ in range(n_scenes)])


def _scene(frontend: FrontendConfig, features: FeatureConfig, rng: np.random.Generator) -> FloatArray:
    # Of power over that of the floor: 1 is the stationary noise that every place has.
    level = np.ones((SCENE_FRAMES, frontend.n_mels))
    if rng.random() >= STEADY_SHARE:
        for _ in range(rng.integers(MAX_INSECTS + 1)):
            level += _insect(frontend, rng)
        if rng.random() < 0.5:
            level *= _gusts(frontend, rng)
    shape = noise_shape(frontend, 1)
    power = level * rng.gamma(shape, size=level.shape) / shape
    above_db = 10 * np.log10(np.maximum(power, 1e-6)) - features.margin_db
    return (np.clip(above_db, 0, features.range_db) / SCALE_DB).astype(np.float32)


def _insect(frontend: FrontendConfig, rng: np.random.Generator) -> Float64Array:
    """Power (SCENE_FRAMES, n_mels) of a line through a few neighbouring bands, its level wavering."""
    bands, per_s = np.arange(frontend.n_mels), 1 / frontend.hop_s
    centre, width = rng.uniform(0, frontend.n_mels), rng.uniform(0.4, 2.0)
    profile = np.exp(-0.5 * ((bands - centre) / width) ** 2)
    waver_db = 3.0 * _unit(gaussian_filter1d(rng.normal(size=SCENE_FRAMES), per_s * rng.uniform(0.05, 0.5)))
    power = 10 ** ((rng.uniform(*INSECT_DB) + waver_db) / 10)
    if rng.random() < 0.5:
        power *= _is_on(per_s / rng.uniform(3, 25), rng)  # pulses
    if rng.random() < 0.5:
        power *= _is_on(per_s * rng.uniform(0.5, 5), rng)  # phrases
    return np.asarray(power[:, None] * profile)


def _is_on(period: float, rng: np.random.Generator) -> Float64Array:
    """Ones and zeros in turn (SCENE_FRAMES,)."""
    phase = (np.arange(SCENE_FRAMES) / period + rng.random()) % 1
    return (phase < rng.uniform(0.3, 0.8)).astype(np.float64)


def _gusts(frontend: FrontendConfig, rng: np.random.Generator) -> Float64Array:
    """Gain of power (SCENE_FRAMES, n_mels) that swells and ebbs, at least 1: the floor knows the quietest moments."""
    spread = (rng.uniform(0.05, 1.0) / frontend.hop_s, rng.uniform(2, 12))
    wave = _unit(gaussian_filter(rng.normal(size=(SCENE_FRAMES, frontend.n_mels)), spread, mode="wrap"))
    return np.asarray(10 ** (np.maximum(rng.uniform(*GUST_DB) * (wave + 0.7), 0) / 10))


def _unit(wave: Float64Array) -> Float64Array:
    return np.asarray((wave - wave.mean()) / max(float(wave.std()), 1e-9))
