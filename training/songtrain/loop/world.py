"""The workers of one training run, as the loop sees them: alone, or one of several through torch.distributed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from songcore.arrays import FloatArray, IntArray

__all__ = ["World"]

Array = TypeVar("Array", bound=NDArray[Any])


@dataclass(frozen=True)
class World:
    """One worker's place among all; the default is a worker alone, which needs no process group."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> IntArray:
        """Return the indices below n that are this worker's, about as many as every other's."""
        return np.arange(self.rank, n, self.size, dtype=np.int64)

    def batch_size(self, n: int) -> int:
        """Return this worker's part of a batch of n."""
        return max(1, round(n / self.size))

    def gather_rows(self, rows: FloatArray, n: int) -> FloatArray:
        """Return (n, d): every worker's rows of its `share`, in order; the same on all workers."""
        if self.size == 1:
            return rows
        longest = -(-n // self.size)
        padded = torch.zeros(longest, rows.shape[1])
        padded[: len(rows)] = torch.from_numpy(rows)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        whole = np.empty((n, rows.shape[1]), np.float32)
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part.numpy()[: len(whole[rank :: self.size])]
        return whole

    def from_first(self, numbers: Array) -> Array:
        """Return the first worker's numbers on all workers; the others pass any array of that shape."""
        if self.size == 1:
            return numbers
        tensor = torch.tensor(numbers)
        distributed.broadcast(tensor, 0)
        return tensor.numpy().astype(numbers.dtype)  # type: ignore[return-value]  # the shape is the same, too

    def gather_batch(self, index: IntArray) -> IntArray:
        """Return the songs of this step of all workers, worker by worker; every worker has as many."""
        if self.size == 1:
            return index
        parts = [torch.empty(len(index), dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(parts, torch.from_numpy(index))
        return torch.cat(parts).numpy()

    def gather_outputs(self, outputs: Tensor) -> Tensor:
        """Return the network's outputs (n, d) for the songs of `gather_batch`.

        A loss over all of them then has, averaged over the workers, the gradient that one worker alone with all songs
        has: only this worker's rows have a gradient here, ``size`` times theirs.
        """
        if self.size == 1:
            return outputs
        parts = [torch.empty_like(outputs) for _ in range(self.size)]
        distributed.all_gather(parts, outputs.detach().contiguous())
        parts[self.rank] = self.size * outputs - (self.size - 1) * outputs.detach()
        return torch.cat(parts)

    def total(self, *values: float) -> list[float]:
        """Return the sum of every value over all workers."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor)
        return [float(value) for value in tensor]

    def average_buffers(self, network: nn.Module) -> None:
        """Set statistics that layers keep of their batches to the mean over all workers: each saw other songs."""
        if self.size == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer.div_(self.size)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Set the gradients of parameters outside the wrapped network to the mean over all workers."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self.size
