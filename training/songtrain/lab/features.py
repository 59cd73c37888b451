"""What a song looks like to a system without a network: images and spectra of one size for all songs.

Every part takes songs as serving sees them, a list of (n_frames, n_mels) float32 in units of 10 dB above the noise floor, and
gives one image per song. Songs are cut, or padded with silence, to the longest of the fitted songs or ``n_frames``.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from scipy.fft import dct, rfft
from sklearn.base import BaseEstimator, TransformerMixin

from songcore.arrays import FloatArray
from songcore.frontend import FrontendConfig, mel_matrix

__all__ = ["Cepstra", "Chroma", "LogMelImage", "ModulationSpectrum"]

N_FRAMES = 512
"""8.2 s at the hop of the preset song."""


class _OfFixedLength(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Learns nothing but how long the songs are."""

    n_frames: int

    def fit(self, X: Sequence[FloatArray], y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Learn the common length ``n_frames_`` from songs (n_frames, n_mels)."""
        self.n_frames_ = min(self.n_frames, max(len(song) for song in X))
        return self

    def transform(self, X: Sequence[FloatArray]) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return one image per song, (n, n_rows, n_values) float32: rows are frames, or rates of change."""
        return np.stack([self._describe(self._fixed(song)) for song in X]).astype(np.float32, copy=False)

    def _fixed(self, song: FloatArray) -> FloatArray:
        song = song[: self.n_frames_]
        return np.pad(song, ((0, self.n_frames_ - len(song)), (0, 0)))

    def _describe(self, image: FloatArray) -> FloatArray:
        """Return the description of one song (n_frames_, n_mels)."""
        raise NotImplementedError


class LogMelImage(_OfFixedLength):
    """The song itself: level above the noise floor by frame and mel band."""

    def __init__(self, n_frames: int = N_FRAMES) -> None:
        self.n_frames = n_frames

    def _describe(self, image: FloatArray) -> FloatArray:
        return image


class ModulationSpectrum(_OfFixedLength):
    """|FFT over time| of every band: how fast the level changes there, wherever in time the song begins.

    ``n_rates`` lowest rates are kept; ``logarithm`` takes log(1 + x), which brings faint modulations forward.
    """

    def __init__(self, n_frames: int = N_FRAMES, n_rates: int = 128, *, logarithm: bool = False) -> None:
        self.n_frames, self.n_rates, self.logarithm = n_frames, n_rates, logarithm

    def _describe(self, image: FloatArray) -> FloatArray:
        # Always n_frames long, so that a rate is the same number whatever the longest song.
        spectrum = np.abs(rfft(image, n=self.n_frames, axis=0))[: self.n_rates]
        return np.asarray(np.log1p(spectrum) if self.logarithm else spectrum, np.float32)


class Cepstra(_OfFixedLength):
    """Mel-frequency cepstral coefficients: the orthonormal cosine transform of every frame's bands."""

    def __init__(self, n_frames: int = N_FRAMES, n_coefficients: int = 20) -> None:
        self.n_frames, self.n_coefficients = n_frames, n_coefficients

    def _describe(self, image: FloatArray) -> FloatArray:
        return np.asarray(dct(image, type=2, norm="ortho", axis=1)[:, : self.n_coefficients], np.float32)


class Chroma(_OfFixedLength):
    """Energy in twelve pitch classes by frame, the strongest of a frame 1; silent frames are 0.

    librosa's chroma filters seen through the mel bands of ``frontend``: coarser than from the sound itself.
    """

    def __init__(self, n_frames: int = N_FRAMES, frontend: FrontendConfig = FrontendConfig()) -> None:  # noqa: B008 - frozen
        self.n_frames, self.frontend = n_frames, frontend

    def fit(self, X: Sequence[FloatArray], y: None = None) -> Self:  # noqa: N803 - scikit-learn's signature
        """Learn the common length, and prepare the filters ``filters_`` (n_mels, 12)."""
        from librosa.filters import chroma  # a second of imports that other features need not wait for

        # No preferred octave: librosa's default prefers the one around 880 Hz, below where most birds sing.
        pitch = chroma(sr=self.frontend.sample_rate_hz, n_fft=self.frontend.n_fft, octwidth=None)
        self.filters_ = np.asarray(mel_matrix(self.frontend).T @ pitch.T, np.float32)
        super().fit(X, y)
        return self

    def _describe(self, image: FloatArray) -> FloatArray:
        energy = (10**image - 1) @ self.filters_
        strongest = energy.max(axis=1, keepdims=True)
        return np.asarray(np.divide(energy, strongest, out=np.zeros_like(energy), where=strongest > 0), np.float32)
