"""What songs sound like in numbers: level, zero crossings, frequencies, energy, and how many pitch classes they use."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from scipy.signal import butter, sosfilt, welch

from songcore.arrays import FloatArray

__all__ = ["MAX_ENTROPY_BITS", "SongStatistics", "Summary", "chroma_entropy", "describe_song", "summary"]

MAX_ENTROPY_BITS = float(np.log2(12))
"""Of twelve pitch classes that are equally loud: 3.58 bits."""

SILENCE_DB = -120.0
N_FFT = 2048
EDGE = 0.05
"""The lowest and the highest frequency leave out this part of the energy."""


@dataclass(frozen=True)
class SongStatistics:
    """One song, its sound below ``f_min_hz`` left out; levels in dB of full scale, a silent song has -120."""

    peak_db: float
    rms_db: float
    energy_db: float
    """Sum of the squared samples over the rate: a full-scale square wave of one second has 0 dB."""
    zero_crossings_hz: float
    """Changes of sign per second: twice the frequency of a tone."""
    peak_hz: float
    """Where the mean spectrum has most power."""
    centroid_hz: float
    low_hz: float
    """5 % of the power lies below,"""
    high_hz: float
    """5 % above."""
    chroma_entropy: float
    """Bits; see `chroma_entropy`."""


def describe_song(samples: FloatArray, rate_hz: int, *, f_min_hz: float, f_max_hz: float) -> SongStatistics:
    """Return the statistics of a song's samples (n,) in [-1, 1]; frequencies lie between the two limits."""
    if len(samples) < 2 or not samples.any():
        return SongStatistics(SILENCE_DB, SILENCE_DB, SILENCE_DB, *[0.0] * (len(fields(SongStatistics)) - 3))
    heard = sosfilt(butter(4, f_min_hz, "highpass", fs=rate_hz, output="sos"), samples.astype(np.float64))
    hz, power = welch(heard, rate_hz, nperseg=min(N_FFT, len(heard)), nfft=N_FFT)
    inside = (hz >= f_min_hz) & (hz <= f_max_hz)
    hz_in, share = hz[inside], power[inside] / max(float(power[inside].sum()), 1e-30)
    below = np.cumsum(share)
    mean_square = float(np.mean(heard**2))
    return SongStatistics(
        peak_db=_db(float(np.abs(heard).max()) ** 2),
        rms_db=_db(mean_square),
        energy_db=_db(mean_square * len(heard) / rate_hz),
        zero_crossings_hz=float(np.count_nonzero(np.diff(np.signbit(heard))) * rate_hz / (len(heard) - 1)),
        peak_hz=float(hz_in[share.argmax()]),
        centroid_hz=float(share @ hz_in),
        low_hz=float(hz_in[min(int(np.searchsorted(below, EDGE)), len(hz_in) - 1)]),
        high_hz=float(hz_in[min(int(np.searchsorted(below, 1 - EDGE)), len(hz_in) - 1)]),
        chroma_entropy=chroma_entropy(_chroma_filters(rate_hz) @ np.where(inside, power, 0)),
    )


def chroma_entropy(chroma: FloatArray) -> float:
    """Return H = -Σ p log₂ p, p the twelve pitch classes' shares of the energy (12,): 0 for one class, 3.58 for all alike."""
    total = float(chroma.sum())
    if total <= 0:
        return 0.0
    share = chroma[chroma > 0] / total
    return float(-(share * np.log2(share)).sum())


@dataclass(frozen=True)
class Summary:
    """How a number is spread over songs."""

    mean: float
    deviation: float
    least: float
    quartiles: tuple[float, float, float]
    most: float


def summary(values: Sequence[float]) -> Summary:
    """Return mean, standard deviation, quartiles and extremes of one value or more."""
    column = np.asarray(values, np.float64)
    low, middle, high = np.quantile(column, [0.25, 0.5, 0.75]).tolist()
    deviation = float(column.std(ddof=1)) if len(column) > 1 else 0.0
    return Summary(float(column.mean()), deviation, float(column.min()), (low, middle, high), float(column.max()))


@lru_cache(maxsize=2)
def _chroma_filters(rate_hz: int) -> FloatArray:
    from librosa.filters import chroma  # a second of imports that other statistics need not wait for

    # No preferred octave: librosa's default prefers the one around 880 Hz, below where most birds sing.
    return np.asarray(chroma(sr=rate_hz, n_fft=N_FFT, octwidth=None), np.float64)


def _db(power: float) -> float:
    return max(SILENCE_DB, 10 * float(np.log10(max(power, 1e-30))))
