"""A whole NSCNet training, as its paper has it, on random images of song; prints one JSON line last.

11,000 images of 64 bands and 512 frames and 50 epochs, on a GPU if there is one. ``train_s`` is all of it, with the features
of all songs, PCA and k-means before each epoch; ``epoch_s`` is the median epoch, ``songs_per_s`` counts every song once an
epoch. ``nmi`` is the agreement of the last clusters with the kinds of the images. Run as ``python bench/nscnet.py``;
``--songs 64 --epochs 1 --clusters 8`` tries the program on a processor.
"""

import json
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from sklearn.metrics import normalized_mutual_info_score

from songcore.arrays import FloatArray, IntArray
from songtrain.methods.fitting import local_device
from songtrain.methods.nscnet import NSCNet

SHAPE = (512, 64)
N_KINDS = 64
"""Random images come in so many kinds, so that there is something to find."""


class AllEpochs(NSCNet):
    """NSCNet with a clock, and not ending when its clusters do not change any more: the time is what is measured."""

    began_at: Sequence[float] = ()
    """The clock when the songs were clustered, before every epoch and after the last."""

    def clusters(self, features: FloatArray, seed: int) -> IntArray:
        """Return clusters (n,) int64 of features (n, n_features)."""
        self.began_at = (*self.began_at, perf_counter())
        if len(self.began_at) > 1:
            typer.echo(f"epoch {len(self.began_at) - 1}: {self.began_at[-1] - self.began_at[-2]:.2f} s", err=True)
        return super().clusters(features, seed)

    def patience(self) -> None:
        """Return no rule."""


def main(
    songs: Annotated[int, typer.Option(help="Images.")] = 11_000,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 50,
    clusters: Annotated[int, typer.Option(help="k of k-means.")] = 64,
    head: Annotated[Literal["softmax", "arcface"], typer.Option(help="softmax or arcface.")] = "arcface",
) -> None:
    """Time a training."""
    rng = np.random.default_rng(0)
    kinds = rng.random((N_KINDS, *SHAPE), np.float32)
    kind_of = rng.integers(N_KINDS, size=songs)
    images = kinds[kind_of]
    images += rng.standard_normal(images.shape, np.float32)
    begin = perf_counter()
    encoder = AllEpochs(n_clusters=clusters, head=head, n_epochs=epochs).fit(images)
    train_s = perf_counter() - begin
    n_epochs = len(encoder.history_)
    on_gpu = local_device().type == "cuda"
    result = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "songs": songs,
        "epochs": n_epochs,
        "train_s": round(train_s, 1),
        "epoch_s": round(median(np.diff(encoder.began_at)), 2),
        "songs_per_s": round(songs * n_epochs / train_s, 1),
        "nmi": round(float(normalized_mutual_info_score(kind_of, encoder.labels_)), 3),
        "gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
