"""Background noise: pink air, wind in gusts, rain, and insects, with a station's own colour.

Noise is Gaussian with a power spectrum that changes from block to block: random spectra, inverse transforms, and
overlapping sine windows, whose squares sum to one so that the power stays exactly as asked.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from songcore.arrays import FloatArray
from songtrain.synth.config import SeasonConfig

__all__ = ["BAND_HZ", "Weather", "band_power", "draw_weather", "render_noise"]

BAND_HZ = (1000.0, 11_000.0)
"""The band in which song and noise are compared."""

BLOCK = 16_384
CHUNK_BLOCKS = 64

Rng = np.random.Generator


@dataclass(frozen=True)
class Weather:
    """The background of one recording; levels are band powers in dB against the station's still air."""

    pink_exponent: float
    wind_db: float | None
    rain_db: float | None
    insects: tuple[tuple[float, float, float, float], ...]
    """Continuous insects: centre Hz, width Hz, level dB, pulse rate Hz (0: unbroken)."""


def draw_weather(config: SeasonConfig, rng: Rng) -> Weather:
    """Draw the background of one recording."""
    windy, rainy, buzzing = rng.random(3) < (config.wind_share, config.rain_share, config.insect_share)
    return Weather(
        pink_exponent=rng.uniform(0.7, 1.9),
        wind_db=rng.uniform(0, 14) if windy else None,
        rain_db=rng.uniform(-2, 8) if rainy else None,
        insects=tuple(
            (
                rng.uniform(3800, 10_500),
                rng.uniform(60, 700),
                rng.uniform(-14, 0),
                rng.choice([0.0, rng.uniform(2, 30)]),
            )
            for _ in range(rng.integers(1, 4) if buzzing else 0)
        ),
    )


def band_power(samples: FloatArray, sample_rate_hz: int) -> float:
    """Return the mean square of samples (n,) in `BAND_HZ`, by Parseval's theorem over the whole stretch."""
    n = len(samples)
    size = next_fast_len(n, real=True)
    low, high = (round(f * size / sample_rate_hz) for f in BAND_HZ)
    spectrum = rfft(samples, size)[low:high]
    return float(2 * np.sum(spectrum.real**2 + spectrum.imag**2, dtype=np.float64) / (n * size))


def render_noise(weather: Weather, n_samples: int, sample_rate_hz: int, colour_db: FloatArray, rng: Rng) -> FloatArray:
    """Return noise (n_samples,) float32 whose still air has band power 1 before the station's colour.

    ``colour_db`` is the station's equaliser at the BLOCK / 2 + 1 bins of a block.
    """
    spectra, gains = _components(weather, n_samples // (BLOCK // 2) + 2, sample_rate_hz, rng)
    colour = np.power(np.float32(10), colour_db / 20)
    window = np.sin(np.pi * (np.arange(BLOCK, dtype=np.float32) + 0.5) / BLOCK)
    half = BLOCK // 2
    out = np.zeros((len(gains) + 1) * half, np.float32)
    for begin in range(0, len(gains), CHUNK_BLOCKS):
        power = np.einsum("bc,cf->bf", gains[begin : begin + CHUNK_BLOCKS], spectra)
        amplitude = np.sqrt(power) * colour
        random = rng.standard_normal((len(power), BLOCK + 2), dtype=np.float32)
        blocks = irfft(random.view(np.complex64) * amplitude, BLOCK, axis=1) * window
        span = out[begin * half : (begin + len(blocks) + 1) * half].reshape(-1, half)
        span[:-1] += blocks[:, :half]
        span[1:] += blocks[:, half:]
    noise = out[half : half + n_samples]
    _pulse(noise, weather, sample_rate_hz)
    if weather.rain_db is not None:
        _add_drops(noise, weather.rain_db, sample_rate_hz, rng)
    return noise


def _components(weather: Weather, n_blocks: int, sample_rate_hz: int, rng: Rng) -> tuple[FloatArray, FloatArray]:
    """Spectra (c, BLOCK / 2 + 1) of unit band power and their gains (n_blocks, c) as powers."""
    hz = np.fft.rfftfreq(BLOCK, 1 / sample_rate_hz)
    hz[0] = hz[1]
    in_band = (hz >= BAND_HZ[0]) & (hz < BAND_HZ[1])
    audible = 1 / (1 + (50 / hz) ** 4)  # microphones see little below 50 Hz
    air = (hz / 1000) ** -weather.pink_exponent * audible
    # White noise of the microphone itself, 12 dB under the air at 1 kHz.
    spectra, gains = [air + 0.06], [10 ** (_drift(n_blocks, 1.0, 40, rng) / 10)]
    if weather.wind_db is not None:
        gusts = _drift(n_blocks, 7.0, 8, rng) + weather.wind_db - 10
        spectra.append(1 / (1 + (hz / 120) ** 3) * audible)
        gains.append(10 ** (gusts / 10))
    if weather.rain_db is not None:
        spectra.append(1 / (1 + (1500 / hz) ** 2) / (1 + (hz / 9000) ** 4))
        gains.append(10 ** ((_drift(n_blocks, 1.5, 60, rng) + weather.rain_db) / 10))
    for centre, width, level, _ in weather.insects:
        spectra.append(np.exp(-0.5 * ((hz - centre) / width) ** 2))
        gains.append(10 ** ((_drift(n_blocks, 2.0, 30, rng) + level) / 10))
    # Random spectra of variance s per part give a mean square of 2 * sum(s) * 2 / BLOCK**2 after the inverse transform.
    scaled = [s * BLOCK**2 / (4 * s[in_band].sum()) for s in spectra]
    return np.array(scaled, np.float32), np.stack(gains, axis=1).astype(np.float32)


def _drift(n_blocks: int, sd_db: float, memory_blocks: int, rng: Rng) -> np.ndarray:
    """Slow random course of a level, dB, with the given standard deviation."""
    padded = rng.standard_normal(n_blocks + 4 * memory_blocks)
    kernel = np.hanning(2 * memory_blocks + 1)
    course = np.convolve(padded, kernel / np.sqrt(np.sum(kernel**2)), mode="same")
    return np.asarray(sd_db * course[2 * memory_blocks : 2 * memory_blocks + n_blocks])


def _pulse(noise: FloatArray, weather: Weather, sample_rate_hz: int) -> None:
    """Add crickets: insects with a pulse rate get a tone that beats in their band."""
    table = np.sin(2 * np.pi * np.arange(4096, dtype=np.float32) / 4096)
    for centre, _, level, rate in weather.insects:
        if rate:
            beat = np.maximum(0, table) ** 2 * np.float32(1.6 * 10 ** ((level - 3) / 20))
            turns = [_turns(hz / sample_rate_hz, len(noise)) for hz in (rate, centre)]
            noise += beat[turns[0]] * table[turns[1]]


def _turns(cycles_per_sample: float, n: int) -> NDArray[np.uint32]:
    """Place (n,) in a table of 4096 entries; 32-bit counting wraps around exactly once a turn."""
    return (np.arange(n, dtype=np.uint32) * np.uint32(cycles_per_sample * 2**32)) >> np.uint32(20)


def _add_drops(noise: FloatArray, level_db: float, sample_rate_hz: int, rng: Rng) -> None:
    """Add the single drops one can hear in rain: short, damped, of random pitch and loudness."""
    n_drops = rng.poisson(12 * len(noise) / sample_rate_hz)
    size = round(0.004 * sample_rate_hz)
    starts = rng.integers(0, len(noise) - size, n_drops)
    time = np.arange(size, dtype=np.float32) / sample_rate_hz
    hz = rng.uniform(1500, 8000, (n_drops, 1)).astype(np.float32)
    loud = (10 ** ((level_db + rng.normal(3, 6, (n_drops, 1))) / 20)).astype(np.float32)
    drops = loud * np.exp(-time * 1200) * np.sin(np.float32(2 * np.pi) * hz * time)
    np.add.at(noise, (starts[:, None] + np.arange(size)).ravel(), drops.ravel())
