"""The one streaming log-mel front end, on a hop grid fixed by absolute sample index.

Segmenter and encoder both read these frames, so nothing is computed twice and training and serving cannot differ.
Frame k is centred at sample ``k * hop``; before the first and after the last sample the signal counts as zero.
"""

from functools import lru_cache
from math import ceil
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.fft import rfft

from songcore.arrays import FloatArray

__all__ = ["DB_PER_UNIT", "FrontendConfig", "LogMel", "mel_matrix"]

DB_PER_UNIT = 10 / np.log(10)
"""Decibels in one unit of the frames, which are natural logarithms of power."""

# FFT and matrix libraries choose other instructions, and so other last bits, for other shapes. Therefore bands are always
# summed in blocks of this many frames, at fixed absolute frame indices (missing ones as zeros), and frames transformed in
# multiples of the most that a processor's vectors hold, as then all take the same way.
BLOCK_FRAMES = 32
VECTOR_FRAMES = 16
PIECE_FRAMES = 3 * BLOCK_FRAMES
"""At once: the frames of a second and what is missing to whole blocks stay in the processor's cache."""


class FrontendConfig(BaseModel):
    """What turns samples into log-mel frames; part of the bundle, never a service setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_rate_hz: int = Field(default=24_000, ge=8_000, le=384_000)
    n_fft: int = Field(default=1024, ge=32, le=16_384)
    hop: int = Field(default=384, ge=8, le=16_384)
    n_mels: int = Field(default=64, ge=4, le=512)
    f_min_hz: float = Field(default=700.0, ge=0)
    f_max_hz: float = Field(default=11_500.0, gt=0)
    floor_db: float = Field(default=-100.0, ge=-200, le=0)
    """Power added before the logarithm, in dB relative to a full-scale sine: below any microphone's own noise."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.f_min_hz < self.f_max_hz <= self.sample_rate_hz / 2:
            raise ValueError(
                f"band {self.f_min_hz}-{self.f_max_hz} Hz does not fit below {self.sample_rate_hz / 2} Hz, "
                "half the sample rate"
            )
        if self.hop > self.n_fft:
            raise ValueError(f"hop {self.hop} is longer than n_fft {self.n_fft}: samples would be skipped")
        return self

    @property
    def hop_s(self) -> float:
        """Seconds between frames."""
        return self.hop / self.sample_rate_hz

    def n_frames(self, duration_s: float) -> int:
        """Whole frames nearest to a duration, at least one."""
        return max(1, round(duration_s / self.hop_s))


def mel_matrix(config: FrontendConfig) -> FloatArray:
    """Return triangular mel weights (n_fft / 2 + 1, n_mels) float32, each band summing to one.

    The HTK mel scale, m = 2595 log10(1 + f / 700); bands sum to one rather than having unit area, so that white noise
    has the same level in every band. A band narrower than a bin takes its nearest bin.
    """

    def to_mel(f: float) -> float:
        return float(2595 * np.log10(1 + f / 700))

    mels = np.linspace(to_mel(config.f_min_hz), to_mel(config.f_max_hz), config.n_mels + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.arange(config.n_fft // 2 + 1) * config.sample_rate_hz / config.n_fft
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    weights = np.maximum(0, np.minimum(rising, falling))
    empty = np.flatnonzero(weights.sum(axis=0) == 0)
    weights[np.abs(bins[:, None] - centre[empty]).argmin(axis=0), empty] = 1
    return np.ascontiguousarray(weights / weights.sum(axis=0), np.float32)


class LogMel:
    """Turn samples into log-mel frames, natural logarithm of power relative to a full-scale sine.

    ``start_frame`` begins in the middle of a signal: the first sample pushed must then be the one at `input_start`.
    n samples give ceil(n / hop) frames in all.
    """

    def __init__(self, config: FrontendConfig, *, start_frame: int = 0) -> None:
        self.config = config
        self.next_frame = start_frame
        """Absolute index of the next frame to come out."""
        self._window, self._bins, self._mel = _weights(config)
        self._floor = np.float32(10 ** (config.floor_db / 10))
        self._tail = np.zeros(max(0, -self._start(start_frame)), np.float32)
        self._tail_start = self._start(start_frame)
        self.n_in = max(0, self._tail_start)
        """Absolute index after the last sample pushed."""

    @property
    def input_start(self) -> int:
        """Absolute index of the first sample that the next frame needs."""
        return self.input_start_of(self.next_frame)

    def input_start_of(self, frame: int) -> int:
        """Absolute index of the first sample that a frame needs."""
        return max(0, self._start(frame))

    def push(self, samples: FloatArray) -> FloatArray:
        """Take samples (n,) float32 in [-1, 1] and return the frames completed by them, (m, n_mels) float32."""
        self.n_in += len(samples)
        after_centre = self.config.n_fft - self.config.n_fft // 2
        return self._advance(samples, (self.n_in - after_centre) // self.config.hop + 1)

    def finish(self) -> FloatArray:
        """Return the remaining frames, (m, n_mels) float32; the signal counts as zero from here on."""
        last = ceil(self.n_in / self.config.hop)
        missing = max(0, self._start(last - 1) + self.config.n_fft - self.n_in)
        return self._advance(np.zeros(missing, np.float32), last)

    def _start(self, frame: int) -> int:
        return frame * self.config.hop - self.config.n_fft // 2

    def _advance(self, samples: FloatArray, end_frame: int) -> FloatArray:
        signal = np.concatenate([self._tail, samples])
        first = self.next_frame
        if end_frame <= first:
            self._tail = signal
            return np.empty((0, self.config.n_mels), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(signal, self.config.n_fft)[:: self.config.hop]
        frames = self._transform(windows[: end_frame - first], first)
        self.next_frame = end_frame
        keep = self._start(end_frame) - self._tail_start
        self._tail, self._tail_start = signal[keep:].copy(), self._start(end_frame)
        return frames

    def _transform(self, windows: FloatArray, first: int) -> FloatArray:
        """Log-mel of windows (n, n_fft) whose first is the absolute frame ``first``."""
        pieces = []
        while len(windows):
            row = first % BLOCK_FRAMES
            piece, windows = windows[: PIECE_FRAMES - row], windows[PIECE_FRAMES - row :]
            first += len(piece)
            pieces.append(np.log(self._band_power(piece, row) + self._floor))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _band_power(self, windows: FloatArray, row: int) -> FloatArray:
        """Power in the bands, (n, n_mels), of windows (n, n_fft) whose first is the ``row``-th frame of its block."""
        n = len(windows)
        padded = np.empty((-(-n // VECTOR_FRAMES) * VECTOR_FRAMES, self.config.n_fft), np.float32)
        np.multiply(windows, self._window, out=padded[:n])
        padded[n:] = 0
        parts = rfft(padded)[:n, self._bins].view(np.float32)  # real and imaginary by turns
        squares = parts * parts
        power = np.zeros((-(-(row + n) // BLOCK_FRAMES), BLOCK_FRAMES, len(self._mel)), np.float32)
        np.add(squares[:, ::2], squares[:, 1::2], out=power.reshape(-1, len(self._mel))[row : row + n])
        bands: FloatArray = (power @ self._mel).reshape(-1, self.config.n_mels)
        return bands[row : row + n]


@lru_cache(maxsize=8)
def _weights(config: FrontendConfig) -> tuple[FloatArray, slice, FloatArray]:
    """Return window (n_fft,), the bins that lie in a band, and their weights: all streams share them."""
    window = np.hanning(config.n_fft + 1)[:-1]
    mel = mel_matrix(config)
    low, high = np.flatnonzero(mel.any(axis=1))[[0, -1]]
    # A full-scale sine then has power 1 in its bin.
    scaled = (window * 2 / window.sum()).astype(np.float32)
    return scaled, slice(low, high + 1), np.ascontiguousarray(mel[low : high + 1])
