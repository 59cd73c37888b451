"""Which number format trains faster on this machine."""

import torch
from torch import Tensor, nn

from songtrain.stopwatch import Stopwatch

__all__ = ["is_faster_in_bfloat16", "multiplies_bfloat16"]


def is_faster_in_bfloat16(network: nn.Module, features: Tensor, *, n_trials: int = 2) -> bool:
    """Return True when forward and backward of this batch take less time with bfloat16 autocast than without.

    Processors with AMX or AVX-512 bf16 and GPUs gain about a factor of two; others lose. The network is left as it was,
    but for gradients, which are cleared.
    """
    state = {name: value.clone() for name, value in network.state_dict().items()}
    times = {
        enabled: min(_step_time(network, features, enabled=enabled) for _ in range(n_trials + 1))
        for enabled in (False, True)
    }
    network.load_state_dict(state)
    network.zero_grad(set_to_none=True)
    return times[True] < times[False]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return True on GPUs, and on processors that multiply bfloat16 matrices at once."""
    known = torch.cpu.get_capabilities()
    return device.type == "cuda" or bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def _step_time(network: nn.Module, features: Tensor, *, enabled: bool) -> float:
    watch = Stopwatch()
    with torch.autocast(features.device.type, torch.bfloat16, enabled=enabled):
        out = network(features)
    sum(part.float().sum() for part in out).backward()
    if features.is_cuda:
        torch.cuda.synchronize()
    return watch.seconds()
