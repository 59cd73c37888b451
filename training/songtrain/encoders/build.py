"""Encoders by name."""

from torch import nn

from songcore.errors import ConfigError
from songtrain.encoders.efficientnet import EfficientNetEncoder
from songtrain.encoders.light import LightEncoder
from songtrain.settings import EncoderSettings

__all__ = ["build_encoder", "n_parameters"]


def build_encoder(settings: EncoderSettings, n_mels: int) -> LightEncoder | EfficientNetEncoder:
    """Return the encoder of the settings with random weights."""
    if settings.name == "efficientnet-b0":
        return EfficientNetEncoder(n_features=settings.n_features)
    if n_mels % 8:
        raise ConfigError(f"the light encoder needs a multiple of 8 mel bands, the front end has {n_mels}")
    return LightEncoder(n_mels, width=settings.width, n_features=settings.n_features)


def n_parameters(module: nn.Module) -> int:
    """Return how many values are trained."""
    return sum(parameter.numel() for parameter in module.parameters())
