"""DeepCluster (Caron et al. 2018), on spectrograms as in DECAR (Ghosh et al. 2021): learning from its own clusters."""

from typing import Any

import faiss
import numpy as np
import torch
from torch import Generator, Tensor, nn

from songcore.arrays import FloatArray, IntArray
from songtrain.augment.images import resize_crop, translate
from songtrain.encoders.images import EncoderName
from songtrain.losses.heads import SoftmaxHead
from songtrain.methods.pseudo_labels import PseudoLabelEncoder
from songtrain.reducers.projections import Components

__all__ = ["DeepCluster"]

SONGS_PER_COMPONENT = 10


class DeepCluster(PseudoLabelEncoder):
    """Features → PCA, whitened → L2 → k-means before every epoch; a fresh softmax head, uniform draws over clusters.

    Whitened, as many components as songs would put all songs equally far apart: of few songs there are a tenth as many. The
    sources' rate of learning, 0.05, is for a million images. Views are moved, cropped and resized a little. The sources take
    AlexNet and EfficientNet; any encoder can be named.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's habit: one argument per parameter
        self,
        encoder: EncoderName = "conv",
        n_clusters: int = 64,
        *,
        n_components: int = 256,
        n_epochs: int = 20,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        max_minutes: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.encoder, self.n_clusters, self.n_components = encoder, n_clusters, n_components
        self.n_epochs, self.batch_size, self.learning_rate = n_epochs, batch_size, learning_rate
        self.max_minutes, self.random_state = max_minutes, random_state

    def clusters(self, features: FloatArray, seed: int) -> IntArray:
        """Return clusters (n,) int64 of features (n, n_features)."""
        if not features.std(axis=0).any():
            return np.zeros(len(features), np.int64)
        n_components = max(2, min(self.n_components, len(features) // SONGS_PER_COMPONENT))
        rows = Components(n_components, whiten=True, random_state=seed).fit_transform(features)
        return refilled_k_means(rows, self.n_clusters, seed)

    def fresh_head(self, features: FloatArray, labels: IntArray) -> nn.Module:
        """Return a head that knows nothing yet."""
        return SoftmaxHead(features.shape[1], int(labels.max()) + 1)

    def view(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the images as changed at random."""
        return resize_crop(translate(images, generator), generator, scale=(0.8, 1.2), canvas=(1.2, 1.0))

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        groups: list[dict[str, Any]] = [{"params": list(network.parameters())}, {"params": []}]
        return torch.optim.SGD(groups, self.learning_rate, momentum=0.9, weight_decay=1e-5)


def refilled_k_means(rows: FloatArray, n_clusters: int, seed: int) -> IntArray:
    """Return clusters (n,) int64 of rows (n, d) by faiss's k-means.

    A cluster that runs empty takes the centre of a random other one, both a little displaced: the rule of the paper.
    """
    search = faiss.Kmeans(
        rows.shape[1], n_clusters, seed=seed % 2**31, min_points_per_centroid=1, max_points_per_centroid=len(rows)
    )
    search.train(np.ascontiguousarray(rows, np.float32))
    return np.asarray(search.assign(rows)[1], np.int64)
