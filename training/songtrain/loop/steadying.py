"""The last layer of the encoder in closed form: what changes between views of one song counts less.

Views differ in noise, level, pace and borders, so the covariance of a song's features over its views shows along which
directions an encoder still describes these and not the song. The layer whitens it (within-class covariance normalisation,
Hatch et al. 2006, with songs for classes), shrunk towards what all directions have in common, so that few views do.
"""

import numpy as np
import torch
from torch.nn.functional import normalize

from songcore.arrays import FloatArray
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.augment.views import ViewMaker
from songtrain.encoders.network import AnyEncoder
from songtrain.settings import TrainSettings

__all__ = ["steady_weights", "whitening"]

N_VIEWS = 4
BATCH_SONGS = 64
SHRINKAGE = 1.0
"""Of the mean variance, added to every direction's."""


def steady_weights(encoder: AnyEncoder, store: FrameStore, settings: TrainSettings, stream: StreamConfig) -> FloatArray:
    """Return the layer's weights (n_features, n_features) float32, learned from views of some of the songs."""
    used = np.random.default_rng(settings.seed).permutation(len(store))[: settings.encoder.n_steady_songs]
    if len(used) == 0:
        return np.eye(encoder.n_features, dtype=np.float32)
    views = ViewMaker(
        store,
        settings.steady,
        stream.frontend,
        stream.features,
        max_frames=settings.run.max_frames,
        seed=settings.seed,
    )
    views.seed(settings.seed)
    was_training = encoder.training
    encoder.eval()
    parts = np.array_split(used.astype(np.int64), -(-len(used) // BATCH_SONGS))
    with torch.inference_mode():
        seen = [torch.stack([normalize(encoder(views.views(p)).float()) for _ in range(N_VIEWS)]) for p in parts]
    encoder.train(was_training)
    return whitening(torch.cat(seen, dim=1).cpu().numpy())


def whitening(features: FloatArray) -> FloatArray:
    """Return (d, d) float32, the inverse square root of the shrunk covariance within songs, of features (n_views, n, d)."""
    n_views, n, d = features.shape
    exact = features.astype(np.float64)
    within = (exact - exact.mean(axis=0)).reshape(-1, d)
    covariance = within.T @ within / max(1, (n_views - 1) * n)
    mean_variance = float(np.trace(covariance)) / d
    if mean_variance == 0:
        return np.eye(d, dtype=np.float32)
    # In units of the mean variance: nothing depends on the scale of the features.
    values, vectors = np.linalg.eigh(covariance / mean_variance + SHRINKAGE * np.eye(d))
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T, np.float32)
