"""The loop that the networks of the literature share: epochs of batches until they are done, converged or out of time."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from songcore.arrays import FloatArray, IntArray
from songtrain.evaluation.collapse import CollapseError
from songtrain.stopwatch import Stopwatch

__all__ = [
    "EpochEnd",
    "encode",
    "fit_network",
    "local_device",
    "n_batches",
    "settle_norms",
    "shuffled",
    "torch_seed",
    "usual_size",
]

EpochEnd = Callable[[int, float], bool]
"""Called with the epoch's number from 0 and its mean loss; True ends the training."""


def local_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle_norms(network: nn.Module, images: FloatArray, batch_size: int = 128) -> None:
    """Make the statistics of all batch normalisations those of these images (n, ...).

    Before training they are those of nothing, and in evaluation mode a deep network gives nearly the same for all songs.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way of asking for the plain mean over batches
    was_training, device = network.training, local_device()
    network.train()
    with torch.inference_mode():
        for part in np.array_split(images, max(1, round(len(images) / batch_size))):
            network(torch.from_numpy(part).to(device))
    network.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Let torch's own draws, of weights and dropout, follow from the seed, and leave its generators as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def shuffled(n_songs: int, batch_size: int, rng: np.random.Generator) -> list[IntArray]:
    """Return all songs in random order, in batches of at least two: what is normalised over a batch needs two."""
    return np.array_split(rng.permutation(n_songs), n_batches(n_songs, batch_size))


def n_batches(n_songs: int, batch_size: int) -> int:
    """Return into how many batches songs are divided, evenly: about ``batch_size`` in each, and two at least."""
    return max(1, min(n_songs // 2, round(n_songs / batch_size)))


def usual_size(n_songs: int, batch_size: int) -> int:
    """Return how many songs most of these batches hold; the others hold one more or one less."""
    size, n_larger = divmod(n_songs, n_batches(n_songs, batch_size))
    return size + (2 * n_larger > n_batches(n_songs, batch_size))


def fit_network(
    loss_of: Callable[[IntArray], Tensor],
    optimizer: torch.optim.Optimizer,
    batches_of: Callable[[int], list[IntArray]],
    *,
    n_epochs: int,
    max_minutes: float | None = None,
    on_epoch: EpochEnd = lambda *_: False,
) -> list[float]:
    """Train for up to ``n_epochs`` and return the mean loss of every epoch that was finished.

    ``batches_of`` gives the song indices of an epoch's batches; ``loss_of`` the loss of such a batch. After ``max_minutes`` of
    `Stopwatch` no batch more is begun, so that slow networks can be compared for what they reach in the same time.
    CollapseError when the loss is not finite.
    """
    watch = Stopwatch()
    losses: list[float] = []
    for epoch in range(n_epochs):
        # Added up where it is: reading every batch's loss would let a GPU wait for the processor.
        total, n_seen = torch.zeros((), dtype=torch.float64), 0
        for index in batches_of(epoch):
            if max_minutes is not None and watch.seconds() > 60 * max_minutes:
                _check_finite(total, epoch)
                return losses
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(index)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimizer.step()
            total, n_seen = loss.detach().double() * len(index) + total.to(loss.device), n_seen + len(index)
        losses.append(_check_finite(total, epoch) / n_seen)
        if on_epoch(epoch, losses[-1]):
            break
    return losses


def _check_finite(total: Tensor, epoch: int) -> float:
    loss = float(total)
    if not math.isfinite(loss):
        raise CollapseError(
            f"the loss of epoch {epoch + 1} is {loss}; lower the learning rate", reason="TRAINING_DIVERGED"
        )
    return loss


def encode(network: nn.Module | Callable[[Tensor], Tensor], images: FloatArray, batch_size: int = 128) -> FloatArray:
    """Return the network's output (n, d) float32 for images (n, ...), in evaluation mode, without gradients."""
    device = local_device()
    was_training = isinstance(network, nn.Module) and network.training
    if isinstance(network, nn.Module):
        network.eval()
    with torch.inference_mode():
        rows = [
            network(torch.from_numpy(images[i : i + batch_size]).to(device)).float().cpu().numpy()
            for i in range(0, len(images), batch_size)
        ]
    if isinstance(network, nn.Module):
        network.train(was_training)
    return np.concatenate(rows)
