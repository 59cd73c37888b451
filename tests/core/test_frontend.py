"""The streaming log-mel: chunks and restarts change no bit, sines have their closed form, librosa and a DFT loop agree."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from songcore.arrays import FloatArray
from songcore.frontend import DB_PER_UNIT, FrontendConfig, LogMel, mel_matrix
from songcore.presets import PRESETS

SMALL = FrontendConfig(sample_rate_hz=8_000, n_fft=64, hop=24, n_mels=5, f_min_hz=300, f_max_hz=3_900)

# The presets, then the legal extremes: odd and equal sizes, more bands than bins, bands narrower than a bin, no floor to
# speak of, the highest rate with the band up to half of it.
CONFIGS = [
    PRESETS["song"][0],
    PRESETS["syllable"][0],
    SMALL,
    FrontendConfig(n_fft=33, hop=8, n_mels=4),
    FrontendConfig(n_fft=1_023, hop=1_023),
    FrontendConfig(n_fft=32, hop=32, n_mels=512),
    FrontendConfig(f_min_hz=3_000, f_max_hz=3_000.001, n_mels=4),
    FrontendConfig(n_fft=16_384, hop=5_000, f_min_hz=0, floor_db=-200),
    FrontendConfig(sample_rate_hz=384_000, n_fft=64, hop=64, f_min_hz=0, f_max_hz=192_000, floor_db=0),
]
configs = st.sampled_from(CONFIGS)


def noise(n: int, seed: int = 0) -> FloatArray:
    """Return white noise (n,) float32."""
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def sine(config: FrontendConfig, n_bins: float, n_frames: int = 40) -> FloatArray:
    """Return a full-scale sine whose frequency is so many bins of the transform."""
    phase = 2 * np.pi * n_bins / config.n_fft * np.arange(n_frames * config.hop)
    return np.asarray(np.sin(phase), np.float32)


def log_mel(config: FrontendConfig, samples: FloatArray, cuts: list[int] | None = None) -> FloatArray:
    """Return all frames of the samples, pushed in the pieces between the cuts."""
    front = LogMel(config)
    frames = [front.push(piece) for piece in np.split(samples, sorted(cuts or []))]
    return np.concatenate([*frames, front.finish()])


@settings(max_examples=80)
@given(config=configs, n_frames=st.floats(0, 75), cuts=st.lists(st.floats(0, 1), max_size=12))
def test_chunks_change_no_bit(config: FrontendConfig, n_frames: float, cuts: list[float]) -> None:
    """Any cutting of the signal, with empty pieces, gives the bits of one piece: ceil(n / hop) finite frames."""
    samples = noise(int(n_frames * config.hop))
    whole = log_mel(config, samples)
    assert whole.shape == (-(-len(samples) // config.hop), config.n_mels)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(log_mel(config, samples, [int(c * len(samples)) for c in cuts]), whole)


@settings(max_examples=50)
@given(config=configs, start=st.integers(0, 40), beyond=st.integers(0, 2_000))
def test_restart_changes_no_bit(config: FrontendConfig, start: int, beyond: int) -> None:
    """A front end begun at any frame gives the bits of the uninterrupted one: the mel of a slice is its slice."""
    samples = noise(40 * config.hop + beyond)
    restarted = LogMel(config, start_frame=start)
    frames = np.concatenate([restarted.push(samples[restarted.input_start :]), restarted.finish()])
    np.testing.assert_array_equal(frames, log_mel(config, samples)[start:])


@pytest.mark.parametrize("config", CONFIGS[:3])
def test_moving_the_sound_moves_the_frames(config: FrontendConfig) -> None:
    """A sound seven hops later has the same frames seven frames later, to rounding."""
    samples = noise(50 * config.hop)
    later = np.concatenate([np.zeros(7 * config.hop, np.float32), samples])
    np.testing.assert_allclose(log_mel(config, later)[7:], log_mel(config, samples), atol=2e-4)


@pytest.mark.parametrize("config", [*CONFIGS[:3], FrontendConfig(n_fft=33, hop=8, n_mels=4)])
def test_frames_appear_as_soon_as_their_samples_are_there(config: FrontendConfig) -> None:
    """Pushed one sample at a time, frame k comes out with the last sample of its window and not later."""
    front = LogMel(config)
    last = config.n_fft - config.n_fft // 2
    for n, sample in enumerate(noise(last + 3 * config.hop), start=1):
        front.push(np.asarray([sample]))
        assert front.next_frame == max(0, (n - last) // config.hop + 1)


@pytest.mark.parametrize("n_bins", [100, 200, 333])
def test_sine_has_its_closed_form(n_bins: int) -> None:
    """A full-scale sine on a bin has power 1 there and 1/4 in the two beside it (Hann), weighted by the bands."""
    config = FrontendConfig()
    power = np.zeros(config.n_fft // 2 + 1)
    power[n_bins - 1 : n_bins + 2] = 0.25, 1, 0.25
    expected = np.log(power @ mel_matrix(config) + 1e-10)
    frames = log_mel(config, sine(config, n_bins))[3:-3]
    heard = expected > np.log(1e-6)
    assert heard.any()
    np.testing.assert_allclose(frames[:, heard], np.broadcast_to(expected, frames.shape)[:, heard], atol=1e-3)


@pytest.mark.parametrize(("offset", "loss_db"), [(0.0, 0.0), (0.5, 1.42)])
def test_full_scale_sine_is_zero_db(offset: float, loss_db: float) -> None:
    """In a band of one bin a full-scale sine is at 0 dB, or 1.42 dB lower half a bin beside it (Hann's scalloping)."""
    config = FrontendConfig(f_min_hz=3_000, f_max_hz=3_000.001, n_mels=4)  # bin 128
    frames = log_mel(config, sine(config, 128 + offset))[3:-3]
    np.testing.assert_allclose(frames * DB_PER_UNIT, -loss_db, atol=0.01)


def test_silence_is_the_floor() -> None:
    """Frames of digital silence are exactly the configured floor."""
    frames = log_mel(FrontendConfig(floor_db=-80), np.zeros(5_000, np.float32))
    np.testing.assert_allclose(frames * DB_PER_UNIT, -80, atol=1e-4)


def test_white_noise_is_level_over_the_bands() -> None:
    """White noise of power s² has the mean power 1.5 · 4 s² / n_fft in every band (Hann, sine at 0 dB)."""
    config = FrontendConfig()
    samples = noise(24_000 * 40)
    mean_power = np.exp(log_mel(config, samples).astype(np.float64)).mean(axis=0)
    expected = 1.5 * 4 * np.mean(samples.astype(np.float64) ** 2) / config.n_fft
    np.testing.assert_allclose(mean_power / expected, 1, atol=0.08)


def test_agrees_with_librosa() -> None:
    """The weights of librosa (HTK, unit sum) are ours to 1e-6, and its mel spectrogram of noise to 1e-3 of each value."""
    import librosa

    config, samples = FrontendConfig(), noise(30_000)
    shape: dict[str, Any] = {"n_mels": 64, "fmin": 700, "fmax": 11_500, "htk": True, "norm": 1}
    weights = librosa.filters.mel(sr=24_000, n_fft=1_024, **shape)
    np.testing.assert_allclose(mel_matrix(config), weights.T, atol=1e-6)
    power = librosa.feature.melspectrogram(
        y=samples, sr=24_000, n_fft=1_024, hop_length=384, window="hann", pad_mode="constant", **shape
    )
    ours = np.exp(log_mel(config, samples)) / (2 / (config.n_fft / 2)) ** 2
    np.testing.assert_allclose(ours, power.T[: len(ours)], rtol=1e-3, atol=1e-6)


def test_agrees_with_a_naive_loop() -> None:
    """Frames are those of a discrete Fourier transform written as sums over samples, to rounding."""
    samples, n_fft = noise(500), SMALL.n_fft
    padded = np.concatenate([np.zeros(n_fft // 2), samples.astype(np.float64), np.zeros(n_fft)])
    t = np.arange(n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * t / n_fft)
    frames = log_mel(SMALL, samples)
    for k, frame in enumerate(frames):
        piece = padded[k * SMALL.hop : k * SMALL.hop + n_fft] * window * 2 / window.sum()
        power = np.array([abs(np.sum(piece * np.exp(-2j * np.pi * f * t / n_fft))) ** 2 for f in range(n_fft // 2 + 1)])
        np.testing.assert_allclose(frame, np.log(power @ mel_matrix(SMALL) + 1e-10), atol=1e-4)


@settings(max_examples=100)
@given(
    rate=st.integers(8_000, 384_000),
    n_fft=st.integers(32, 2_048),
    n_mels=st.integers(4, 200),
    band=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda band: band[1] - band[0] > 1e-3),
)
def test_mel_weights_sum_to_one(rate: int, n_fft: int, n_mels: int, band: tuple[float, float]) -> None:
    """For any configuration each band's weights are finite, not negative, and sum to one."""
    low, high = (part * rate / 2 for part in band)
    config = FrontendConfig(sample_rate_hz=rate, n_fft=n_fft, hop=16, n_mels=n_mels, f_min_hz=low, f_max_hz=high)
    weights = mel_matrix(config)
    assert weights.shape == (n_fft // 2 + 1, n_mels)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0, dtype=np.float64), 1, atol=1e-5)


def test_tiny_signals() -> None:
    """No samples give no frames, one sample gives one, and a click keeps its place in time."""
    assert log_mel(SMALL, noise(0)).shape == (0, 5)
    assert log_mel(SMALL, noise(1)).shape == (1, 5)
    click = np.zeros(24 * 20, np.float32)
    click[24 * 11] = 1
    assert log_mel(SMALL, click).sum(axis=1).argmax() == 11


def test_memory_is_bounded() -> None:
    """However much is pushed, less than a window and a hop of samples is kept."""
    config, front = FrontendConfig(), LogMel(FrontendConfig())
    for n in (1, 10, 100_000, 7, 383, 50_001):
        front.push(noise(n))
        assert len(front._tail) < config.n_fft + config.hop


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"sample_rate_hz": 7_999}, "8000"),
        ({"n_fft": 16}, "32"),
        ({"hop": 4}, "8"),
        ({"n_fft": 256, "hop": 257}, "skipped"),
        ({"n_mels": 3}, "4"),
        ({"f_min_hz": -1.0}, "0"),
        ({"f_min_hz": 11_500.0}, "half the sample rate"),
        ({"f_max_hz": 12_001.0}, "half the sample rate"),
        ({"f_max_hz": float("nan")}, "f_max_hz"),
        ({"floor_db": 1.0}, "0"),
        ({"floor_db": -1_000.0}, "-200"),
        ({"floor_db": float("nan")}, "floor_db"),
        ({"windows": "hann"}, "windows"),
    ],
)
def test_impossible_configurations_are_refused(setting: dict[str, Any], word: str) -> None:
    """A parameter out of range, of another name or at odds with the others is refused with a message that says which."""
    with pytest.raises(ValidationError, match=word):
        FrontendConfig(**setting)


def test_a_configuration_cannot_be_changed() -> None:
    """The parameters of a model are frozen."""
    with pytest.raises(ValidationError, match="frozen"):
        FrontendConfig().hop = 1  # type: ignore[misc]
