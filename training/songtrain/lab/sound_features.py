"""Features made from the sound of the songs, with the parameters of their sources: 11 s, shorter songs padded with silence.

The features in `songtrain.lab.features` start from what an encoder sees, levels above the noise floor; these start from
the recordings themselves, noise and all, as the sources did.
"""

from typing import Any, Self

import numpy as np
from scipy.signal import butter, sosfilt
from sklearn.base import BaseEstimator, TransformerMixin

from songcore.arrays import FloatArray
from songcore.errors import ConfigError
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource, song_sounds

__all__ = ["SoundCepstra", "SoundChroma", "SoundLogMel"]

RATE_HZ = 22_050
HOP = 512
N_FFT = 2048
SECONDS = 11.0


class _FromSound(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Hears every song anew; there is nothing to learn."""

    seconds: float
    sound: SoundSource | None

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Take the songs; ConfigError PART_MISSING when nobody said where their sound is."""
        if self.sound is None:
            raise ConfigError(
                f"{type(self).__name__} needs the recordings of the songs, and nobody said where they are",
                reason="PART_MISSING",
            )
        return self

    def transform(self, X: SongSet) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return one image per song, (n, n_frames, n_values) float32."""
        assert self.sound is not None  # noqa: S101 - fit has seen to it
        n = round(self.seconds * RATE_HZ)
        images = []
        for samples in song_sounds(self.sound, X.places, RATE_HZ):
            heard = self._filtered(samples[:n])
            images.append(self._describe(np.pad(heard, (0, n - len(heard)))))
        return np.stack(images).astype(np.float32, copy=False)

    def _filtered(self, samples: FloatArray) -> FloatArray:
        """Return the sound (n,) of a song as it is described, before silence follows it."""
        return samples

    def _describe(self, samples: FloatArray) -> FloatArray:
        """Return the image (n_frames, n_values) of samples (n,)."""
        raise NotImplementedError


class SoundChroma(_FromSound):
    """librosa's chromagram, 12 pitch classes in 474 frames of 11 s: 22,050 Hz, hop 512, the strongest of a frame 1.

    As the chroma baseline has it, preferring pitches around 880 Hz. Silent frames are 0.
    """

    def __init__(self, seconds: float = SECONDS, sound: SoundSource | None = None) -> None:
        self.seconds, self.sound = seconds, sound

    def _describe(self, samples: FloatArray) -> FloatArray:
        from librosa.feature import chroma_stft  # a second of imports that other features need not wait for

        # Tuned to A at 440 Hz: estimating the tuning of every song anew would let the classes of one type differ.
        return np.asarray(chroma_stft(y=samples, sr=RATE_HZ, hop_length=HOP, tuning=0.0).T)


class SoundCepstra(_FromSound):
    """librosa's mel-frequency cepstral coefficients in 474 frames of 11 s, as images for an autoencoder."""

    def __init__(self, n_coefficients: int = 20, seconds: float = SECONDS, sound: SoundSource | None = None) -> None:
        self.n_coefficients, self.seconds, self.sound = n_coefficients, seconds, sound

    def _describe(self, samples: FloatArray) -> FloatArray:
        from librosa.feature import mfcc

        return np.asarray(mfcc(y=samples, sr=RATE_HZ, hop_length=HOP, n_mfcc=self.n_coefficients).T)


class SoundLogMel(_FromSound):
    """BASENet's and NSCNet's spectrogram: high-pass at 1500 Hz, 64 mel bands in 512 frames of 11 s, in dB of full scale.

    Nothing is subtracted and nothing depends on the song: 80 dB below full scale counts as silence, which is 0, and the
    unit is 10 dB.
    """

    def __init__(
        self,
        n_mels: int = 64,
        n_frames: int = 512,
        high_pass_hz: float = 1500.0,
        seconds: float = SECONDS,
        sound: SoundSource | None = None,
    ) -> None:
        self.n_mels, self.n_frames, self.high_pass_hz = n_mels, n_frames, high_pass_hz
        self.seconds, self.sound = seconds, sound

    def _filtered(self, samples: FloatArray) -> FloatArray:
        # A filter that rings out in seconds of silence works on ever smaller numbers, a hundred times as slowly.
        highpass = butter(5, self.high_pass_hz, "highpass", fs=RATE_HZ, output="sos")
        return np.asarray(sosfilt(highpass, samples), np.float32)

    def _describe(self, samples: FloatArray) -> FloatArray:
        from librosa import power_to_db
        from librosa.feature import melspectrogram

        hop = len(samples) // (self.n_frames - 1)
        options: dict[str, Any] = {"hop_length": hop, "n_fft": N_FFT, "n_mels": self.n_mels, "fmin": self.high_pass_hz}
        mel = melspectrogram(y=samples, sr=RATE_HZ, norm=None, **options)
        # A full-scale sine has half the sum of the Hann window in its bin.
        level = power_to_db(mel, ref=(N_FFT / 4) ** 2, top_db=None)
        return np.asarray((np.maximum(level, -80.0) + 80.0).T[: self.n_frames] / 10)
