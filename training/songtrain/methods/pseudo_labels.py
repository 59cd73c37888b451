"""Networks that learn the clusters of their own features, found anew before every epoch."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import normalized_mutual_info_score
from torch import Generator, Tensor, nn

from songcore.arrays import FloatArray, IntArray
from songtrain.encoders.images import EncoderName, ImageEncoder
from songtrain.methods.enough_songs import differing_images
from songtrain.methods.fitting import (
    encode,
    fit_network,
    local_device,
    n_batches,
    settle_norms,
    torch_seed,
    usual_size,
)
from songtrain.methods.replay import replayed

__all__ = ["Convergence", "PseudoLabelEncoder", "clusters_of", "in_order_of_songs", "is_collapsed", "uniform_batches"]

MAX_SHARE = 0.6
"""A cluster with more of the songs is a collapse. Two clusterings with nearly all songs in one cluster agree perfectly."""


class PseudoLabelEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Features of all songs → clusters → a fresh head that tells these apart, trained for one epoch; and again.

    ``history_`` has of every finished epoch: loss, n_clusters, largest_share, collapsed (1 or 0), and from the second one nmi,
    the agreement with the clusters of the epoch before. ``labels_`` are the clusters of the final features, ``collapsed_``
    whether these have. A collapse is no convergence, but no error either: the laboratory marks such rows.
    """

    encoder: EncoderName
    n_clusters: int
    n_epochs: int
    epoch_length: int = 1
    """Passes over the songs between two clusterings."""
    batch_size: int
    max_minutes: float | None
    random_state: int

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Train on images (n, n_frames, n_bands)."""
        if self.epoch_length < 1:
            raise ValueError(f"epoch_length is {self.epoch_length}; an epoch passes the songs once at least")
        images = differing_images(X, max(2, self.n_clusters))
        with torch_seed(self.random_state):
            course = _Course(self, images)
            fit_network(
                course.loss_of,
                course.optimizer,
                course.batches_of,
                n_epochs=self.n_epochs,
                max_minutes=self.max_minutes,
                on_epoch=course.end_epoch,
            )
        self.network_, self.history_ = course.network.eval(), course.history
        self.labels_ = self.clusters(encode(self.network_, images), self.random_state)
        self.collapsed_ = is_collapsed(self.labels_)
        return self

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return the encoder's features (n, n_features) float32."""
        return encode(self.network_, np.ascontiguousarray(X, np.float32))

    def clusters(self, features: FloatArray, seed: int) -> IntArray:
        """Return clusters (n,) int64 of features (n, n_features)."""
        raise NotImplementedError

    def fresh_head(self, features: FloatArray, labels: IntArray) -> nn.Module:
        """Return a fresh head: called with features and labels of a batch it gives the loss."""
        raise NotImplementedError

    def view(self, images: Tensor, generator: Generator) -> Tensor:
        """Return a random view of every image."""
        raise NotImplementedError

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return an optimizer with the network's parameters as first group and an empty second one, the head's."""
        raise NotImplementedError

    def patience(self) -> "Convergence | None":
        """Return what ends training early, if anything does."""
        return None


class _Course:
    """One training: the network, and what changes from epoch to epoch."""

    def __init__(self, method: PseudoLabelEncoder, images: FloatArray) -> None:
        self._method, self._images = method, images
        self._rng = np.random.default_rng(method.random_state)
        self._device = local_device()
        self._generator = Generator(self._device).manual_seed(method.random_state)
        self._patience = method.patience()
        self.network = ImageEncoder(method.encoder, images.shape[2]).to(self._device).train()
        settle_norms(self.network, images)
        # On a GPU all images lie in its memory: no batch waits for a copy.
        self._stock = torch.from_numpy(images).to(self._device)
        self._trained = replayed(self.network, self._stock[: usual_size(len(images), method.batch_size)])
        self.optimizer = method.make_optimizer(self.network)
        self.labels: IntArray | None = None
        self.history: list[dict[str, float]] = []

    def batches_of(self, epoch: int) -> list[IntArray]:  # noqa: ARG002 - the loop's signature
        """Find the clusters anew, with a head that knows nothing of the last ones; return the epoch's batches."""
        method = self._method
        features = encode(self.network, self._images)
        before = self.labels
        # Numbered by their first song: how k-means happens to number its clusters changes nothing.
        labels = in_order_of_songs(method.clusters(features, int(self._rng.integers(2**31))))
        share = float(np.bincount(labels).max() / len(labels))
        self._found = {
            "n_clusters": float(labels.max() + 1),
            "largest_share": share,
            "collapsed": float(is_collapsed(labels)),
        }
        if before is not None:
            self._found["nmi"] = float(normalized_mutual_info_score(before, labels))
        self.labels, self._targets = labels, torch.from_numpy(labels).to(self._device)
        self._head = method.fresh_head(features, labels).to(self._device)
        group = self.optimizer.param_groups[1]
        for old in group["params"]:
            self.optimizer.state.pop(old, None)
        group["params"] = list(self._head.parameters())
        passes = [uniform_batches(labels, method.batch_size, self._rng) for _ in range(method.epoch_length)]
        return [batch for batches in passes for batch in batches]

    def loss_of(self, index: IntArray) -> Tensor:
        """Return the head's loss on views of these songs."""
        at = torch.from_numpy(index).to(self._device)
        features = self._trained(self._method.view(self._stock[at], self._generator))
        return self._head(features, self._targets[at])  # type: ignore[no-any-return]  # nn

    def end_epoch(self, epoch: int, loss: float) -> bool:  # noqa: ARG002 - the loop's signature
        """Write the epoch down; True when the clusters have stopped changing."""
        self.history.append({"loss": loss} | self._found)
        if self._patience is None or "nmi" not in self._found:
            return False
        return self._patience.is_reached(self._found["nmi"], collapsed=bool(self._found["collapsed"]))


@dataclass
class Convergence:
    """Ends training when the agreement of consecutive clusterings has not gained ``min_gain`` for ``n_epochs``."""

    min_gain: float = 0.005
    n_epochs: int = 10
    best: float = -np.inf
    n_waited: int = 0

    def is_reached(self, nmi: float, *, collapsed: bool) -> bool:
        """Take in one epoch; a collapsed one, which agrees with the next for no good reason, begins the wait anew."""
        if collapsed:
            self.n_waited = 0
        elif nmi >= self.best + self.min_gain:
            self.best, self.n_waited = nmi, 0
        else:
            self.n_waited += 1
        return self.n_waited >= self.n_epochs


def is_collapsed(labels: IntArray) -> bool:
    """Return True when labels (n,) hold fewer than two clusters, or one with more than 60 % of the songs."""
    counts = np.bincount(labels)
    return bool(np.count_nonzero(counts) < 2 or counts.max() > MAX_SHARE * len(labels))


def in_order_of_songs(labels: IntArray) -> IntArray:
    """Return the same clusters numbered from 0 without gaps, in the order in which songs bring them up."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def clusters_of(labels: IntArray) -> list[IntArray]:
    """Return the songs of every cluster that is not empty, made anew from labels (n,): every song is in one list."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def uniform_batches(labels: IntArray, batch_size: int, rng: np.random.Generator) -> list[IntArray]:
    """Return batches with as many draws as there are songs, equally many of every cluster (one more or less).

    Within a cluster no song comes again before all have come.
    """
    n, members = len(labels), clusters_of(labels)
    each = np.full(len(members), n // len(members))
    each[rng.permutation(len(members))[: n % len(members)]] += 1
    drawn = []
    for songs, count in zip(members, each, strict=True):
        rounds = [rng.permutation(songs) for _ in range(-(-count // len(songs)))]
        drawn.append(np.concatenate([*rounds, songs[:0]])[:count])
    return np.array_split(rng.permutation(np.concatenate(drawn)), n_batches(n, batch_size))
