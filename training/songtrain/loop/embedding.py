"""Pass all songs through a network, without gradients."""

import numpy as np
import torch
from torch import nn

from songcore.arrays import FloatArray, IntArray
from songtrain.augment.store import FrameStore

__all__ = ["embed_store"]

BATCH_FRAMES = 16_384
"""Frames in a batch: bounds memory whatever the songs' lengths."""


def embed_store(network: nn.Module, store: FrameStore, indices: IntArray) -> FloatArray:
    """Return the network's output (n, d) float32 for the songs at ``indices``, in evaluation mode and float32."""
    lengths = store.lengths.cpu().numpy()[indices]
    was_training = network.training
    network.eval()
    rows: list[FloatArray] = []
    order = np.argsort(lengths, kind="stable")
    begin = 0
    with torch.inference_mode():
        while begin < len(order):
            # Songs are in order of length: a batch holds songs of one length, as serving does.
            length = int(lengths[order[begin]])
            n_same = int(np.searchsorted(lengths[order], length, side="right")) - begin
            part = order[begin : begin + min(n_same, max(1, BATCH_FRAMES // length))]
            rows.append(network(store.plain(indices[part])).float().cpu().numpy())
            begin += len(part)
    network.train(was_training)
    if not rows:
        return np.empty((0, 0), np.float32)
    out = np.empty((len(indices), rows[0].shape[1]), np.float32)
    out[order] = np.concatenate(rows)
    return out
