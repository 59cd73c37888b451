"""SeCu (Qian 2023): network, cluster centres and labels in one stage, kept from collapsing by a bound on the clusters' sizes.

Written from the paper. Cluster sizes of song types follow Zipf's law, so the default bound is far below the source's 0.9,
which makes all clusters nearly equal.
"""

from typing import Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor, nn
from torch.nn.functional import normalize

from songcore.arrays import FloatArray, IntArray
from songcore.presets import STREAMS
from songcore.stream import StreamConfig
from songtrain.augment.joined import joined
from songtrain.augment.store import FrameStore
from songtrain.augment.views import ViewMaker
from songtrain.clusterers.shares import BalancedLabels
from songtrain.datasets.songs import SongSet
from songtrain.encoders.build import build_encoder
from songtrain.encoders.network import N_PROJECTION
from songtrain.loop.batches import epoch_batches
from songtrain.loop.embedding import embed_store
from songtrain.losses.stable import centre_loss, representation_loss
from songtrain.methods.enough_songs import check_enough
from songtrain.methods.fitting import fit_network, local_device, torch_seed
from songtrain.methods.settling import settle_on_songs
from songtrain.settings import AugmentSettings, TrainSettings

__all__ = ["StableClusters"]

SONG_STREAM = STREAMS["song"]
CENTRE_RATE = 10.0
"""Centres learn this much faster than the network: a quick network fits whatever labels it begins with."""
MODERATE = TrainSettings(
    augment=AugmentSettings(raise_floor_probability=0.3, background_probability=0.3, mix_probability=0.2, n_masks=1)
)
"""Views that leave most of a song: in those of the recipe clusters hardly form, with nothing but the views to go by."""
MIN_BATCHES = 16
"""Batches of an epoch, at least: small sets come in small ones, or clusters would not have formed before the end."""


class _Network(nn.Module):
    """Encoder, and a projection to where the centres are."""

    def __init__(self, settings: TrainSettings, n_mels: int, n_centres: list[int]) -> None:
        super().__init__()
        self.encoder = build_encoder(settings.encoder, n_mels)
        n = self.encoder.n_features
        # The last normalisation is not the source's. Without it all songs begin in nearly one direction, which random centres
        # share or do not: two of them took every song, long before the few batches of a season had spread the songs.
        self.project = nn.Sequential(
            nn.Linear(n, n),
            nn.BatchNorm1d(n),
            nn.ReLU(),
            nn.Linear(n, N_PROJECTION),
            nn.BatchNorm1d(N_PROJECTION, affine=False),
        )
        self.centres = nn.ParameterList([nn.Parameter(normalize(torch.randn(k, N_PROJECTION))) for k in n_centres])
        self.to(memory_format=self.encoder.memory_format)  # type: ignore[call-overload]  # torch's stub

    def forward(self, features: Tensor) -> Tensor:
        """Return unit projections (n, 128)."""
        projected: Tensor = self.project(self.encoder(features))
        return normalize(projected)


class _Shares(nn.Module):
    """Network → probability of each of the first head's clusters, raised by its dual variable as in training."""

    def __init__(self, network: _Network, duals: Tensor, temperature: float) -> None:
        super().__init__()
        self.network, self.duals, self.temperature = network, duals, temperature

    def forward(self, features: Tensor) -> Tensor:
        centres = normalize(self.network.centres[0])
        songs: Tensor = self.network(features)
        return ((songs @ centres.T + self.duals) / self.temperature).softmax(dim=1)


class StableClusters(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The light encoder and ``n_heads`` clusterings, the first with ``n_clusters``, each next with as many more.

    ``settings`` give encoder, views, batches. ``output``: "clusters" gives every song its probabilities (n, n_clusters) by the
    first head, "codes" the encoder's vector (n, n_features). The source's ``dual_rate`` is 0.1, for hundreds of batches an
    epoch; a season of songs has few, so sizes must count for more in each.
    """

    def __init__(  # noqa: PLR0913 - one parameter per choice of the source
        self,
        n_clusters: int = 64,
        *,
        output: Literal["codes", "clusters"] = "clusters",
        constraint: Literal["size", "entropy"] = "size",
        least_share: float = 0.2,
        dual_rate: float = 1.0,
        n_heads: int = 10,
        song_temperature: float = 0.05,
        centre_temperature: float = 0.05,
        label_weight: float = 0.2,
        n_epochs: int = 40,
        learning_rate: float = 1e-4,
        max_minutes: float | None = None,
        settings: TrainSettings = MODERATE,
        stream: StreamConfig = SONG_STREAM,
        random_state: int = 0,
    ) -> None:
        self.n_clusters, self.output, self.constraint = n_clusters, output, constraint
        self.least_share, self.dual_rate, self.n_heads = least_share, dual_rate, n_heads
        self.song_temperature, self.centre_temperature = song_temperature, centre_temperature
        self.label_weight, self.n_epochs, self.learning_rate = label_weight, n_epochs, learning_rate
        self.max_minutes, self.settings, self.stream, self.random_state = max_minutes, settings, stream, random_state

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Train on the songs; ``history_`` has for every finished epoch the loss and how many clusters have songs."""
        check_enough(len(X), max(2, self.n_clusters))
        rng = np.random.default_rng(self.random_state)
        run, device = self.settings.run, local_device()
        store = FrameStore(X, device)
        views = ViewMaker(
            store,
            self.settings.augment,
            self.stream.frontend,
            self.stream.features,
            max_frames=run.max_frames,
            seed=self.random_state,
        )
        views.seed(self.random_state)
        batch_size = min(run.batch_size, max(32, len(X) // MIN_BATCHES))
        # A head with more centres than songs could not fill them.
        sizes = [k for head in range(self.n_heads) if (k := self.n_clusters * (head + 1)) <= len(X) or head == 0]
        self.history_: list[dict[str, float]] = []
        with torch_seed(self.random_state):
            self.network_ = _Network(self.settings, store.n_mels, sizes).to(device).train()
            step = _Step(self, views, len(X), sizes)
            fit_network(
                step.loss,
                step.optimizer,
                lambda epoch: step.begin(epoch, epoch_batches(X.lengths, batch_size, rng)),
                n_epochs=self.n_epochs,
                max_minutes=self.max_minutes,
                on_epoch=step.end,
            )
        settle_on_songs(self.network_, store, run.batch_size, rng)
        self.duals_ = step.duals()
        return self

    def transform(self, X: SongSet) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return probabilities (n, n_clusters) or codes (n, n_features), float32."""
        network = (
            self.network_.encoder
            if self.output == "codes"
            else _Shares(self.network_, self.duals_, self.song_temperature)
        )
        return embed_store(network, FrameStore(X, local_device()), np.arange(len(X), dtype=np.int64))


class _Step:
    """What is kept from one batch to the next: labels and centres of the epoch before, and the sizes of clusters."""

    def __init__(self, method: StableClusters, views: ViewMaker, n_songs: int, sizes: list[int]) -> None:
        self._method, self._views, self._network = method, views, method.network_
        self._given = [
            BalancedLabels(k, method.constraint, least_share=method.least_share, dual_rate=method.dual_rate)
            for k in sizes
        ]
        self._labels = torch.full((len(sizes), n_songs), -1, device=local_device())
        self._centres: list[Tensor] = []
        own = [p for name, p in self._network.named_parameters() if not name.startswith("centres")]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": own, "weight_decay": 1e-3},
                {
                    "params": list(self._network.centres),
                    "lr": CENTRE_RATE * method.learning_rate,
                    "weight_decay": 0.0,
                },
            ],
            lr=method.learning_rate,
        )

    def begin(self, epoch: int, batches: list[IntArray]) -> list[IntArray]:
        """Take the centres as they are for the representations of this epoch."""
        del epoch
        self._centres = [centres.detach().clone() for centres in self._network.centres]
        return batches

    def end(self, epoch: int, loss: float) -> bool:
        """Note the epoch's loss, and how many clusters of the first head have songs."""
        del epoch
        self._method.history_.append({"loss": loss, "n_used": float(len(torch.unique(self._labels[0])))})
        return False

    def duals(self) -> Tensor:
        """Return the dual variables (n_clusters,) of the first head."""
        return self._given[0].duals.to(self._labels.device)

    def loss(self, index: IntArray) -> Tensor:
        """Return the mean over heads of both losses; the labels of these songs are given anew."""
        method, songs = self._method, torch.from_numpy(index).to(self._labels.device)
        both = self._network(joined([self._views.views(index), self._views.views(index)])).view(2, len(index), -1)
        losses = []
        for head, centres in enumerate(self._network.centres):
            with torch.no_grad():
                labels = self._given[head].assign(both.mean(dim=0) @ normalize(centres).T)
                before = self._labels[head, songs]
                before = torch.where(before < 0, labels, before)
                self._labels[head, songs] = labels
            losses += [centre_loss(view, centres, labels, method.centre_temperature) for view in both]
            losses.append(
                2 * representation_loss(both, self._centres[head], before, method.song_temperature, method.label_weight)
            )
        return torch.stack(losses).sum() / (2 * len(self._network.centres))
