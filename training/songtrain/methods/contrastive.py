"""Networks that learn from two views of every song: they differ in views, heads and loss alone."""

from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Generator, Tensor, nn

from songcore.arrays import FloatArray, IntArray
from songtrain.augment.images import erase, translate
from songtrain.encoders.images import EncoderName, ImageEncoder
from songtrain.losses.contrastive import nt_xent
from songtrain.losses.contrastive_clusters import column_loss
from songtrain.methods.enough_songs import differing_images
from songtrain.methods.fitting import encode, fit_network, local_device, shuffled, torch_seed

__all__ = ["ContrastiveClustering", "SimCLR", "TwoViewEncoder", "TwoViews", "projection_head"]


class TwoViews(nn.Module):
    """An encoder with the heads that only training uses."""

    encoder: nn.Module

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of two views (n, n_frames, n_bands) of the same songs."""
        raise NotImplementedError

    def codes(self, images: Tensor) -> Tensor:
        """Return what `transform` gives, (n, d)."""
        return self.encoder(images)  # type: ignore[no-any-return]  # a module's call is untyped


class TwoViewEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Trains what `_network` gives on views that `_view` makes, with Adam."""

    n_epochs: int
    batch_size: int
    learning_rate: float
    max_minutes: float | None
    random_state: int

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Train on images (n, n_frames, n_bands); ``history_`` has the loss of every finished epoch."""
        images = differing_images(X, self._least_songs())
        rng, device = np.random.default_rng(self.random_state), local_device()
        generator = Generator(device).manual_seed(self.random_state)
        with torch_seed(self.random_state):
            network = self._network(images.shape[2]).to(device).train()
            self._pool = torch.from_numpy(images).to(device)

            def loss_of(index: IntArray) -> Tensor:
                batch = self._pool[torch.from_numpy(index).to(device)]
                return network.loss(self._view(batch, generator), self._view(batch, generator))

            losses = fit_network(
                loss_of,
                torch.optim.Adam((p for p in network.parameters() if p.requires_grad), self.learning_rate),
                lambda _: shuffled(len(images), self.batch_size, rng),
                n_epochs=self.n_epochs,
                max_minutes=self.max_minutes,
            )
            del self._pool
        self.network_ = network.eval()
        self.history_ = [{"loss": loss} for loss in losses]
        return self

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return one vector per image, (n, d) float32."""
        return encode(self.network_.codes, np.ascontiguousarray(X, np.float32))

    def _network(self, n_bands: int) -> TwoViews:
        raise NotImplementedError

    def _least_songs(self) -> int:
        return 2

    def _view(self, images: Tensor, generator: Generator) -> Tensor:
        """Return a random view of every image: moved, and some with a part erased."""
        return erase(translate(images, generator), generator)


def projection_head(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Return the two-layer head of SimCLR and BYOL."""
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.BatchNorm1d(n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_out))


class SimCLR(TwoViewEncoder):
    """SimCLR (Chen et al. 2020): two views of a song are alike and unlike all other songs of the batch."""

    def __init__(
        self,
        encoder: EncoderName = "resnet-18",
        temperature: float = 0.5,
        n_epochs: int = 20,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        max_minutes: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.encoder, self.temperature = encoder, temperature
        self.n_epochs, self.batch_size, self.learning_rate = n_epochs, batch_size, learning_rate
        self.max_minutes, self.random_state = max_minutes, random_state

    def _network(self, n_bands: int) -> TwoViews:
        return _Projected(self.encoder, n_bands, self.temperature)


class _Projected(TwoViews):
    """A projection and NT-Xent on it."""

    def __init__(self, encoder: EncoderName, n_bands: int, temperature: float) -> None:
        super().__init__()
        self.encoder = ImageEncoder(encoder, n_bands)
        self.project = projection_head(self.encoder.n_features, self.encoder.n_features, 128)
        self.temperature = temperature

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return NT-Xent of the projections; both views pass the network as one batch, as in the paper."""
        a, b = self.project(self.encoder(torch.cat([first, second]))).chunk(2)
        return nt_xent(a, b, self.temperature)


class ContrastiveClustering(TwoViewEncoder):
    """Contrastive clustering (Li et al. 2021): an instance head on the rows, a cluster head on the columns, together.

    ``output``: "clusters" gives every song's shares in the ``n_clusters`` clusters, "codes" the encoder's vector.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's habit: one argument per parameter
        self,
        encoder: EncoderName = "light",
        n_clusters: int = 64,
        *,
        output: Literal["codes", "clusters"] = "clusters",
        temperature: float = 0.5,
        cluster_temperature: float = 1.0,
        n_epochs: int = 20,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        max_minutes: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.encoder, self.n_clusters, self.output = encoder, n_clusters, output
        self.temperature, self.cluster_temperature = temperature, cluster_temperature
        self.n_epochs, self.batch_size, self.learning_rate = n_epochs, batch_size, learning_rate
        self.max_minutes, self.random_state = max_minutes, random_state

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return shares (n, n_clusters) or codes (n, d), float32."""
        network: Any = self.network_
        images = np.ascontiguousarray(X, np.float32)
        return encode(network.shares, images) if self.output == "clusters" else encode(network.codes, images)

    def _least_songs(self) -> int:
        return max(2, self.n_clusters)

    def _network(self, n_bands: int) -> TwoViews:
        return _TwoHeads(self.encoder, n_bands, self.n_clusters, (self.temperature, self.cluster_temperature))


class _TwoHeads(TwoViews):
    """A projection for songs and soft clusters, each with a contrastive loss of its own; their sum (eq. 8)."""

    def __init__(self, encoder: EncoderName, n_bands: int, n_clusters: int, temperatures: tuple[float, float]) -> None:
        super().__init__()
        self.encoder = ImageEncoder(encoder, n_bands)
        n = self.encoder.n_features
        self.project = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 128))
        self.assign = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n_clusters), nn.Softmax(dim=1))
        self.temperature, self.cluster_temperature = temperatures

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the sum of both heads' losses; both views pass the network as one batch."""
        codes = self.encoder(torch.cat([first, second]))
        rows, other_rows = self.project(codes).chunk(2)
        shares, other_shares = self.assign(codes).chunk(2)
        songs = nt_xent(rows, other_rows, self.temperature)
        return songs + column_loss(shares, other_shares, self.cluster_temperature)

    def shares(self, images: Tensor) -> Tensor:
        """Return the share of every image in every cluster, (n, n_clusters)."""
        return self.assign(self.encoder(images))  # type: ignore[no-any-return]  # nn.Sequential is untyped
