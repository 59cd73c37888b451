"""The workers of one training run, as the loop sees them: alone, or one of several through torch.distributed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed

from songcore.arrays import FloatArray, IntArray

__all__ = ["World"]


@dataclass(frozen=True)
class World:
    """One worker's place among all; the default is a worker alone, which needs no process group."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> IntArray:
        """Return the indices below n that are this worker's, about as many as every other's."""
        return np.arange(self.rank, n, self.size, dtype=np.int64)

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

    def from_first(self, numbers: IntArray) -> IntArray:
        """Return the first worker's numbers on all workers; the others pass any array of that shape."""
        if self.size == 1:
            return numbers
        tensor = torch.from_numpy(np.ascontiguousarray(numbers))
        distributed.broadcast(tensor, 0)
        return np.asarray(tensor.numpy(), np.int64)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Set the gradients of parameters outside the wrapped network to the mean over all workers."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self.size
