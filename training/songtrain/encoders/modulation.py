"""The modulation spectrum as a layer: how fast the level of every band changes, wherever in time the song begins.

|Fourier transform over time| of each band at fixed rates, its logarithm log(1 + x), L2, principal components, L2. Nothing is
trained by gradient. Beside a network it is a second opinion of another kind: it needs few songs, and it cannot forget.
"""

from math import pi

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn.functional import normalize

from songcore.arrays import FloatArray
from songcore.features import FeatureConfig
from songtrain.augment.store import FrameStore

__all__ = ["ModulationSpectra", "fit_modulation", "modulation_size"]

N_VALUES = 256
N_RATES = 128
PERIOD = 512
"""Frames of the slowest rate's period, 8.2 s at the hop of the preset song; rate k has k periods in it."""
MAX_SONGS = 5000
BATCH_SONGS = 64


def modulation_size(asked: int | None, features: FeatureConfig) -> int:
    """Return how many values of the modulation spectrum an encoder has, unless asked for: those of songs of many notes."""
    if asked is not None:
        return asked
    return 0 if features.steady_share is None else N_VALUES


class ModulationSpectra(nn.Module):
    """Features (n, 1, n_mels, n_frames) → unit vectors (n, n_features)."""

    mean: Tensor
    components: Tensor

    def __init__(self, mean: FloatArray, components: FloatArray) -> None:
        super().__init__()
        self.n_features = len(components)
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("components", torch.from_numpy(components))

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector per song."""
        return normalize((modulation_spectra(features) - self.mean) @ self.components.T)


def modulation_spectra(features: Tensor) -> Tensor:
    """Return log(1 + |X|), X the transforms at `N_RATES` rates of features (n, 1, n_mels, n_frames): unit rows (n, ...)."""
    x = features[:, 0].float()
    at = torch.arange(features.shape[3], device=features.device)
    # Whole numbers first: angles far from zero would lose their last digits.
    turns = at[:, None] * torch.arange(N_RATES, device=features.device)[None] % PERIOD
    angle = turns.float() * (2 * pi / PERIOD)
    power = (x @ angle.cos()) ** 2 + (x @ angle.sin()) ** 2
    return normalize(torch.log1p(power.sqrt()).flatten(1))


def fit_modulation(store: FrameStore, n_components: int, seed: int) -> ModulationSpectra:
    """Return the layer for these songs, with as many components as there can be up to ``n_components``."""
    used = np.random.default_rng([seed, 7]).permutation(len(store))[:MAX_SONGS].astype(np.int64)
    with torch.inference_mode():
        rows = [
            modulation_spectra(store.plain(used[i : i + BATCH_SONGS])).cpu() for i in range(0, len(used), BATCH_SONGS)
        ]
    spectra = torch.cat(rows).numpy()
    pca = PCA(min(n_components, *spectra.shape), random_state=seed).fit(spectra)
    return ModulationSpectra(np.asarray(pca.mean_, np.float32), np.ascontiguousarray(pca.components_, np.float32))
