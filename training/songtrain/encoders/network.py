"""What is trained, and what of it is served."""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from songcore.arrays import FloatArray
from songtrain.encoders.efficientnet import EfficientNetEncoder
from songtrain.encoders.light import LightEncoder
from songtrain.encoders.modulation import ModulationSpectra
from songtrain.encoders.places import PlacedSpectra

__all__ = [
    "AnyEncoder",
    "Beside",
    "JointEncoder",
    "Network",
    "ServedEncoder",
    "SongNetwork",
    "SteadyEncoder",
    "TrainingOutput",
]

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


Network: TypeAlias = LightEncoder | EfficientNetEncoder
Beside: TypeAlias = Network | ModulationSpectra | PlacedSpectra


class JointEncoder(nn.Module):
    """Encoders side by side, each of length 1: a trained one first, then what looks at the song in other ways."""

    def __init__(self, *encoders: Beside) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.n_features = sum(encoder.n_features for encoder in encoders)

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song, (n, n_features)."""
        return torch.cat([normalize(encoder(features).float()) for encoder in self.encoders], dim=1)


AnyEncoder: TypeAlias = Network | JointEncoder


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
