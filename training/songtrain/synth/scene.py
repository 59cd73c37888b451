"""What the air and the recorder do to a song: distance, echoes, microphone colour, and the signal-to-noise ratio.

The ratio of a song is ``10 log10(P_song / P_noise)``: mean squares in the band 1-11 kHz over the song's own time, from
its onset to its offset. The song is as it arrives, echoes and all; the noise is air, wind, rain, insects, microphone.
Other birds and the unlabelled far singer count as neither, so they make a song harder than its ratio tells.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from songcore.arrays import FloatArray
from songtrain.synth.config import SeasonConfig
from songtrain.synth.noise import BLOCK, band_power

__all__ = ["Carrier", "Path", "Station", "draw_path", "draw_stations", "gain_for_snr"]

NEAR_M = 8.0
"""Distance at which a song is at the top of the season's range of ratios."""

FAR_M = 220.0
"""Beyond this distance the air takes no more: no one hears such a song anyway."""

SIZE_STEP = 32_768
"""Transforms of songs are rounded up to multiples of this many samples."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Station:
    """A recorder and its place: site, noise level in dB relative to full scale, equaliser, and echo time."""

    index: int
    site: int
    noise_db: float
    colour_db: FloatArray
    """Equaliser at the bins of a block of noise, dB."""
    echo_s: float
    """Time in which the echoes fall by 60 dB."""

    @property
    def name(self) -> str:
        """Name of the station in every table."""
        return f"S{self.index + 1:02d}"


@dataclass(frozen=True)
class Path:
    """The way from one perch through one recorder: impulse response (n,) float32, and the treble lost on it."""

    response: FloatArray
    gain: FloatArray
    """Gain at the bins of a block of noise."""


def draw_stations(config: SeasonConfig) -> tuple[Station, ...]:
    """Return the stations of a season."""
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(1,)))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(BLOCK, 1 / config.sample_rate_hz), 50) / 50)
    knots = np.linspace(0, octaves[-1], 8)
    return tuple(
        Station(
            index=i,
            site=i % config.n_sites,
            noise_db=float(rng.uniform(-62, -50)),
            colour_db=np.interp(octaves, knots, rng.normal(0, 3, len(knots))).astype(np.float32),
            echo_s=float(rng.uniform(0.3, 1.3)),
        )
        for i in range(config.n_stations)
    )


def draw_path(station: Station, snr_below_best_db: float, sample_rate_hz: int, rng: Rng) -> Path:
    """Draw the way to a bird that is ``snr_below_best_db`` fainter than the nearest: more echo, less treble."""
    distance = float(min(FAR_M, NEAR_M * 10 ** (snr_below_best_db / 20)))
    direct_to_echo_db = rng.uniform(9, 17) - 10 * np.log10(1 + distance / 30)
    n = round(min(0.75 * station.echo_s, 1.0) * sample_rate_hz)
    time = np.arange(n, dtype=np.float32) / sample_rate_hz
    tail = rng.standard_normal(n, dtype=np.float32) * np.exp(-time * np.float32(6.91 / station.echo_s))
    tail[: round(rng.uniform(0.01, 0.04) * sample_rate_hz)] = 0
    response = np.float32(0.7 * 10 ** (-direct_to_echo_db / 20)) * tail / np.sqrt(np.sum(tail**2))
    early = rng.integers(round(0.002 * sample_rate_hz), round(0.07 * sample_rate_hz), rng.integers(4, 14))
    loudness = 10 ** ((-direct_to_echo_db - rng.uniform(2, 14, len(early))) / 20)
    np.add.at(response, early, (loudness * rng.choice([-1, 1], len(early))).astype(np.float32))
    response[0] += 1
    return Path(response, _gain(station, distance, sample_rate_hz))


def _gain(station: Station, distance_m: float, sample_rate_hz: int) -> FloatArray:
    """Gain at each frequency: air and leaves absorb treble with distance, the microphone has its colour."""
    hz = np.fft.rfftfreq(BLOCK, 1 / sample_rate_hz)
    absorbed_db = 0.006 * (hz / 1000) ** 1.4 * distance_m
    return np.power(10, (station.colour_db - absorbed_db) / 20).astype(np.float32)


class Carrier:
    """Takes dry songs along one path; transforms of the path are kept, since songs come in few rounded sizes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._transforms: dict[int, NDArray[np.complex64]] = {}

    def carry(self, dry: FloatArray) -> FloatArray:
        """Return a dry song as it arrives, (n + echo,) float32, its onset still at sample 0."""
        n = len(dry) + len(self._path.response) - 1
        size = next_fast_len(-(-n // SIZE_STEP) * SIZE_STEP, real=True)
        if size not in self._transforms:
            transform = rfft(self._path.response, size)
            place = np.linspace(0, len(self._path.gain) - 1, len(transform)).astype(np.int32)
            self._transforms[size] = transform * self._path.gain[place]
        return np.asarray(irfft(rfft(dry, size) * self._transforms[size], size)[:n], np.float32)


def gain_for_snr(song: FloatArray, noise: FloatArray, snr_db: float, sample_rate_hz: int) -> float:
    """Return the factor that gives the song this ratio over the noise of the same time, both (n,)."""
    powers = band_power(song, sample_rate_hz), band_power(noise, sample_rate_hz)
    return float(np.sqrt(powers[1] / max(powers[0], 1e-20) * 10 ** (snr_db / 10)))
