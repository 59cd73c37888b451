"""Songs as tensors: one table of frames from which batches are gathered."""

import torch
from torch import Tensor

from songcore.arrays import IntArray
from songtrain.datasets.songs import SongSet

__all__ = ["FrameStore"]


class FrameStore:
    """All frames of a song set on one device, half precision, with a last row of silence."""

    def __init__(self, songs: SongSet, device: torch.device) -> None:
        n_mels = songs.frames.shape[1]
        # Copies: arrays from Ray's object store are read-only, which torch warns about.
        silence = torch.zeros(1, n_mels, dtype=torch.float16)
        self.frames = torch.cat([torch.tensor(songs.frames), silence]).to(device)
        self.background = torch.tensor(songs.background).to(device)
        """(m, n_mels) sound from between the songs; may be empty."""
        self.starts = torch.tensor(songs.starts).to(device)
        self.lengths = torch.tensor(songs.lengths).to(device)
        self.n_mels, self.device = n_mels, device

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def silence(self) -> int:
        """Row that is silent in every band."""
        return len(self.frames) - 1

    def plain(self, indices: IntArray) -> Tensor:
        """Return songs as they are, (n, 1, n_mels, n_frames) float32, padded with silence to the longest."""
        index = torch.from_numpy(indices).to(self.device)
        at = torch.arange(int(self.lengths[index].max()), device=self.device)
        rows = self.starts[index][:, None] + at
        rows = torch.where(at < self.lengths[index][:, None], rows, self.silence)
        return self.frames[rows].float().transpose(1, 2)[:, None]
