"""What lies under the songs: the noise floor of every mel band, and how far the background rises above it.

Both are minimum statistics (Martin 2001) on two time scales. Sound is taken in short cells; the quietest cell of every
block of about half a second is kept; a low quantile of those kept in the last seconds is the answer. It is right while
it is quiet for one cell in a good part of the blocks, however loud the songs between are.

The noise floor is such a quantile of the mean power of a cell. What a minimum and a quantile lose against the mean is
known in closed form for Gaussian noise and put back. The background is such a quantile of the maximum in a cell as long
as the pause between two songs: nothing above steady noise, but more in wind, among insects, in a dawn chorus.
"""

from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import gammainccinv, gammaincinv

from songcore.arrays import FloatArray, IntArray
from songcore.frontend import DB_PER_UNIT, FrontendConfig, mel_matrix

__all__ = ["Background", "NoiseConfig", "NoiseFloor", "frame_power", "noise_excess", "noise_shape"]

# exp() of a frame stays finite in float32 and is never zero: 280 dB below to 170 dB above full scale.
LOWEST_FRAME, HIGHEST_FRAME = np.float32(-65.0), np.float32(40.0)


class NoiseConfig(BaseModel):
    """How noise floor and background are measured, in physical units."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cell_ms: float = Field(default=30.0, gt=0)
    """The noise floor is seen in pauses of twice this length."""
    block_s: float = Field(default=0.5, gt=0, le=10)
    """Floor and background are renewed after every block."""
    bootstrap_s: float = Field(default=1.0, gt=0, le=10)
    """The first floor is taken from this much sound, so the first decision waits for it."""
    settle_s: float = Field(default=0.25, ge=0, le=10)
    """The first of a stream does not count for the floor: encoders pad, microphones and players fade in."""
    floor_window_s: float = Field(default=16.0, gt=0, le=120)
    """Noise older than this is forgotten; longer than the longest song."""
    floor_quantile: float = Field(default=0.25, gt=0, lt=1)
    """Part of the blocks in which a band must be quiet for a cell."""
    background_window_s: float = Field(default=8.0, gt=0, le=120)
    """The background before this is forgotten."""
    background_quantile: float = Field(default=0.3, gt=0, lt=1)
    """Part of the blocks that must hold a pause between songs."""
    max_background_db: float = Field(default=10.0, ge=0)
    """No more is put down to the background, however densely the birds sing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        window_s = min(self.floor_window_s, self.background_window_s)
        if not self.cell_ms / 1e3 <= self.block_s <= window_s:
            raise ValueError(
                f"cell {self.cell_ms / 1e3} s, block {self.block_s} s, window {window_s} s do not increase"
            )
        return self


def frame_power(frames: FloatArray) -> FloatArray:
    """Return the power of log-mel frames, float32, positive and finite even where a frame is not."""
    return np.exp(np.fmin(np.fmax(frames, LOWEST_FRAME), HIGHEST_FRAME))


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
    return np.asarray(gammainccinv(shape, probability) / shape)


class _QuietCells:
    """Column by column, the low quantile over the last blocks of the quietest cell of each block, natural log."""

    def __init__(
        self, config: NoiseConfig, hop_s: float, cell: int, n_columns: int, window_s: float, quantile: float
    ) -> None:
        self.n_cells = max(1, round(config.block_s / (cell * hop_s)))
        self._cell, self.block = cell, cell * self.n_cells
        block_s = self.block * hop_s
        self.n_kept = max(1, round(window_s / block_s))
        self.n_first = min(self.n_kept, max(1, round(config.bootstrap_s / block_s)))
        self._quantile, self._n_columns = quantile, n_columns
        self.kept = np.empty((0, n_columns), np.float32)
        self.quietest = np.full(n_columns, np.inf, np.float32)  # of the open block
        self.unsettled = self.quietest  # of the first cells, which do not count
        self.n_settle = 0  # how many those are
        self.pending = np.empty((0, n_columns), np.float32)  # of the open cell
        self.n_in = 0

    def push(self, values: FloatArray, reduce: np.ufunc) -> list[FloatArray]:
        """Take positive values (n, n_columns), return the quantile (n_columns,) after each block that they complete."""
        self.n_in += len(values)
        signal = np.concatenate([self.pending, values]) if len(self.pending) else values
        n_cells = len(signal) // self._cell
        self.pending = signal[n_cells * self._cell :].copy()
        if n_cells == 0:
            return []
        whole = signal[: n_cells * self._cell].reshape(n_cells, self._cell, self._n_columns)
        cells = reduce.reduce(whole, axis=1)
        n_before = self.n_in // self._cell - n_cells
        if n_before < self.n_settle:
            early = cells[: self.n_settle - n_before]
            self.unsettled = np.minimum(self.unsettled, early.min(axis=0))
            early[:] = np.inf
        done = n_before % self.n_cells  # cells of the open block
        quantiles = []
        begin = 0
        while begin < n_cells:
            end = min(n_cells, begin + self.n_cells - done)
            self.quietest = np.minimum(self.quietest, cells[begin:end].min(axis=0))
            done, begin = done + end - begin, end
            if done == self.n_cells:
                done = 0
                self.kept = np.concatenate(
                    [self.kept[-self.n_kept + 1 or len(self.kept) :], np.log(self.quietest)[None]]
                )
                self.quietest = np.full_like(self.quietest, np.inf)
                quantiles.append(self.quantile(self.kept))
        return quantiles

    def quantile(self, values: FloatArray) -> FloatArray:
        """Return the quantile (n_columns,) of values (n, n_columns)."""
        # The i-th smallest of n lies at the quantile i / (n + 1) on average (Weibull 1939).
        position = min(max(0.0, self._quantile * (len(values) + 1) - 1), len(values) - 1)
        low, part = int(position), np.float32(position % 1)
        high = min(low + 1, len(values) - 1)
        ranked = np.sort(values, axis=0)
        quantile: FloatArray = ranked[low] * (1 - part) + ranked[high] * part
        return quantile

    def state(self) -> NDArray[np.float64]:
        """Return all that decides what comes, as one vector."""
        sizes = np.array([self.n_in, len(self.kept), len(self.pending)])
        parts = [sizes, self.unsettled, self.quietest, self.kept, self.pending]
        return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])

    def restore(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Continue from the `state` that a vector begins with, and return the rest of the vector."""
        self.n_in, n_kept, n_pending = (int(count) for count in state[:3])
        size = (2 + n_kept + n_pending) * self._n_columns
        rows = state[3 : 3 + size].astype(np.float32).reshape(-1, self._n_columns)
        self.unsettled, self.quietest, self.kept, self.pending = (
            rows[0],
            rows[1],
            rows[2 : 2 + n_kept],
            rows[2 + n_kept :],
        )
        return state[3 + size :]


class NoiseFloor:
    """Follow the mean noise power of every mel band; memory and state do not grow with the stream."""

    def __init__(self, config: NoiseConfig, frontend: FrontendConfig) -> None:
        cell = frontend.n_frames(config.cell_ms / 1e3)
        self._cells = _QuietCells(
            config, frontend.hop_s, cell, frontend.n_mels, config.floor_window_s, config.floor_quantile
        )
        self._cells.n_settle = min(frontend.n_frames(config.settle_s) // cell, self._cells.n_cells - 1)
        self.block = self._cells.block
        """Frames over which the floor is constant; blocks lie at multiples of this from the start of the stream."""
        # P(quietest of n cells <= x) = 1 - (1 - F(x))^n, and the floor is that distribution's quantile.
        level = 1 - (1 - config.floor_quantile) ** (1 / self._cells.n_cells)
        shape = noise_shape(frontend, cell)
        # The cells hold sums.
        self._correction: FloatArray = (1 / (gammaincinv(shape, level) / shape * cell)).astype(np.float32)

    def push(self, power: FloatArray) -> list[FloatArray]:
        """Take frames' power (n, n_mels) and return a floor (n_mels,) power for each block completed by them.

        It holds for the block after that. There is none until enough blocks are complete; the first one returned holds
        from the start of the stream.
        """
        n_before = len(self._cells.kept)
        quantiles = self._cells.push(power, np.add)
        n_missing = max(0, self._cells.n_first - 1 - n_before)
        return [np.exp(quantile) * self._correction for quantile in quantiles[n_missing:]]

    def finish(self) -> FloatArray:
        """Return the floor of a stream that ends before the first floor was known, (n_mels,) power."""
        cells = self._cells
        seen = [cells.kept]
        if np.isfinite(cells.quietest).all():
            seen.append(np.log(cells.quietest)[None])
        elif np.isfinite(cells.unsettled).all() and len(cells.kept) == 0:
            seen.append(np.log(cells.unsettled)[None])
        elif len(cells.kept) == 0:
            n_frames = np.float32(cells.block // cells.n_cells)
            seen.append(np.log(cells.pending.mean(axis=0, keepdims=True) * n_frames))
        return np.exp(cells.quantile(np.concatenate(seen))) * self._correction

    def floors_at(self, frames: FloatArray, indices: IntArray) -> FloatArray:
        """Return the floors, (len(indices), n_mels) natural log, at frames of a whole recording (n, n_mels).

        For a new NoiseFloor: the same values that a stream of these frames would have used.
        """
        floors = self.push(frame_power(frames))
        if not floors:
            floors = [self.finish()]
        row = np.clip(np.asarray(indices) // self.block - self._cells.n_first, 0, len(floors) - 1)
        return np.log(np.stack(floors))[row]

    def state(self) -> NDArray[np.float64]:
        """Return all that decides the floors to come, as one vector."""
        return self._cells.state()

    def restore(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Continue from the `state` that a vector begins with, and return the rest of the vector."""
        return self._cells.restore(state)


class Background:
    """Follow how far sound rises in the pauses between songs, and measure what exceeds that.

    First band by band, which leaves an insect or a hum in its place, then over all bands together, which tells a lively
    background from a quiet one. Until shown otherwise the background is steady noise.
    """

    def __init__(self, config: NoiseConfig, frontend: FrontendConfig, n_pause: int) -> None:
        n_columns = frontend.n_mels + 1  # the last is for all bands together
        self._cells = _QuietCells(
            config, frontend.hop_s, n_pause, n_columns, config.background_window_s, config.background_quantile
        )
        # As many quiet blocks as keep the quantile down for the first half of the window.
        n_prior = 1 + int(config.background_quantile * self._cells.n_kept / 2)
        self._cells.kept = np.zeros((n_prior, n_columns), np.float32)
        self._highest = np.float32(config.max_background_db / DB_PER_UNIT)
        self._level = np.ones(n_columns, np.float32)

    def push(self, ratios: FloatArray) -> FloatArray:
        """Take powers relative to steady noise (n, n_mels), return the highest relative to the background, (n,)."""
        values = np.empty((len(ratios), ratios.shape[1] + 1), np.float32)
        values[:, :-1] = ratios
        highest = values[:, -1]
        relative = np.empty(len(ratios), np.float32)
        begin = 0
        while begin < len(ratios):
            end = min(len(ratios), begin + self._cells.block - self._cells.n_in % self._cells.block)
            np.max(ratios[begin:end] / self._level[:-1], axis=1, out=highest[begin:end])
            np.divide(highest[begin:end], self._level[-1], out=relative[begin:end])
            for quantile in self._cells.push(values[begin:end], np.maximum):
                self._level = self._limited(quantile)
            begin = end
        return relative

    def state(self) -> NDArray[np.float64]:
        """Return all that decides what comes, as one vector."""
        return self._cells.state()

    def restore(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Continue from the `state` that a vector begins with, and return the rest of the vector."""
        rest = self._cells.restore(state)
        self._level = self._limited(self._cells.quantile(self._cells.kept))
        return rest

    def _limited(self, quantile: FloatArray) -> FloatArray:
        return np.exp(np.minimum(np.maximum(quantile, np.float32(0)), self._highest))
