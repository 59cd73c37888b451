"""The noise under the songs: a streaming noise floor for every mel band.

Minimum statistics (Martin 2001) on two time scales. Power is averaged over short cells; the quietest cell of every
block of about half a second is kept; the floor is a low quantile of the kept minima of the last several seconds. The
floor of a band is therefore right while the band is quiet for one cell in a good part of the blocks, however loud the
songs between are. What a minimum and a quantile lose against the mean is known in closed form for Gaussian noise and
put back, so the floor is the mean noise power.
"""

from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.stats import gamma

from songcore.arrays import FloatArray, IntArray
from songcore.frontend import FrontendConfig, mel_matrix

__all__ = ["NoiseConfig", "NoiseFloor", "frame_power", "noise_excess", "noise_shape"]

# exp() of a frame stays finite in float32 and is never zero: 280 dB below to 170 dB above full scale.
LOWEST_FRAME, HIGHEST_FRAME = -65.0, 40.0


class NoiseConfig(BaseModel):
    """How the noise floor is measured, in physical units."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_ms: float = Field(default=30.0, gt=0)
    """Length of a cell; a pause of twice this length lets the floor be seen."""
    block_s: float = Field(default=0.5, gt=0)
    """The floor is renewed after every block."""
    window_s: float = Field(default=8.0, gt=0)
    """Noise older than this is forgotten."""
    quantile: float = Field(default=0.35, gt=0, lt=1)
    """Part of the blocks that must hold a quiet cell in a band."""
    bootstrap_s: float = Field(default=1.0, gt=0)
    """The first floor is taken from this much sound, so the first decision waits for it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.cell_ms / 1e3 <= self.block_s <= self.window_s:
            raise ValueError(
                f"cell {self.cell_ms / 1e3} s, block {self.block_s} s and window {self.window_s} s must not decrease"
            )
        return self


def frame_power(frames: FloatArray) -> FloatArray:
    """Return the power of log-mel frames, float32, positive and finite even where a frame is not."""
    return np.exp(np.fmin(np.fmax(frames, np.float32(LOWEST_FRAME)), np.float32(HIGHEST_FRAME)))


@lru_cache(maxsize=32)
def noise_shape(frontend: FrontendConfig, n_frames: int) -> NDArray[np.float64]:
    """Return the gamma shape, (n_mels,), of white noise power averaged over a mel band and ``n_frames`` frames.

    A weighted sum of correlated exponentials is close to a gamma variable of the same mean and variance; the
    correlation of two bins d frames and f bins apart is that of their windows (Welch 1967),
    |sum w(n) w(n + d hop) e^(-2 pi i f n / N)|^2. Twice the shape is the number of degrees of freedom.
    """
    window, n_fft = np.hanning(frontend.n_fft + 1)[:-1], frontend.n_fft
    correlation = np.zeros(n_fft)
    for lag in range(min(n_frames, -(-n_fft // frontend.hop))):
        shift = lag * frontend.hop
        overlap = np.zeros(n_fft)
        overlap[: n_fft - shift] = window[: n_fft - shift] * window[shift:]
        n_pairs = (n_frames - lag) * (1 if lag == 0 else 2)
        correlation += n_pairs * np.abs(np.fft.fft(overlap)) ** 2
    correlation /= np.sum(window**2) ** 2 * n_frames**2
    shape = np.empty(frontend.n_mels)
    for band, weights in enumerate(mel_matrix(frontend).T.astype(np.float64)):
        bins = np.flatnonzero(weights)
        pairs = correlation[np.abs(bins[:, None] - bins)]
        shape[band] = weights.sum() ** 2 / (weights[bins] @ pairs @ weights[bins])
    return shape


@lru_cache(maxsize=32)
def noise_excess(frontend: FrontendConfig, n_frames: int, probability: float) -> NDArray[np.float64]:
    """Return the power over its mean, (n_mels,), that white noise averaged over ``n_frames`` exceeds so rarely."""
    shape = noise_shape(frontend, n_frames)
    return np.asarray(gamma.isf(probability, shape) / shape)


class NoiseFloor:
    """Follow the mean noise power of every mel band; memory and state do not grow with the stream."""

    def __init__(self, config: NoiseConfig, frontend: FrontendConfig) -> None:
        self._cell = frontend.n_frames(config.cell_ms / 1e3)
        self._n_cells = max(1, round(config.block_s / (self._cell * frontend.hop_s)))
        self.block = self._cell * self._n_cells
        """Frames over which the floor is constant; blocks lie at multiples of this from the start of the stream."""
        block_s = self.block * frontend.hop_s
        self._n_kept = max(1, round(config.window_s / block_s))
        self._n_first = min(self._n_kept, max(1, round(config.bootstrap_s / block_s)))
        self._quantile, self._n_mels = config.quantile, frontend.n_mels
        # P(quietest of n cells <= x) = 1 - (1 - F(x))^n, and the floor is that distribution's quantile.
        level = 1 - (1 - config.quantile) ** (1 / self._n_cells)
        shape = noise_shape(frontend, self._cell)
        self._bias = (gamma.ppf(level, shape) / shape).astype(np.float32)
        self._minima = np.empty((0, frontend.n_mels), np.float32)
        self._pending = np.empty((0, frontend.n_mels), np.float32)  # power of a cell that is not complete
        self._quietest = np.full(frontend.n_mels, np.inf, np.float32)  # of the block that is not complete
        self._n_in = 0

    @property
    def next_frame(self) -> int:
        """Frames seen so far."""
        return self._n_in

    def push(self, power: FloatArray) -> list[FloatArray]:
        """Take frames' power (n, n_mels) and return a floor (n_mels,) power for each block completed by them.

        It holds for the block after that. There is none until enough blocks are complete; the first one returned holds
        from the start of the stream.
        """
        self._n_in += len(power)
        signal = np.concatenate([self._pending, power])
        n_cells = len(signal) // self._cell
        self._pending = signal[n_cells * self._cell :].copy()
        cells = signal[: n_cells * self._cell].reshape(n_cells, self._cell, self._n_mels).sum(axis=1) / self._cell
        done = (self._n_in // self._cell - n_cells) % self._n_cells  # cells of the open block
        floors = []
        begin = 0
        while begin < n_cells:
            end = min(n_cells, begin + self._n_cells - done)
            self._quietest = np.minimum(self._quietest, cells[begin:end].min(axis=0))
            done, begin = done + end - begin, end
            if done == self._n_cells:
                self._minima = np.concatenate([self._minima[-(self._n_kept - 1) :], self._quietest[None]])
                self._quietest, done = np.full_like(self._quietest, np.inf), 0
                if len(self._minima) >= self._n_first:
                    floors.append(self._floor(self._minima))
        return floors

    def finish(self) -> FloatArray:
        """Return the floor of a stream that ends before the first floor was known, (n_mels,) power."""
        seen = [self._minima]
        if np.isfinite(self._quietest).all():
            seen.append(self._quietest[None])
        elif len(self._minima) == 0:
            seen.append(self._pending.mean(axis=0, keepdims=True))
        return self._floor(np.concatenate(seen))

    def floors_at(self, frames: FloatArray, indices: IntArray) -> FloatArray:
        """Return the floors, (len(indices), n_mels) natural log, at frames of a whole recording (n, n_mels).

        For a new NoiseFloor: the same values that a stream of these frames would have used.
        """
        floors = self.push(frame_power(frames))
        if not floors:
            floors = [self.finish()]
        row = np.clip(np.asarray(indices) // self.block - self._n_first, 0, len(floors) - 1)
        return np.log(np.stack(floors))[row]

    def state(self) -> NDArray[np.float64]:
        """Return all that decides the floors to come, as one vector."""
        parts = [np.array([self._n_in, len(self._minima)]), self._minima, self._quietest, self._pending]
        return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])

    def restore(self, state: NDArray[np.float64]) -> None:
        """Continue from a `state`."""
        self._n_in, n_minima = int(state[0]), int(state[1])
        rows = state[2:].astype(np.float32).reshape(-1, self._n_mels)
        self._minima, self._quietest, self._pending = rows[:n_minima], rows[n_minima], rows[n_minima + 1 :]

    def _floor(self, minima: FloatArray) -> FloatArray:
        """Mean noise power of bands whose blocks had these minima (n, n_mels)."""
        rank = np.sort(minima, axis=0)
        position = self._quantile * (len(rank) - 1)
        low, part = int(position), np.float32(position % 1)
        between: FloatArray = rank[low] * (1 - part) + rank[min(low + 1, len(rank) - 1)] * part
        return np.divide(between, self._bias)
