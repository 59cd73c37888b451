"""Encoders that come as they are and hear the songs themselves: an ONNX file that a user brings, described by a manifest."""

from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from sklearn.base import BaseEstimator, TransformerMixin

from songcore.arrays import FloatArray
from songcore.embed import OnnxModel
from songcore.errors import ConfigError
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource, song_sounds
from songtrain.datasets.windows import windows_of
from songtrain.methods.onnx_manifest import LogMelInput, read_manifest

__all__ = ["OnnxEncoder", "SoundEncoder"]


class SoundEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Hears every song in windows; what it makes of them is pooled to one vector. Learns nothing."""

    sound: SoundSource | None
    weights_: Literal["pretrained", "random"]
    """After `fit`: whether anything was ever learned by these weights."""

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803 - scikit-learn's signature
        """Open the model; ConfigError when there is none, or when it is not what is said of it."""
        raise NotImplementedError

    def model_files(self) -> list[Path]:
        """Return the files that decide what it gives, as far as they are there."""
        return []

    def transform(self, X: SongSet) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return one vector per song, (n, d) float32; ConfigError without a source of sound."""
        if self.sound is None:
            raise ConfigError(
                "this encoder hears the songs themselves and was given no recordings; set its parameter sound",
                reason="SOUND_MISSING",
            )
        rows = [self._embed(sound) for sound in song_sounds(self.sound, X.places, self._rate_hz())]
        return np.stack(rows).astype(np.float32, copy=False)

    def _rate_hz(self) -> int:
        raise NotImplementedError

    def _embed(self, sound: FloatArray) -> FloatArray:
        """Return the vector (d,) of one song (n,)."""
        raise NotImplementedError


class OnnxEncoder(SoundEncoder):
    """An ONNX model; ``path`` is its manifest (.toml, .json), or the model with a manifest of the same name beside it."""

    def __init__(self, path: str = "", sound: SoundSource | None = None) -> None:
        self.path, self.sound = path, sound

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Open the model; ConfigError when there is none, or when it does not take what the manifest gives it."""
        where = _manifest_path(self.path)
        self.manifest_ = read_manifest(where)
        model = where.parent / self.manifest_.model
        self._model = OnnxModel(model, self.manifest_.input, self.manifest_.output)
        self._n_window = round(self.manifest_.window_s * self.manifest_.sample_rate_hz)
        _check_shape(self._model.input_shape, self._inputs(np.zeros((1, self._n_window), np.float32)).shape, model)
        self.weights_ = self.manifest_.weights
        return self

    def model_files(self) -> list[Path]:
        """Return manifest and model, and files with tensors of the model."""
        manifest = _manifest_path(self.path)
        model = manifest.parent / read_manifest(manifest).model
        if not model.is_file():
            return [manifest]
        tensors = [model.parent / name for name in _tensor_files(model, model.stat().st_mtime_ns)]
        return [manifest, model, *(path for path in tensors if path.is_file())]

    def _rate_hz(self) -> int:
        return self.manifest_.sample_rate_hz

    def _embed(self, sound: FloatArray) -> FloatArray:
        n_hop = max(1, round(self.manifest_.hop_s * self.manifest_.sample_rate_hz))
        batch = self._inputs(windows_of(sound, self._n_window, n_hop, at_least=self._n_window))
        # A model exported for one window at a time hears them one by one.
        parts = [batch] if self._model.input_shape[0] is None else [window[None] for window in batch]
        out = np.concatenate([self._model.run(part) for part in parts])
        if out.ndim < 2:
            raise ConfigError(
                f"output {self.manifest_.output} of {self.path} has the shape {out.shape}; expected (n, d), or (n, time, d)",
                reason="MODEL_INTERFACE",
            )
        rows = out.reshape(-1, out.shape[-1])
        return np.asarray(rows.max(axis=0) if self.manifest_.pooling == "max" else rows.mean(axis=0))

    def _inputs(self, windows: FloatArray) -> FloatArray:
        """Return what the model is given for windows (n, n_window)."""
        if self.manifest_.log_mel is not None:
            windows = _log_mel(windows, self.manifest_.sample_rate_hz, self.manifest_.log_mel)
        missing = len(self._model.input_shape) - windows.ndim
        return windows.reshape(len(windows), *[1] * max(0, missing), *windows.shape[1:])


def _manifest_path(path: str) -> Path:
    if not path:
        raise ConfigError(
            'no model is given; declare encoder = { part = "onnx", path = "MANIFEST.toml" }', reason="MODEL_MISSING"
        )
    given = Path(path)
    if given.suffix in {".toml", ".json"}:
        return given
    beside = [given.with_suffix(suffix) for suffix in (".toml", ".json")]
    found = next((other for other in beside if other.is_file()), None)
    if found is None:
        raise ConfigError(
            f"there is no manifest {' or '.join(other.name for other in beside)} beside {given}; write one that names sample "
            "rate, window, input and output",
            reason="MANIFEST_MISSING",
        )
    return found


@lru_cache(maxsize=64)
def _tensor_files(model: Path, changed_ns: int) -> set[str]:
    """Return the names of the files beside the model that hold tensors of it; none where it cannot be read."""
    del changed_ns  # so that it is read again when it has changed
    try:
        tensors = onnx.load(model, load_external_data=False).graph.initializer
    except (OSError, DecodeError):  # said when the model is opened
        return set()
    return {ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}


def _check_shape(takes: tuple[int | None, ...], given: tuple[int, ...], model: Path) -> None:
    sizes = takes[1:], given[1:]
    fits = len(takes) == len(given) and all(a in {None, b} for a, b in zip(*sizes, strict=True))
    if not fits or takes[0] not in {None, 1}:
        words = ", ".join("any" if n is None else str(n) for n in takes)
        raise ConfigError(
            f"{model} takes the shape ({words}), the manifest makes (n, {', '.join(map(str, given[1:]))}) of a window; set "
            "sample_rate_hz, window_s or log_mel, or export the model with a free first axis",
            reason="MODEL_INTERFACE",
        )


def _log_mel(windows: FloatArray, rate_hz: int, form: LogMelInput) -> FloatArray:
    """Return (n, n_mels, n_frames), or (n, n_frames, n_mels), of windows (n, n_window)."""
    from librosa.feature import melspectrogram  # a second of imports that models of waveforms need not wait for

    power = melspectrogram(
        y=windows,
        sr=rate_hz,
        n_fft=form.n_fft,
        hop_length=form.hop,
        n_mels=form.n_mels,
        fmin=form.f_min_hz,
        fmax=form.f_max_hz,
        htk=form.mel_scale == "htk",
    )
    level = np.log(np.maximum(power, form.smallest)) * (1 if form.unit == "ln" else 10 / np.log(10))
    scaled = np.asarray((level - form.mean) / form.deviation, np.float32)
    return scaled if form.layout == "mels-frames" else scaled.transpose(0, 2, 1)
