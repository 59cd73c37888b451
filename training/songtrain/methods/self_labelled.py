"""The encoder of ``songstream train`` as an estimator: fitted on a set of songs, it gives one vector per song."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from songcore.arrays import FloatArray
from songcore.errors import ConfigError
from songcore.presets import STREAMS
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.datasets.songs import SongSet
from songtrain.loop.embedding import embed_store
from songtrain.loop.learner import Learner
from songtrain.loop.schedule import plan_epochs
from songtrain.loop.world import World
from songtrain.methods.fitting import local_device
from songtrain.settings import TrainSettings, change_settings, preset_for

__all__ = ["SelfLabelledEncoder"]

SONG_STREAM = STREAMS["song"]


class SelfLabelledEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The encoder of ``songstream train``, by the same loop on one worker; on the GPU where there is one.

    Without ``settings`` those of the preset for this kind of sound are taken. ``changes`` to them are nested as in a file of
    `load_settings`: ``{"rounds": {"n_rounds": 0}}``.
    """

    def __init__(
        self,
        settings: TrainSettings | None = None,
        stream: StreamConfig = SONG_STREAM,
        random_state: int = 0,
        changes: Mapping[str, object] | None = None,
    ) -> None:
        self.settings, self.stream, self.random_state, self.changes = settings, stream, random_state, changes

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ConfigError when ``changes`` name or hold what there is not: hours before `fit` would say so."""
        super().set_params(**params)
        self._changed()
        return self

    def _changed(self) -> TrainSettings:
        known = self.settings or preset_for(self.stream)
        if not isinstance(self.changes, Mapping | None):
            raise ConfigError(
                f"self-labelled: changes is {self.changes!r}, expected a table of settings such as "
                '{"rounds": {"scale": 16}}',
                reason="SYSTEM_INVALID",
            )
        return change_settings(known, self.changes or {}, "self-labelled: changes")

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Train on the songs; CollapseError when training loses what tells them apart."""
        settings = self._changed().model_copy(update={"seed": self.random_state})
        learner = Learner(X, settings, self.stream, device=local_device(), world=World())
        self.history_ = [learner.run_epoch(epoch) for epoch in plan_epochs(settings)]
        self.n_epochs_ = len(self.history_)
        self.encoder_ = learner.steady_encoder().eval()
        return self

    def transform(self, X: SongSet) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return pooled features (n, n_features) float32."""
        return embed_store(self.encoder_, FrameStore(X, local_device()), np.arange(len(X), dtype=np.int64))
