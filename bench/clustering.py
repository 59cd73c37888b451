"""HDBSCAN from a graph of nearest neighbours against scikit-learn's, on the same embeddings in one run; one JSON line last.

Embeddings are a mixture on the unit sphere whose components' sizes follow Zipf's law, or the rows of an .npy file. ``ari``
compares the two results; ``shuffled_ari`` compares scikit-learn's with its own on the same rows in another order: many
distances are equal, and which of equal edges comes first decides a few points. scikit-learn's time grows with the square of
the songs, at 20,000 it takes minutes: ``--no-exact`` leaves it out.

Run as ``python bench/clustering.py --songs 20000``.
"""

import json
import os
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score

from songcore.arrays import FloatArray, IntArray
from songtrain.clusterers.reachability import density_labels

MIN_SAMPLES = 5


def mixture(n_songs: int, n_types: int, dimension: int, spread: float, seed: int) -> tuple[FloatArray, IntArray]:
    """Return unit embeddings (n, d) float32 around random directions, and their types (n,)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_types, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    share = 1 / np.arange(1, n_types + 1)
    types = rng.choice(n_types, n_songs, p=share / share.sum())
    points = centres[types] + rng.normal(0, spread, (n_songs, dimension))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), types.astype(np.int64)


def main(
    songs: Annotated[int, typer.Option(help="Embeddings to cluster.")] = 20_000,
    types: Annotated[int, typer.Option(help="Components of the mixture.")] = 200,
    dimension: Annotated[int, typer.Option(help="Values per embedding.")] = 64,
    spread: Annotated[float, typer.Option(help="Standard deviation of each value within a component.")] = 0.06,
    file: Annotated[Path | None, typer.Option(help=".npy of embeddings (n, d) to take instead.")] = None,
    exact: Annotated[bool, typer.Option(help="Run scikit-learn's HDBSCAN too.")] = True,
    seed: Annotated[int, typer.Option(help="Of the mixture.")] = 0,
) -> None:
    """Compare time and clusters."""
    if file is None:
        points, truth = mixture(songs, types, dimension, spread, seed)
    else:
        points, truth = np.load(file, allow_pickle=False).astype(np.float32)[:songs], None
    smallest = max(5, round(0.002 * len(points)))
    begin = perf_counter()
    found = density_labels(points, smallest, MIN_SAMPLES)
    graph_s = perf_counter() - begin
    result: dict[str, Any] = {"n": len(points), "dimension": points.shape[1], "graph_s": graph_s}
    result |= {"n_clusters": int(found.max()) + 1, "noise_share": float((found < 0).mean())}
    if truth is not None:
        result["truth_ari"] = float(adjusted_rand_score(truth[found >= 0], found[found >= 0]))
    if exact:
        result |= _against_exact(points, found, smallest, graph_s, seed)
    result |= {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}))


def _against_exact(points: FloatArray, found: IntArray, smallest: int, graph_s: float, seed: int) -> dict[str, float]:
    begin = perf_counter()
    exact = _exact(points, smallest)
    exact_s = perf_counter() - begin
    order = np.random.default_rng([seed, 1]).permutation(len(points))
    again = np.empty_like(exact)
    again[order] = _exact(points[order], smallest)
    return {
        "exact_s": exact_s,
        "times_faster": exact_s / graph_s,
        "ari": float(adjusted_rand_score(exact, found)),
        "shuffled_ari": float(adjusted_rand_score(exact, again)),
    }


def _exact(points: FloatArray, smallest: int) -> IntArray:
    model = HDBSCAN(min_cluster_size=smallest, min_samples=MIN_SAMPLES, copy=True)
    return np.asarray(model.fit_predict(points), np.int64)


if __name__ == "__main__":
    typer.run(main)
