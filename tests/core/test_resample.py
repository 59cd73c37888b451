"""The resampler: chunks and restarts change no bit, a whole-signal soxr run agrees, tones stay tones, lengths are exact."""

import numpy as np
import pytest
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from songcore.arrays import FloatArray
from songcore.errors import InputError
from songcore.resample import MAX_RATE_HZ, MIN_RATE_HZ, Resampler, check_sample_rate

# Usual rates, the borders, rates with the greatest common divisor 1, and rates just beside a usual one.
RATES = [
    8_000,
    11_025,
    16_000,
    22_050,
    22_051,
    24_000,
    32_000,
    44_100,
    47_999,
    48_000,
    96_000,
    250_000,
    383_987,
    384_000,
]
OUT_RATES = [8_000, 24_000, 44_100]


def noise(n: int, seed: int = 0) -> FloatArray:
    """Return white noise (n,) float32."""
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def resample(samples: FloatArray, rate_in: int, rate_out: int, cuts: list[int] | None = None) -> FloatArray:
    """Return the samples through a new resampler, pushed in the pieces between the cuts."""
    resampler = Resampler(rate_in, rate_out)
    pieces = [resampler.push(piece) for piece in np.split(samples, sorted(cuts or []))]
    return np.concatenate([*pieces, resampler.finish()])


@settings(max_examples=60)
@given(
    rate_in=st.sampled_from(RATES) | st.integers(8_000, 60_000),
    rate_out=st.sampled_from(OUT_RATES),
    duration_s=st.floats(0, 2.5),
    cuts=st.lists(st.floats(0, 1), max_size=12),
)
def test_chunks_change_no_bit(rate_in: int, rate_out: int, duration_s: float, cuts: list[float]) -> None:
    """Any cutting of the input, with empty pieces, gives the bits of one piece, ceil(n * out / in) of them."""
    samples = noise(int(duration_s * rate_in))
    whole = resample(samples, rate_in, rate_out)
    assert len(whole) == -(-len(samples) * rate_out // rate_in)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(resample(samples, rate_in, rate_out, [int(c * len(samples)) for c in cuts]), whole)


@settings(max_examples=60)
@given(
    rate_in=st.sampled_from(RATES) | st.integers(8_000, 60_000),
    rate_out=st.sampled_from(OUT_RATES),
    part=st.floats(0, 1),
)
@example(rate_in=14_374, rate_out=8_000, part=1.0)  # ends in the context behind a block's border
def test_restart_changes_no_bit(rate_in: int, rate_out: int, part: float) -> None:
    """A resampler begun at the block before any output sample goes on with the bits of the uninterrupted one."""
    samples = noise(int(4.2 * rate_in))
    whole = resample(samples, rate_in, rate_out)
    wanted = int(part * (len(whole) - 1))
    block = Resampler(rate_in, rate_out).block_before(wanted)
    restarted = Resampler(rate_in, rate_out, start_block=block)
    begin = restarted.output_start
    assert begin <= wanted
    rest = np.concatenate([restarted.push(samples[restarted.input_start :]), restarted.finish()])
    np.testing.assert_array_equal(rest, whole[begin:])


@pytest.mark.parametrize("rate_out", OUT_RATES)
@pytest.mark.parametrize("rate_in", RATES)
def test_agrees_with_soxr_on_the_whole_signal(rate_in: int, rate_out: int) -> None:
    """Blocks join without a seam: the output is soxr's of the whole signal to 100 dB below full scale or better."""
    samples = noise(int(2.2 * rate_in) + 7)
    ours = resample(samples, rate_in, rate_out)
    whole = soxr.resample(samples, rate_in, rate_out, quality="HQ") if rate_in != rate_out else samples
    n = min(len(ours), len(whole))
    assert abs(len(ours) - len(whole)) <= 1
    # soxr's filter is as long as so many samples of the lower rate, so at 8 kHz the context holds less of it.
    tolerance = 1e-6 if min(rate_in, rate_out) >= 11_025 and rate_in != 47_999 else 2e-5
    np.testing.assert_allclose(ours[:n], whole[:n], rtol=0, atol=tolerance)


@pytest.mark.parametrize("rate_in", RATES)
def test_a_tone_stays_a_tone(rate_in: int) -> None:
    """A 1 kHz tone at any rate comes out as the same tone, in phase, to 80 dB, away from the ends."""
    tone, expected = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(int(1.6 * rate)) / rate) for rate in (rate_in, 24_000))
    out = resample(tone.astype(np.float32), rate_in, 24_000)
    inner = slice(2_400, min(len(out), len(expected)) - 2_400)
    np.testing.assert_allclose(out[inner], expected[inner], rtol=0, atol=5e-5)


def test_above_the_new_half_rate_nothing_is_left() -> None:
    """A 30 kHz tone recorded at 96 kHz does not fold down into 24 kHz audio."""
    tone = np.sin(2 * np.pi * 30_000 * np.arange(96_000) / 96_000).astype(np.float32)
    assert np.abs(resample(tone, 96_000, 24_000)[1_000:-1_000]).max() < 1e-5


@pytest.mark.parametrize("rate_in", [8_000, 22_051, 48_000, 383_987])
def test_short_signals_have_exact_lengths(rate_in: int) -> None:
    """Signals of 0 to 100 samples, shorter than any filter, have ceil(n * out / in) finite output samples."""
    for n in (0, 1, 2, 3, 10, 100):
        out = resample(np.ones(n, np.float32), rate_in, 24_000)
        assert len(out) == -(-n * 24_000 // rate_in)
        assert np.isfinite(out).all()


def test_output_does_not_wait_longer_than_a_block() -> None:
    """After each half second pushed at 48 kHz, all output but the last 10 ms is there, and little input is kept."""
    resampler, n_out = Resampler(48_000, 24_000), 0
    for n in range(1, 9):
        n_out += len(resampler.push(noise(24_000)))
        assert n * 12_000 - n_out <= 240
        assert sum(len(piece) for piece in resampler._pending) <= 2 * 480


def test_the_callers_buffer_may_be_used_again() -> None:
    """What was pushed is not changed by a caller that writes the next samples into the same array."""
    samples, resampler = noise(48_000), Resampler(48_000, 24_000)
    buffer, out = np.empty(1_000, np.float32), []
    for piece in np.split(samples, 48):
        buffer[:] = piece
        out.append(resampler.push(buffer))
    np.testing.assert_array_equal(np.concatenate([*out, resampler.finish()]), resample(samples, 48_000, 24_000))


@pytest.mark.parametrize("rate_hz", [-48_000, 0, 1, MIN_RATE_HZ - 1, MAX_RATE_HZ + 1, 10**9])
def test_other_rates_are_refused(rate_hz: int) -> None:
    """A rate outside 8-384 kHz is an InputError that names the rate, before anything is computed."""
    with pytest.raises(InputError, match=str(rate_hz)) as caught:
        Resampler(rate_hz, 24_000)
    assert caught.value.reason == "FORMAT_UNSUPPORTED"


def test_the_borders_are_taken() -> None:
    """8 kHz and 384 kHz themselves are sample rates that songstream takes."""
    check_sample_rate(MIN_RATE_HZ)
    check_sample_rate(MAX_RATE_HZ)
