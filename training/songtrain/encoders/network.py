"""What is trained, and what of it is served."""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from songcore.arrays import FloatArray
from songtrain.encoders.efficientnet import EfficientNetEncoder
from songtrain.encoders.light import LightEncoder
from songtrain.encoders.modulation import ModulationSpectra

__all__ = ["AnyEncoder", "JointEncoder", "ServedEncoder", "SongNetwork", "SteadyEncoder", "TrainingOutput"]

N_PROJECTION = 128


class TrainingOutput(NamedTuple):
    """Two heads on one encoder."""

    projection: Tensor
    """(n, 128), for the contrastive loss."""
    embedding: Tensor
    """(n, 128), for ArcFace."""


class SongNetwork(nn.Module):
    """Encoder with the heads that only training uses."""

    def __init__(self, encoder: LightEncoder | EfficientNetEncoder) -> None:
        super().__init__()
        n = encoder.n_features
        self.encoder = encoder
        self.projector = nn.Sequential(nn.Linear(n, n), nn.BatchNorm1d(n), nn.ReLU(), nn.Linear(n, N_PROJECTION))
        self.embed = nn.Sequential(nn.Linear(n, N_PROJECTION, bias=False), nn.BatchNorm1d(N_PROJECTION, affine=False))

    def forward(self, features: Tensor) -> TrainingOutput:
        """Return both heads' outputs for a batch."""
        pooled = self.encoder(features)
        return TrainingOutput(self.projector(pooled), self.embed(pooled))


class JointEncoder(nn.Module):
    """A trained encoder and modulation spectra side by side, each of length 1."""

    def __init__(self, encoder: LightEncoder | EfficientNetEncoder, modulation: ModulationSpectra) -> None:
        super().__init__()
        self.encoder, self.modulation = encoder, modulation
        self.n_features = encoder.n_features + modulation.n_features

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song, (n, n_features)."""
        return torch.cat([normalize(self.encoder(features).float()), self.modulation(features)], dim=1)


AnyEncoder: TypeAlias = LightEncoder | EfficientNetEncoder | JointEncoder


class SteadyEncoder(nn.Module):
    """Encoder → L2 → a linear layer that weighs directions by how little views of one song differ along them."""

    def __init__(self, encoder: AnyEncoder, weights: FloatArray) -> None:
        super().__init__()
        self.encoder = encoder
        self.n_features = encoder.n_features
        self.steady = nn.Linear(encoder.n_features, encoder.n_features, bias=False)
        with torch.no_grad():
            self.steady.weight.copy_(torch.from_numpy(weights))

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song, (n, n_features)."""
        return self.steady(normalize(self.encoder(features)))  # type: ignore[no-any-return]  # nn.Module is untyped


class ServedEncoder(nn.Module):
    """Encoder → L2 → principal components → L2: features (n, 1, n_mels, n_frames) → unit embedding (n, d)."""

    def __init__(self, encoder: nn.Module, mean: FloatArray, components: FloatArray) -> None:
        super().__init__()
        self.encoder = encoder
        # One linear layer: W (x - mean) = W x - W mean.
        self.project = nn.Linear(components.shape[1], components.shape[0])
        with torch.no_grad():
            self.project.weight.copy_(torch.from_numpy(components))
            self.project.bias.copy_(torch.from_numpy(-(components @ mean)))

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song."""
        return normalize(self.project(normalize(self.encoder(features))))
