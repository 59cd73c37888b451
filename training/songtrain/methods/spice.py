"""SPICE (Niu et al. 2022): an encoder, then cluster heads on it, then both together on the labels that can be relied on.

Written from the paper; the first stage is songtrain's own contrastive warm-up. Every cluster gets equally many songs near
its prototype, so types of very unequal sizes, as song types are, are cut and merged.
"""

from collections.abc import Callable
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from songcore.arrays import FloatArray, IntArray
from songcore.presets import STREAMS
from songcore.stream import StreamConfig
from songtrain.augment.joined import joined
from songtrain.augment.store import FrameStore
from songtrain.augment.views import ViewMaker
from songtrain.datasets.songs import SongSet
from songtrain.encoders.heads import ParallelHeads
from songtrain.loop.batches import epoch_batches
from songtrain.loop.embedding import embed_store
from songtrain.loop.learner import Learner
from songtrain.loop.schedule import plan_epochs
from songtrain.loop.world import World
from songtrain.losses.prototype import double_softmax, prototype_labels
from songtrain.methods.enough_songs import check_enough
from songtrain.methods.fitting import fit_network, local_device, torch_seed
from songtrain.methods.settling import settle_on_songs
from songtrain.settings import AugmentSettings, TrainSettings, preset_for
from songtrain.stopwatch import Stopwatch

__all__ = ["PrototypeLabels", "reliable_songs"]

SONG_STREAM = STREAMS["song"]
WEAK = AugmentSettings(
    tempo=0.04,
    pitch_mels=0.5,
    crop_share=0.03,
    gain_db=2.0,
    mix_probability=0,
    background_probability=0,
    raise_floor_probability=0,
    n_masks=0,
)
"""Views in which a label is as sure as in the song itself; the strong ones are those of the settings."""
MAX_POOL = 1024
"""Songs among which prototypes are sought."""
MIN_STEPS = 10
"""Steps of the heads between two searches for prototypes: small sets are passed several times."""


class _Clusters(nn.Module):
    """Encoder and heads: songs → logits (n_heads, n, n_clusters)."""

    def __init__(self, encoder: nn.Module, heads: ParallelHeads) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, heads

    def forward(self, features: Tensor) -> Tensor:
        return self.of_codes(self.encoder(features))

    def of_codes(self, codes: Tensor) -> Tensor:
        """Return the logits of codes (n, d), or of each head's own (n_heads, n, d)."""
        # Directions, at the norm that ReLU networks are made for.
        return self.heads(normalize(codes, dim=-1) * codes.shape[-1] ** 0.5)  # type: ignore[no-any-return]  # a module's call is untyped


class _Shares(nn.Module):
    """The probabilities (n, n_clusters) of the one head that is left."""

    def __init__(self, clusters: _Clusters) -> None:
        super().__init__()
        self.clusters = clusters

    def forward(self, features: Tensor) -> Tensor:
        return self.clusters(features)[0].softmax(dim=1)  # type: ignore[no-any-return]  # a module's call is untyped


class PrototypeLabels(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The three stages on songs. ``output``: "clusters" gives probabilities (n, n_clusters), "codes" the encoder's vector.

    ``settings`` give encoder, warm-up and strong views; without, the preset for this kind of sound does. A song's label is
    reliable when more than ``least_agreement`` of its nearest songs have it; where none is, the third stage has nothing to
    begin with and does not happen.
    """

    def __init__(  # noqa: PLR0913 - one parameter per choice of the source
        self,
        n_clusters: int = 64,
        *,
        output: Literal["codes", "clusters"] = "clusters",
        n_heads: int = 10,
        n_head_epochs: int = 30,
        n_joint_epochs: int = 15,
        n_neighbours: int = 20,
        least_agreement: float = 0.95,
        least_confidence: float = 0.95,
        head_learning_rate: float = 5e-3,
        learning_rate: float = 5e-4,
        max_minutes: float | None = None,
        settings: TrainSettings | None = None,
        stream: StreamConfig = SONG_STREAM,
        random_state: int = 0,
    ) -> None:
        self.n_clusters, self.output, self.n_heads = n_clusters, output, n_heads
        self.n_head_epochs, self.n_joint_epochs = n_head_epochs, n_joint_epochs
        self.n_neighbours, self.least_agreement, self.least_confidence = n_neighbours, least_agreement, least_confidence
        self.head_learning_rate, self.learning_rate, self.max_minutes = head_learning_rate, learning_rate, max_minutes
        self.settings, self.stream, self.random_state = settings, stream, random_state

    def fit(self, X: SongSet, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Train on the songs; ``history_`` has the loss of every epoch and its stage, 1 to 3.

        ``n_epochs_`` is how many there are to be in all stages that happen.
        """
        check_enough(len(X), max(2, self.n_clusters))
        self._watch = Stopwatch()
        self._rng = np.random.default_rng(self.random_state)
        self.history_: list[dict[str, float]] = []
        with torch_seed(self.random_state):
            encoder = self._warm_up(X)
            self._store, self._lengths = FrameStore(X, local_device()), X.lengths
            self._views = {name: self._view_maker(chosen) for name, chosen in self._strengths().items()}
            heads = self._learn_heads(encoder)
            self.network_ = _Clusters(encoder, heads)
            self._learn_together()
        settle_on_songs(self.network_, self._store, self._chosen.run.batch_size, self._rng)
        del self._store, self._views, self._rng
        return self

    def transform(self, X: SongSet) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return probabilities (n, n_clusters) or codes (n, n_features), float32."""
        network = self.network_.encoder if self.output == "codes" else _Shares(self.network_)
        return embed_store(network, FrameStore(X, local_device()), np.arange(len(X), dtype=np.int64))

    @property
    def _chosen(self) -> TrainSettings:
        return self.settings or preset_for(self.stream)

    def _strengths(self) -> dict[str, AugmentSettings]:
        return {"weak": WEAK, "strong": self._chosen.augment}

    def _view_maker(self, augment: AugmentSettings) -> ViewMaker:
        maker = ViewMaker(
            self._store,
            augment,
            self.stream.frontend,
            self.stream.features,
            max_frames=self._chosen.run.max_frames,
            seed=self.random_state,
        )
        maker.seed(self.random_state)
        return maker

    def _minutes_left(self) -> float | None:
        return None if self.max_minutes is None else self.max_minutes - self._watch.seconds() / 60

    def _note(self, stage: int) -> Callable[[int, float], bool]:
        def note(epoch: int, loss: float) -> bool:
            del epoch
            self.history_.append({"loss": loss, "stage": stage})
            return False

        return note

    def _warm_up(self, songs: SongSet) -> nn.Module:
        """Stage 1: return an encoder that tells songs apart."""
        settings = self._chosen.model_copy(update={"seed": self.random_state})
        self.n_epochs_ = settings.warmup.n_epochs + self.n_head_epochs + self.n_joint_epochs
        learner = Learner(songs, settings, self.stream, device=local_device(), world=World())
        note = self._note(1)
        for epoch in plan_epochs(settings):
            left = self._minutes_left()
            if epoch.stage != "warmup" or (left is not None and left <= 0):
                break
            note(epoch.step, learner.run_epoch(epoch).loss)
        encoder: nn.Module = learner.network.encoder
        return encoder

    def _learn_heads(self, encoder: nn.Module) -> ParallelHeads:
        """Stage 2: return the head with the least loss, of several that learned from prototypes on the frozen encoder."""
        everyone = np.arange(len(self._store), dtype=np.int64)
        codes = torch.from_numpy(embed_store(encoder, self._store, everyone)).to(self._store.device)
        n = codes.shape[1]
        heads = ParallelHeads(self.n_heads, n, self.n_clusters, n_hidden=n, n_layers=2).to(codes.device)
        clusters = _Clusters(encoder, heads)
        pairs = _Pairs(
            clusters, codes, lambda strength: self._seen(encoder, strength), self._chosen.run.batch_size, self._rng
        )
        fit_network(
            lambda index: pairs.losses(index).mean(),
            torch.optim.Adam(heads.parameters(), lr=self.head_learning_rate),
            lambda _: pairs.renew(),
            n_epochs=self.n_head_epochs,
            max_minutes=self._minutes_left(),
            on_epoch=self._note(2),
        )
        with torch.no_grad():
            self.head_losses_ = pairs.losses(np.unique(np.concatenate(pairs.renew()))).cpu().numpy()
        best = int(self.head_losses_.argmin())
        alone = ParallelHeads(1, n, self.n_clusters, n_hidden=n, n_layers=2).to(codes.device)
        alone.load_state_dict({name: value[best : best + 1] for name, value in heads.state_dict().items()})
        self._codes = codes.cpu().numpy()
        with torch.inference_mode():
            self.labels_ = _Clusters(encoder, alone).of_codes(codes)[0].argmax(dim=1).cpu().numpy()
        return alone

    def _seen(self, encoder: nn.Module, strength: str) -> Tensor:
        """Codes (n, d) of all songs in one view each."""
        encoder.eval()
        with torch.no_grad():
            batches = epoch_batches(self._lengths, self._chosen.run.batch_size, self._rng)
            rows = torch.cat([encoder(self._views[strength].views(part)).float() for part in batches])
        out = torch.empty_like(rows)
        out[torch.from_numpy(np.concatenate(batches))] = rows
        return out

    def _learn_together(self) -> None:
        """Stage 3: FixMatch (Sohn et al. 2020) from the reliable labels."""
        reliable = reliable_songs(self._codes, self.labels_, self.n_neighbours, self.least_agreement)
        self.reliable_share_ = float(reliable.mean())
        del self._codes
        if not reliable.any():
            self.n_epochs_ -= self.n_joint_epochs
            return
        network, device = self.network_.train(), self._store.device
        known, labels = torch.from_numpy(reliable).to(device), torch.from_numpy(self.labels_).to(device)

        def loss_of(index: IntArray) -> Tensor:
            weak, strong = network(joined([self._views[name].views(index) for name in ("weak", "strong")]))[0].chunk(2)
            sure, guess = weak.detach().softmax(dim=1).max(dim=1)
            at = torch.from_numpy(index).to(device)
            unsure = (cross_entropy(strong, guess, reduction="none") * (sure >= self.least_confidence)).mean()
            given = (cross_entropy(weak, labels[at], reduction="none") * known[at]).sum() / known[at].sum().clamp(min=1)
            loss: Tensor = unsure + given
            return loss

        fit_network(
            loss_of,
            torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=1e-3),
            lambda _: epoch_batches(self._lengths, self._chosen.run.batch_size, self._rng),
            n_epochs=self.n_joint_epochs,
            max_minutes=self._minutes_left(),
            on_epoch=self._note(3),
        )


class _Pairs:
    """Songs with prototype labels, another set for every head and every epoch."""

    def __init__(
        self,
        clusters: _Clusters,
        codes: Tensor,
        seen: Callable[[str], Tensor],
        batch_size: int,
        rng: np.random.Generator,
    ) -> None:
        self._clusters, self._codes, self._seen = clusters, codes, seen
        self._batch_size, self._rng = batch_size, rng
        self._songs = self._labels = torch.zeros(0)
        self._strong = codes

    def renew(self) -> list[IntArray]:
        """See all songs in new views, choose prototypes by the weak ones, and return batches of pairs."""
        weak, self._strong = self._seen("weak"), self._seen("strong")
        pools = np.array_split(self._rng.permutation(len(weak)), max(1, len(weak) // MAX_POOL))
        songs, labels = [], []
        with torch.no_grad():
            probabilities = self._clusters.of_codes(weak).softmax(dim=2)
        for pool in (torch.from_numpy(part).to(self._codes.device) for part in pools):
            found = [prototype_labels(self._codes[pool], own[pool]) for own in probabilities]
            songs.append(pool[torch.stack([nearest for nearest, _ in found])])
            labels.append(torch.stack([label for _, label in found]))
        self._songs, self._labels = torch.cat(songs, dim=1), torch.cat(labels, dim=1)
        n_pairs = self._songs.shape[1]
        n_batches = max(1, round(n_pairs / self._batch_size))
        passes = [self._rng.permutation(n_pairs) for _ in range(max(1, MIN_STEPS // n_batches))]
        return [part for order in passes for part in np.array_split(order, n_batches)]

    def losses(self, index: IntArray) -> Tensor:
        """Return every head's loss (n_heads,) on these of its pairs, the songs strongly changed."""
        at = torch.from_numpy(index)
        logits = self._clusters.of_codes(self._strong[self._songs[:, at]])
        return torch.stack([double_softmax(*pair) for pair in zip(logits, self._labels[:, at], strict=True)])


def reliable_songs(codes: FloatArray, labels: IntArray, n_neighbours: int, least_agreement: float) -> NDArray[np.bool_]:
    """Return (n,) bool: whether more than ``least_agreement`` of a song's nearest songs, by cosine, have its label."""
    # Neighbours of a song of a type with fewer songs than neighbours can never agree.
    n = min(n_neighbours, max(1, len(codes) // (2 * len(np.unique(labels)))))
    nearest = NearestNeighbors(n_neighbors=n, metric="cosine").fit(codes).kneighbors(return_distance=False)
    agreement = (labels[nearest] == labels[:, None]).mean(axis=1)
    return np.asarray(agreement > least_agreement)
