"""Streaming resampling whose result depends on neither chunk sizes nor restarts.

soxr's own stream is bit-exact for any chunking but its state cannot be saved, so a restarted stream would differ from an
uninterrupted one. Here the signal is cut at fixed absolute sample indices into blocks of about half a second (up to 3 s
between rates without a common divisor), and each block is resampled on its own with 10 ms of context on both sides.
soxr's HQ filter has settled after 5 ms (measured against a whole-signal run: to 7e-8; where a rate is 8 kHz, to 5e-6),
so blocks join without a seam, and a block can be computed again from its own samples alone.

Blocks *end* 10 ms before a multiple of the block length, so that the context of a block is complete when the stream
reaches that multiple: a client that sends chunks of half a second or a multiple of it waits for nothing else.
"""

from math import ceil, gcd

import numpy as np
import soxr

from songcore.arrays import FloatArray
from songcore.errors import InputError

__all__ = ["MAX_RATE_HZ", "MIN_RATE_HZ", "Resampler", "check_sample_rate"]

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 384_000
BLOCK_S = 0.5
CONTEXT_S = 0.010


def check_sample_rate(rate_hz: int) -> None:
    """Raise InputError unless ``rate_hz`` is one that songstream takes, 8 to 384 kHz."""
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise InputError(
            f"sample rate {rate_hz} Hz is outside {MIN_RATE_HZ}-{MAX_RATE_HZ} Hz; record or convert to a rate in that range",
            reason="FORMAT_UNSUPPORTED",
        )


class Resampler:
    """Turn samples at ``rate_in`` into samples at ``rate_out``, both in Hz; output sample j lies at time j / rate_out.

    ``start_block`` begins in the middle of a signal: the first sample pushed must then be the one at `input_start`.
    The whole output of n input samples has ceil(n * rate_out / rate_in) samples.
    """

    def __init__(self, rate_in: int, rate_out: int, *, start_block: int = 0) -> None:
        check_sample_rate(rate_in)
        self.rate_in, self.rate_out = rate_in, rate_out
        divisor = gcd(rate_in, rate_out)
        # The smallest step that is a whole number of samples at both rates.
        self._step_in, self._step_out = rate_in // divisor, rate_out // divisor
        self._context_steps = ceil(CONTEXT_S * divisor) if rate_in != rate_out else 0
        self._block_steps = max(ceil(BLOCK_S * divisor), 2 * self._context_steps + 1)
        self._block = start_block
        self._pending: list[FloatArray] = []
        self._pending_start = self.input_start  # absolute index of the first pending input sample
        self._n_in = self._pending_start  # absolute index after the last pushed input sample

    @property
    def input_start(self) -> int:
        """Absolute index of the first input sample that the next block needs."""
        return max(0, self._boundary(self._block) - self._context_steps) * self._step_in

    @property
    def output_start(self) -> int:
        """Absolute index of the next output sample."""
        return self._boundary(self._block) * self._step_out

    def block_before(self, output_sample: int) -> int:
        """Return the last block that begins at or before the absolute output sample."""
        return max(0, (output_sample // self._step_out + self._context_steps) // self._block_steps)

    def push(self, samples: FloatArray) -> FloatArray:
        """Take samples (n,) float32 and return the output samples that have become certain, (m,) float32."""
        self._n_in += len(samples)
        n_needed = (self._boundary(self._block + 1) + self._context_steps) * self._step_in
        if self._n_in < n_needed:
            # A copy: the caller may fill the same buffer again.
            self._pending.append(np.array(samples, np.float32))
            return np.empty(0, np.float32)
        signal = np.concatenate([*self._pending, samples], dtype=np.float32)
        out = []
        while self._n_in >= n_needed:
            out.append(self._convert(signal, n_needed, self._boundary(self._block + 1) * self._step_out))
            self._block += 1
            n_needed += self._block_steps * self._step_in
        tail = signal[self.input_start - self._pending_start :]
        self._pending, self._pending_start = [tail.copy()], self.input_start
        return np.concatenate(out)

    def finish(self) -> FloatArray:
        """Return the rest of the output, (m,) float32; the signal ends here."""
        signal = np.concatenate([*self._pending, np.empty(0, np.float32)])
        n_total = -(-self._n_in * self._step_out // self._step_in)
        out = [np.empty(0, np.float32)]
        while self.output_start < n_total:
            # The end may lie behind the last border, in its context.
            out.append(
                self._convert(signal, self._n_in, min(n_total, self._boundary(self._block + 1) * self._step_out))
            )
            self._block += 1
        self._pending = []
        return np.concatenate(out)

    def _boundary(self, block: int) -> int:
        """First step of a block; block 0 is shorter than the others by the context."""
        return max(0, block * self._block_steps - self._context_steps)

    def _convert(self, signal: FloatArray, input_end: int, output_end: int) -> FloatArray:
        """Resample one block; ``signal`` begins at the absolute input sample ``_pending_start``."""
        window = signal[self.input_start - self._pending_start : input_end - self._pending_start]
        skip = self.output_start - self.input_start // self._step_in * self._step_out
        n_out = output_end - self.output_start
        if self.rate_in == self.rate_out:
            return window[skip : skip + n_out].astype(np.float32, copy=False)
        converted = soxr.resample(np.ascontiguousarray(window, np.float32), self.rate_in, self.rate_out, quality="HQ")
        block = converted[skip : skip + n_out]
        # soxr may round the length of a very short signal down; silence completes it.
        return np.pad(block, (0, n_out - len(block))) if len(block) < n_out else block
