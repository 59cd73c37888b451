"""Training steps on a GPU as replays of one recorded step."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["replayed"]


class _Calls(nn.Module):
    """A network by another object: recording replaces the forward method of what is recorded, for good."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's output."""
        return self.network(images)  # type: ignore[no-any-return]  # nn


def replayed(network: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the network for training; on a GPU batches shaped like ``images`` are replays of one recorded CUDA graph.

    A deep network on small batches keeps a GPU waiting for the processor, which starts its hundreds of kernels one by one;
    a replay starts all of them at once, where compiling the network gained nothing. Batches of another shape, and everything
    on a processor, go the usual way. The network is left as it was.
    """
    if images.device.type != "cuda":
        return network
    state = {name: value.clone() for name, value in network.state_dict().items()}
    # Gradients come from where the step was recorded, which torch would warn of at every step.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    recorded = torch.cuda.make_graphed_callables(_Calls(network), (images.clone(),), allow_unused_input=True)
    network.load_state_dict(state)
    shape = images.shape

    def call(batch: Tensor) -> Tensor:
        found = recorded(batch) if batch.shape == shape else network(batch)
        return cast("Tensor", found)

    return call
