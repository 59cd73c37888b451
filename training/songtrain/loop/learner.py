"""The training loop on one worker: warm-up and self-labelling rounds, epoch by epoch.

It knows neither Ray nor files; a run can be left after any epoch with `state` and taken up with `restore`. Every random
number follows from the settings' seed and the epoch, so a resumed run sees what an uninterrupted one would have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import normalize
from torch import Tensor, nn

from songcore.arrays import FloatArray, IntArray
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.augment.views import ViewMaker
from songtrain.clusterers.density import DensityClusterer
from songtrain.clusterers.matching import agreement
from songtrain.datasets.songs import SongSet
from songtrain.encoders.beside import fit_beside, with_beside
from songtrain.encoders.build import build_encoder
from songtrain.encoders.network import AnyEncoder, Beside, SongNetwork, SteadyEncoder, TrainingOutput
from songtrain.evaluation.collapse import CollapseError, check_clusters, check_embeddings, check_variation
from songtrain.loop.batches import epoch_batches, mutual_neighbours, sampling_weights
from songtrain.loop.embedding import embed_store
from songtrain.loop.precision import is_faster_in_bfloat16
from songtrain.loop.schedule import Epoch, learning_rate
from songtrain.loop.steadying import steady_weights
from songtrain.loop.world import World
from songtrain.losses.arcface import class_means, make_arcface
from songtrain.losses.contrastive import nt_xent
from songtrain.reducers.components import UnitComponents
from songtrain.settings import TrainSettings

__all__ = ["EpochResult", "Learner"]

WEIGHT_DECAY = 1e-3
PROXY_RATE = 10.0
"""Proxies learn this much faster than the network, which moves under them."""


@dataclass(frozen=True)
class EpochResult:
    """What an epoch did."""

    loss: float
    n_songs: int
    """Songs seen, each in two views."""
    n_clusters: int | None = None
    """Clusters whose labels were learned; None in the warm-up."""
    core_share: float | None = None
    kept_share: float | None = None
    """Share of core songs that kept their cluster since the round before."""
    effective_rank: float | None = None


class Learner:
    """Network, optimiser and current labels of one worker."""

    def __init__(
        self,
        songs: SongSet,
        settings: TrainSettings,
        stream: StreamConfig,
        *,
        device: torch.device,
        world: World,
        wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self._stream, self._world, self._device = settings, stream, world, device
        self.store = FrameStore(songs, device)
        self._views = ViewMaker(
            self.store,
            settings.augment,
            stream.frontend,
            stream.features,
            max_frames=settings.run.max_frames,
            seed=settings.seed,
        )
        self.network = SongNetwork(build_encoder(settings.encoder, stream.frontend.n_mels)).to(device)
        self.network.to(memory_format=self.network.encoder.memory_format)  # type: ignore[call-overload]  # torch's stub
        self._lengths = songs.lengths
        self._use_bfloat16 = self._choose_precision()
        self._wrapped = wrap(self.network)
        self._optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=WEIGHT_DECAY)
        self._arcface: Any = None
        self.labels: list[IntArray] = []
        """Core labels (n,) of every round so far, -1 for songs in no core."""

    def run_epoch(self, epoch: Epoch) -> EpochResult:
        """Train one epoch; the first of a round clusters the songs before.

        Raises CollapseError when the network, its embeddings or their clusters have collapsed, or the loss is no number.
        """
        rng = np.random.default_rng([self.settings.seed, epoch.index, self._world.rank])
        # The order of songs must be known to all workers, their views need not.
        order = np.random.default_rng([self.settings.seed, epoch.index])
        self._views.seed(int(rng.integers(2**62)))
        # For what draws by itself, as dropout does.
        torch.manual_seed(
            int(np.random.default_rng([self.settings.seed, epoch.index, self._world.rank, 1]).integers(2**62))
        )
        if epoch.stage == "warmup":
            return self._warm_up(epoch, order, rng)
        facts = self._label_anew() if epoch.opens_stage else {}
        weights = sampling_weights(self.labels[-1], self.settings.rounds.sampling_exponent)
        loss, n = self._train(epoch, order, self._self_label_loss, self.settings.rounds.learning_rate, weights)
        return EpochResult(loss, n, n_clusters=len(self._arcface.W.T), **facts)

    def pooled(self) -> FloatArray:
        """Return pooled features (n, n_features) float32 of all songs, the same on all workers."""
        return self._pooled(self.network.encoder)

    def steady_encoder(self) -> SteadyEncoder:
        """Return the encoder as it is now, with the layer that makes its output steady; the same on all workers."""
        encoder = self.whole_encoder()
        weights = steady_weights(encoder, self.store, self.settings, self._stream)
        return SteadyEncoder(encoder, self._world.from_first(weights)).to(self._device)

    def whole_encoder(self) -> AnyEncoder:
        """Return the network's encoder, with what the settings want beside it."""
        if self._beside is None:
            self._beside = fit_beside(self.settings, self._stream.features, self.store)
            for buffer in (buffer for part in self._beside for buffer in part.buffers()):
                buffer.copy_(torch.from_numpy(self._world.from_first(buffer.cpu().numpy())))
        return with_beside(self.network.encoder, self._beside)

    def _embeddings(self) -> tuple[FloatArray, FloatArray, float]:
        """Return all songs as they would be served now, unit rows (n, d), by the network's own part alone, and its rank.

        Raises CollapseError when the network's part has collapsed, whatever stands beside it.
        """
        size, seed = self.settings.encoder.dimension, self.settings.seed
        encoder = self.whole_encoder()
        rows = self._pooled(encoder)
        own = normalize(rows[:, : self.network.encoder.n_features])
        check_variation(own)
        own = UnitComponents(size, seed).fit_transform(own)
        rank = check_embeddings(own)
        weights = steady_weights(encoder, self.store, self.settings, self._stream)
        embeddings = UnitComponents(size, seed).fit_transform(normalize(rows) @ weights.T)
        # The first worker's: the last bits of a decomposition differ between machines.
        return self._world.from_first(embeddings), own, rank

    def _pooled(self, network: nn.Module) -> FloatArray:
        mine = embed_store(network, self.store, self._world.share(len(self.store)))
        return self._world.gather_rows(mine, len(self.store))

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        labels = np.stack(self.labels) if self.labels else np.empty((0, len(self.store)), np.int64)
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "proxies": None if self._arcface is None else self._arcface.W.detach(),
            "labels": torch.from_numpy(labels),
            "neighbours": None if self._neighbours is None else torch.from_numpy(self._neighbours),
            "device": self._device.type,
            "bfloat16": self._use_bfloat16,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.network.load_state_dict(state["network"])
        self.labels = list(state["labels"].numpy())
        self._neighbours = None if state["neighbours"] is None else state["neighbours"].numpy()
        if state["proxies"] is not None:
            self._new_round(state["proxies"].T)
        self._optimizer.load_state_dict(state["optimizer"])
        if state["device"] == self._device.type:  # on another one the other format may be far quicker
            self._use_bfloat16 = state["bfloat16"]

    _beside: list[Beside] | None = None
    _neighbours: IntArray | None = None
    """(n, k) mutual neighbours of every song, -1 where there is none; None before they are used."""

    def _warm_up(self, epoch: Epoch, order: np.random.Generator, rng: np.random.Generator) -> EpochResult:
        settings, rank = self.settings.warmup, None
        if epoch.step >= settings.neighbours_from_epoch and settings.neighbour_probability:
            embeddings, _, rank = self._embeddings()
            self._neighbours = mutual_neighbours(embeddings, settings.n_neighbours)

        def loss(index: IntArray) -> Tensor:
            partners = self._partners(index, rng)
            first, second = self._two_views(index, partners)
            same = self._neighbour_pairs(self._world.gather_batch(index))
            return self._contrastive(first, second, same) + 0 * first.embedding.sum()

        mean_loss, n = self._train(epoch, order, loss, settings.learning_rate, None)
        return EpochResult(mean_loss, n, effective_rank=rank)

    def _partners(self, index: IntArray, rng: np.random.Generator) -> IntArray:
        """Return for every song the one whose view it shall attract: itself or a random mutual neighbour."""
        if self._neighbours is None:
            return index
        choices = self._neighbours[index]
        score = rng.random(choices.shape) * (choices >= 0)
        chosen = choices[np.arange(len(index)), score.argmax(axis=1)]
        use = (chosen >= 0) & (rng.random(len(index)) < self.settings.warmup.neighbour_probability)
        return np.where(use, chosen, index)

    def _neighbour_pairs(self, index: IntArray) -> Tensor:
        same = index[:, None] == index[None, :]
        if self._neighbours is not None:
            same |= (self._neighbours[index][:, :, None] == index[None, None, :]).any(axis=1)
        return torch.from_numpy(same).to(self._device)

    def _label_anew(self) -> dict[str, float]:
        """Cluster all songs; their dense cores are the labels of the coming round."""
        embeddings, own, rank = self._embeddings()
        core = np.zeros(len(embeddings), np.int64)
        if self._world.rank == 0:
            s = self.settings.clusters
            clusterer = DensityClusterer(s.min_cluster_size, s.min_samples, s.fill_neighbours, s.min_share)
            core = clusterer.fit(embeddings).core_labels_
        core = self._world.from_first(core)
        check_clusters(core, max_share=self.settings.clusters.max_share)
        check_embeddings(own, n_types=int(core.max()) + 1, rank=rank)
        kept = agreement(self.labels[-1], core) if self.labels else None
        self.labels.append(core)
        heads = self._heads()
        self._new_round(class_means(heads, torch.from_numpy(core)).to(self._device))
        facts = {"core_share": float((core >= 0).mean()), "effective_rank": rank}
        return facts if kept is None else {**facts, "kept_share": kept}

    def _heads(self) -> Tensor:
        """Embeddings (n, 128) of all songs as ArcFace sees them."""
        return torch.from_numpy(self._pooled(nn.Sequential(self.network.encoder, self.network.embed)))

    def _new_round(self, means: Tensor) -> None:
        rounds = self.settings.rounds
        self._arcface = make_arcface(means, margin_degrees=rounds.margin_degrees, scale=rounds.scale).to(self._device)
        groups: list[dict[str, Any]] = [
            {"params": list(self.network.parameters())},
            {"params": [self._arcface.W], "rate": PROXY_RATE, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)

    def _self_label_loss(self, index: IntArray) -> Tensor:
        first, second = self._two_views(index, index)
        labels = torch.from_numpy(self.labels[-1][index]).to(self._device)
        known = labels >= 0
        same = self._same_songs(self._world.gather_batch(index))
        loss: Tensor = self.settings.rounds.contrastive_weight * self._contrastive(first, second, same)
        if known.any():
            embeddings = torch.cat([first.embedding[known], second.embedding[known]]).float()
            loss = loss + self._arcface(embeddings, labels[known].repeat(2))
        # Every parameter takes part in every step, as distributed workers expect.
        unused: Tensor = 0 * first.embedding.sum() + 0 * self._arcface.W.sum()
        return loss + unused

    def _same_songs(self, index: IntArray) -> Tensor:
        """Pairs (n, n) bool of one cluster, or of one song."""
        labels = self.labels[-1][index]
        same = (labels[:, None] == labels) & (labels >= 0)
        return torch.from_numpy(same | (index[:, None] == index)).to(self._device)

    def _contrastive(self, first: TrainingOutput, second: TrainingOutput, same: Tensor) -> Tensor:
        one, other = (self._world.gather_outputs(view.projection) for view in (first, second))
        return nt_xent(one, other, self.settings.warmup.temperature, same)

    def _two_views(self, index: IntArray, partners: IntArray) -> tuple[TrainingOutput, TrainingOutput]:
        """Both views in one pass: gradients of distributed workers are averaged once per pass."""
        first, second = self._views.views(index), self._views.views(partners)
        width = max(first.shape[3], second.shape[3])
        padded = [nn.functional.pad(view, (0, width - view.shape[3])) for view in (first, second)]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._use_bfloat16):
            out = self._wrapped(torch.cat(padded))
        n = len(index)
        return TrainingOutput(*(part[:n] for part in out)), TrainingOutput(*(part[n:] for part in out))

    def _train(
        self,
        epoch: Epoch,
        order: np.random.Generator,
        loss_of: Callable[[IntArray], Tensor],
        peak_rate: float,
        weights: FloatArray | None,
    ) -> tuple[float, int]:
        world, total, n_seen = self._world, 0.0, 0
        batches = epoch_batches(
            self._lengths,
            world.batch_size(self.settings.run.batch_size),
            order,
            weights,
            rank=world.rank,
            n_ranks=world.size,
        )
        self.network.train()
        for number, index in enumerate(batches):
            rate = learning_rate(peak_rate, (epoch.step + number / len(batches)) / epoch.n_steps)
            for group in self._optimizer.param_groups:
                group["lr"] = rate * group.get("rate", 1.0)
            self._optimizer.zero_grad(set_to_none=True)
            loss = loss_of(index)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            if self._arcface is not None:
                world.average_gradients([self._arcface.W])
            nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self._optimizer.step()
            total, n_seen = total + float(loss.detach()) * len(index), n_seen + len(index)
        world.average_buffers(self.network)
        total, n_all = world.total(total, n_seen)
        if not isfinite(total):
            raise CollapseError(
                f"the loss of epoch {epoch.index + 1} is {total}; lower warmup.learning_rate or rounds.learning_rate",
                reason="TRAINING_DIVERGED",
            )
        return total / n_all, int(n_all)

    def _choose_precision(self) -> bool:
        if self.settings.run.precision != "auto":
            return self.settings.run.precision == "bfloat16"
        n = min(len(self.store), self.settings.run.batch_size)
        chosen = is_faster_in_bfloat16(
            self.network, self.store.plain(np.arange(n, dtype=np.int64))[..., : self.settings.run.max_frames]
        )
        return bool(self._world.from_first(np.asarray([int(chosen)]))[0])
