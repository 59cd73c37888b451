"""Normalisation statistics of the songs themselves, where training saw none of them or only views."""

import numpy as np
import torch
from torch import nn

from songtrain.augment.store import FrameStore
from songtrain.loop.batches import epoch_batches

__all__ = ["settle_on_songs"]


def settle_on_songs(network: nn.Module, store: FrameStore, batch_size: int, rng: np.random.Generator) -> None:
    """Make the statistics of all batch normalisations those of the songs as they are; evaluation mode afterwards."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # torch's way of asking for the plain mean over batches
    network.train()
    with torch.inference_mode():
        for part in epoch_batches(store.lengths.cpu().numpy(), batch_size, rng):
            network(store.plain(part))
    network.eval()
