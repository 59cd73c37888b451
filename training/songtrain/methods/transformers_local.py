"""Audio transformers: from a local Hugging Face folder, or of a family with random weights. Nothing is ever downloaded."""

from pathlib import Path
from typing import Any, Literal, Self

import torch

from songcore.arrays import FloatArray
from songcore.errors import ConfigError
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.datasets.windows import windows_of
from songtrain.methods.fitting import local_device, torch_seed
from songtrain.methods.frozen import SoundEncoder

__all__ = ["LocalTransformer", "RandomTransformer"]

SHORTEST_S = 0.1
"""Shorter sounds get silence: a convolution over less than its own length fails."""


class _Transformer(SoundEncoder):
    """The mean of the last hidden states over the sequence, and over the windows of a song."""

    window_s: float
    _model: torch.nn.Module
    _extractor: Any

    def _rate_hz(self) -> int:
        return int(self._extractor.sampling_rate)

    def _embed(self, sound: FloatArray) -> FloatArray:
        rate = self._rate_hz()
        n_window = round(self.window_s * rate)
        windows = windows_of(sound, n_window, n_window, at_least=round(SHORTEST_S * rate))
        inputs = self._extractor(list(windows), sampling_rate=rate, return_tensors="pt").to(local_device())
        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state
        out: FloatArray = hidden.mean(dim=(0, 1)).float().cpu().numpy()
        return out


class LocalTransformer(_Transformer):
    """A folder written by transformers' `save_pretrained`: model (safetensors) and feature extractor, as wav2vec 2 or AST."""

    def __init__(
        self,
        path: str = "",
        window_s: float = 10.0,
        weights: Literal["pretrained", "random"] = "pretrained",
        sound: SoundSource | None = None,
    ) -> None:
        self.path, self.window_s, self.weights, self.sound = path, window_s, weights, sound

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Open the model; ConfigError when the folder holds none that can be opened."""
        from transformers import AutoFeatureExtractor, AutoModel

        folder = Path(self.path)
        if not self.path or not (folder / "config.json").is_file():
            raise ConfigError(
                f"there is no config.json in {folder}; give the folder of a model that was saved by save_pretrained",
                reason="MODEL_MISSING",
            )
        try:
            # Never from the network, never by unpickling, never by running code that came with the model.
            options = {"local_files_only": True, "trust_remote_code": False}
            model = AutoModel.from_pretrained(folder, use_safetensors=True, **options)
            self._extractor = AutoFeatureExtractor.from_pretrained(folder, **options)  # type: ignore[no-untyped-call]  # no types
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ConfigError(
                f"{folder} is no model with safetensors and feature extractor ({' '.join(str(error).split())})",
                reason="MODEL_UNREADABLE",
            ) from error
        self._model = model.to(local_device()).eval()
        self.weights_ = self.weights
        return self

    def model_files(self) -> list[Path]:
        """Return weights and settings: what `save_pretrained` wrote that is read."""
        folder = Path(self.path)
        found = folder.glob("*") if self.path else ()
        return sorted(path for path in found if path.suffix in {".json", ".safetensors"} and path.is_file())


class RandomTransformer(_Transformer):
    """A small transformer that never learned anything: what the architecture alone is worth.

    "wav2vec2" hears the waveform (Baevski et al. 2020), "ast" spectrogram patches (Gong et al. 2021). PaSST, which is not in
    transformers, is an AST that sees parts of its input in training.
    """

    def __init__(
        self,
        architecture: Literal["wav2vec2", "ast"] = "wav2vec2",
        n_hidden: int = 192,
        n_layers: int = 3,
        window_s: float = 5.0,
        sound: SoundSource | None = None,
        random_state: int = 0,
    ) -> None:
        self.architecture, self.n_hidden, self.n_layers = architecture, n_hidden, n_layers
        self.window_s, self.sound, self.random_state = window_s, sound, random_state

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Draw the weights."""
        if self.architecture not in {"wav2vec2", "ast"}:
            raise ConfigError(f"no architecture {self.architecture!r}: choose wav2vec2 or ast", reason="PART_UNKNOWN")
        with torch_seed(self.random_state):
            model, self._extractor = self._wav2vec2() if self.architecture == "wav2vec2" else self._ast()
        self._model = model.to(local_device()).eval()
        self.weights_ = "random"
        return self

    def _sizes(self) -> dict[str, Any]:
        return {
            "hidden_size": self.n_hidden,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": 4,
            "intermediate_size": 2 * self.n_hidden,
        }

    def _wav2vec2(self) -> tuple[torch.nn.Module, Any]:
        from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

        config = Wav2Vec2Config(
            **self._sizes(), conv_dim=[64] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
        )
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=False)  # type: ignore[no-untyped-call]  # no types
        return Wav2Vec2Model(config), extractor

    def _ast(self) -> tuple[torch.nn.Module, Any]:
        from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

        n_frames = max(32, round(self.window_s * 100))  # of 10 ms
        config = ASTConfig(**self._sizes(), max_length=n_frames, num_mel_bins=64)
        extractor = ASTFeatureExtractor(max_length=n_frames, num_mel_bins=64)  # type: ignore[no-untyped-call]  # no types
        return ASTModel(config), extractor
