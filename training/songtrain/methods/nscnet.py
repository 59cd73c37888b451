"""NSCNet, which learns to tell its own clusters of songs apart, with softmax or ArcFace; as its paper describes it.

Where the published code does otherwise, the paper is followed: the sampler draws from the present clusters alone (there, from
the second epoch on, from all former ones too), the head is fresh when clusters are numbered anew (there one head sees its
classes change their meaning), and ArcFace's gradient is finite at a cosine of 1.
"""

import warnings
from typing import Any, Literal

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Generator, Tensor, nn

from songcore.arrays import FloatArray, IntArray
from songtrain.augment.images import spec_augment
from songtrain.encoders.images import EncoderName
from songtrain.losses.heads import SoftmaxHead, random_arcface
from songtrain.methods.pseudo_labels import Convergence, PseudoLabelEncoder
from songtrain.reducers.projections import Components

__all__ = ["NSCNet"]


class NSCNet(PseudoLabelEncoder):
    """EfficientNet-B0 → 512 → PCA 256 → L2 → k-means before every epoch; SpecAugment, uniform draws, Adam.

    ``margin`` (rad) and ``scale`` are ArcFace's. Ends when the NMI of consecutive clusters gains less than
    0.005 for 10 epochs. An epoch is ``epoch_length`` passes over the songs under one clustering.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's habit: one argument per parameter
        self,
        encoder: EncoderName = "efficientnet-b0",
        n_clusters: int = 64,
        *,
        head: Literal["softmax", "arcface"] = "arcface",
        margin: float = 0.5,
        scale: float = 30.0,
        n_components: int = 256,
        n_epochs: int = 50,
        epoch_length: int = 1,
        batch_size: int = 32,
        learning_rate: float = 1e-4,
        max_minutes: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.encoder, self.n_clusters, self.head, self.margin, self.scale = encoder, n_clusters, head, margin, scale
        self.n_components, self.n_epochs, self.epoch_length, self.batch_size = (
            n_components,
            n_epochs,
            epoch_length,
            batch_size,
        )
        self.learning_rate, self.max_minutes, self.random_state = learning_rate, max_minutes, random_state

    def clusters(self, features: FloatArray, seed: int) -> IntArray:
        """Return clusters (n,) int64 of features (n, n_features)."""
        return k_means_clusters(features, self.n_clusters, self.n_components, seed)

    def fresh_head(self, features: FloatArray, labels: IntArray) -> nn.Module:
        """Return a head that knows nothing yet."""
        n_features, n_classes = features.shape[1], int(labels.max()) + 1
        if self.head == "softmax":
            return SoftmaxHead(n_features, n_classes)
        return random_arcface(n_features, n_classes, margin=self.margin, scale=self.scale)

    def view(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the images as changed at random."""
        return spec_augment(images, generator)

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return Adam."""
        groups: list[dict[str, Any]] = [{"params": list(network.parameters())}, {"params": []}]
        return torch.optim.Adam(groups, self.learning_rate)

    def patience(self) -> Convergence | None:
        """Return the rule of the source."""
        return Convergence()


def k_means_clusters(features: FloatArray, n_clusters: int, n_components: int, seed: int) -> IntArray:
    """Return clusters (n,) int64 by PCA → L2 → k-means, begun by k-means++; all in one where features do not differ."""
    if not features.std(axis=0).any():
        return features[:, 0].astype("int64") * 0
    rows = Components(n_components, random_state=seed).fit_transform(features)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: what is found is fewer clusters, which the history says.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(n_clusters, n_init=1, random_state=seed).fit_predict(rows)
    return found.astype("int64")  # type: ignore[no-any-return]  # scikit-learn has no types
