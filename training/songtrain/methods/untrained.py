"""The light encoder with random weights: what looking alone is worth, before anything is learned."""

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from songcore.arrays import FloatArray
from songtrain.augment.store import FrameStore
from songtrain.datasets.songs import SongSet
from songtrain.encoders.build import build_encoder
from songtrain.loop.embedding import embed_store
from songtrain.methods.fitting import local_device, torch_seed
from songtrain.methods.settling import settle_on_songs
from songtrain.settings import TrainSettings

__all__ = ["UntrainedEncoder"]


class UntrainedEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Random weights; only the statistics of its normalisations are those of the songs."""

    def __init__(self, settings: TrainSettings = TrainSettings(), random_state: int = 0) -> None:  # noqa: B008 - frozen
        self.settings, self.random_state = settings, random_state

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Draw the weights and pass the songs through once."""
        store = FrameStore(X, local_device())
        with torch_seed(self.random_state):
            self.encoder_ = build_encoder(self.settings.encoder, store.n_mels).to(local_device())
        self.encoder_.to(memory_format=self.encoder_.memory_format)  # type: ignore[call-overload]  # torch's stub
        settle_on_songs(self.encoder_, store, self.settings.run.batch_size, np.random.default_rng(self.random_state))
        self.weights_ = "random"
        return self

    def transform(self, X: SongSet) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return pooled features (n, n_features) float32."""
        return embed_store(self.encoder_, FrameStore(X, local_device()), np.arange(len(X), dtype=np.int64))
