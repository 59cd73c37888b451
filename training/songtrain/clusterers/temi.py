"""TEMI (Adaloglou et al. 2023): cluster heads learned on frozen embeddings, by what nearest neighbours agree on.

Written from the paper. Sixteen pairs of a student and a teacher that follows it slowly; the pair with the least loss decides.
"""

from copy import deepcopy
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from songcore.arrays import FloatArray, IntArray
from songtrain.encoders.heads import ParallelHeads
from songtrain.losses.pointwise import head_agreement, pointwise_information
from songtrain.methods.fitting import fit_network, local_device

__all__ = ["NeighbourHeads"]

PRIOR_MOMENTUM = 0.9
SONGS_PER_NEIGHBOUR = 20
"""At least: fifty neighbours of three hundred songs would span several types."""


class NeighbourHeads(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Cluster rows (n, d) of a frozen encoder; ``labels_`` (n,) int64, fewer than ``n_clusters`` where heads leave some empty.

    Wider heads (the source has 512 for embeddings of 768 values) cost time in proportion. An epoch passes small sets
    several times, until ``min_steps`` are done: heads that follow by 0.4 % a step need hundreds of steps.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - one parameter per choice of the source
        self,
        n_clusters: int = 64,
        n_neighbours: int = 50,
        n_heads: int = 16,
        n_hidden: int = 128,
        beta: float = 0.6,
        temperature: float = 0.1,
        momentum: float = 0.996,
        n_epochs: int = 100,
        min_steps: int = 20,
        batch_size: int = 256,
        learning_rate: float = 5e-4,
        max_minutes: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.n_clusters, self.n_neighbours, self.n_heads, self.n_hidden = n_clusters, n_neighbours, n_heads, n_hidden
        self.beta, self.temperature, self.momentum = beta, temperature, momentum
        self.n_epochs, self.min_steps, self.batch_size = n_epochs, min_steps, batch_size
        self.learning_rate, self.max_minutes, self.random_state = learning_rate, max_minutes, random_state

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Learn the heads; the rows' scale does not matter, their directions do."""
        torch.manual_seed(self.random_state)
        rng = np.random.default_rng(self.random_state)
        self.scale_ = float(np.linalg.norm(X, axis=1).mean()) or 1.0
        self._rows = self._prepared(X)
        self._neighbours = _nearest(X, min(self.n_neighbours, max(1, len(X) // SONGS_PER_NEIGHBOUR)))
        self._student = ParallelHeads(self.n_heads, X.shape[1], self.n_clusters, n_hidden=self.n_hidden, n_layers=3).to(
            local_device()
        )
        self.heads_ = deepcopy(self._student).requires_grad_(requires_grad=False)
        self._prior = torch.full((self.n_heads, self.n_clusters), 1 / self.n_clusters, device=local_device())
        losses = fit_network(
            lambda index: self._loss(index, rng),
            torch.optim.AdamW(self._student.parameters(), lr=self.learning_rate, weight_decay=1e-4),
            lambda _: _passes(len(X), self.batch_size, self.min_steps, rng),
            n_epochs=self.n_epochs,
            max_minutes=self.max_minutes,
        )
        self.history_ = [{"loss": loss} for loss in losses]
        self.head_losses_ = self._head_losses(rng)
        self.best_head_ = int(self.head_losses_.argmin())
        del self._rows, self._neighbours, self._student, self._prior
        self.labels_ = self.predict(X)
        return self

    def predict_proba(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return the probabilities (n, n_clusters) float32 of the best head's teacher."""
        with torch.inference_mode():
            logits = self.heads_(self._prepared(X))[self.best_head_]
        return np.asarray((logits / self.temperature).softmax(dim=1).cpu().numpy(), np.float32)

    def predict(self, X: FloatArray) -> IntArray:  # noqa: N803 - scikit-learn's signature
        """Return the likeliest cluster (n,) int64."""
        return np.asarray(self.predict_proba(X).argmax(axis=1), np.int64)

    def _prepared(self, rows: FloatArray) -> Tensor:
        """Rows of about the norm that ReLU networks are made for, one per dimension."""
        scaled = rows * (np.sqrt(rows.shape[1]) / self.scale_)
        return torch.from_numpy(np.ascontiguousarray(scaled, np.float32)).to(local_device())

    def _pair(self, index: IntArray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Songs and for each a random one of its neighbours."""
        column = rng.integers(self._neighbours.shape[1], size=len(index))
        return self._rows[torch.from_numpy(index)], self._rows[torch.from_numpy(self._neighbours[index, column])]

    def _probabilities(self, heads: ParallelHeads, songs: Tensor) -> Tensor:
        logits: Tensor = heads(songs)
        return (logits / self.temperature).softmax(dim=2)

    def _loss(self, index: IntArray, rng: np.random.Generator) -> Tensor:
        song, neighbour = self._pair(index, rng)
        with torch.no_grad():
            # The teacher follows the student's last step; at the first they are equal.
            for slow, fast in zip(self.heads_.parameters(), self._student.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.momentum)
            teacher = [self._probabilities(self.heads_, rows) for rows in (song, neighbour)]
            seen = torch.cat(teacher, dim=1).mean(dim=1)
            self._prior = torch.lerp(seen, self._prior, PRIOR_MOMENTUM)
        student = [self._probabilities(self._student, rows) for rows in (song, neighbour)]
        return self._pair_losses(student, teacher).mean()

    def _pair_losses(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Weighted losses (n_heads, n), each of both orders of the pair."""
        both = [pointwise_information(student[a], teacher[1 - a], self._prior, self.beta) for a in (0, 1)]
        return head_agreement(teacher[0], teacher[1]) * (both[0] + both[1]) / 2

    def _head_losses(self, rng: np.random.Generator) -> FloatArray:
        """Return the teachers' losses (n_heads,) over all songs."""
        totals = []
        with torch.inference_mode():
            for part in np.array_split(np.arange(len(self._rows)), max(1, len(self._rows) // 1024)):
                teacher = [self._probabilities(self.heads_, rows) for rows in self._pair(part, rng)]
                totals.append(self._pair_losses(teacher, teacher).sum(dim=1))
        return np.asarray(torch.stack(totals).sum(dim=0).cpu().numpy() / len(self._rows), np.float32)


def _nearest(rows: FloatArray, n_neighbours: int) -> IntArray:
    """Return for every row the nearest others by cosine, (n, n_neighbours)."""
    search = NearestNeighbors(n_neighbors=n_neighbours, metric="cosine").fit(rows)
    return np.asarray(search.kneighbors(return_distance=False), np.int64)


def _passes(n_songs: int, batch_size: int, min_steps: int, rng: np.random.Generator) -> list[IntArray]:
    """Return an epoch's batches: all songs in random order, again and again until there are ``min_steps``."""
    n_batches = max(1, round(n_songs / batch_size))
    n_passes = -(-min_steps // n_batches)
    return [part for _ in range(n_passes) for part in np.array_split(rng.permutation(n_songs), n_batches)]
