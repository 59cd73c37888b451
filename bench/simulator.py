"""What simple methods score on a simulated season, so that one knows how hard it is; prints one JSON line last.

Two methods that need no training, on songs cut at their true onsets, scored against their true types:

pca_kmeans       log-mel clipped at the noise floor, padded to 8 s → PCA 64 → L2 → k-means with the true number of types
classical_floor  the same clipped log-mel → |rFFT over time| → PCA 64 → L2 → HDBSCAN, and what it leaves out by 5 neighbours

Run as ``python bench/simulator.py --preset hard --songs 5000``.
"""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from songcore.arrays import FloatArray, IntArray
from songcore.frontend import DB_PER_UNIT, FrontendConfig, LogMel
from songcore.resample import Resampler
from songtrain.synth.config import SeasonConfig, season_config
from songtrain.synth.season import open_season, render_recording

N_FRAMES = 512
"""8.2 s at the default hop: longer than any simulated song."""

RANGE_DB = 40.0
"""What is louder than this over the floor counts as this loud."""


def recording_features(config: SeasonConfig, index: int) -> tuple[FloatArray, list[str], float]:
    """Return the songs of one recording as floor-clipped log-mel (n, N_FRAMES, n_mels), their labels, and seconds."""
    samples, songs = render_recording(config, index)
    frontend = FrontendConfig()
    resampler, mel = Resampler(config.sample_rate_hz, frontend.sample_rate_hz), LogMel(frontend)
    low = np.concatenate([resampler.push(samples), resampler.finish()])
    frames = np.concatenate([mel.push(low), mel.finish()])
    hop = frontend.hop * config.sample_rate_hz / frontend.sample_rate_hz
    features = np.zeros((len(songs), N_FRAMES, frontend.n_mels), np.float32)
    for row, song in zip(features, songs, strict=True):
        begin, end = round(song.onset / hop), min(round(song.offset / hop), round(song.onset / hop) + N_FRAMES)
        # The median of a song is no noise floor where a trill fills a band: take the seconds around it.
        floor = np.median(frames[max(0, begin - 125) : end + 125], axis=0)
        row[: end - begin] = np.clip(frames[begin:end] - floor, 0, RANGE_DB / DB_PER_UNIT)
    return features, [s.label for s in songs], len(samples) / config.sample_rate_hz


def reduced(features: FloatArray) -> FloatArray:
    """Return features (n, …) as unit rows (n, 64) of their principal components."""
    flat = features.reshape(len(features), -1)
    return np.asarray(normalize(PCA(min(64, *flat.shape), random_state=0).fit_transform(flat)), np.float32)


def dense_clusters(points: FloatArray) -> IntArray:
    """Return HDBSCAN's clusters of points (n, d), those it leaves out given to their five nearest neighbours' cluster."""
    least = max(5, round(0.002 * len(points)))
    labels = np.asarray(HDBSCAN(min_cluster_size=least, min_samples=5, copy=True).fit_predict(points))
    core = labels >= 0
    if core.any() and not core.all():
        labels[~core] = (
            KNeighborsClassifier(min(5, int(core.sum()))).fit(points[core], labels[core]).predict(points[~core])
        )
    return labels.astype(np.int64)


def scores(truth: list[str], found: IntArray) -> dict[str, float]:
    """Return the agreement of a clustering with the truth."""
    return {
        "n_clusters": len(set(found.tolist())),
        "nmi": round(float(normalized_mutual_info_score(truth, found)), 3),
        "ami": round(float(adjusted_mutual_info_score(truth, found)), 3),
        "ari": round(float(adjusted_rand_score(truth, found)), 3),
    }


def main(
    preset: Annotated[str, typer.Option(help="demo, easy or hard.")] = "hard",
    songs: Annotated[int | None, typer.Option(help="Number of songs, the preset's if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Season.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes for rendering.")] = len(os.sched_getaffinity(0)),
) -> None:
    """Score PCA with k-means and the classical floor on a simulated season."""
    config = season_config(preset, seed=seed, **({"n_songs": songs} if songs else {}))
    n = len(open_season(config).recordings)
    begin = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(recording_features, config), range(n))
        parts = list(track(made, "rendering", n, console=Console(stderr=True)))
    wall_s = time.perf_counter() - begin
    features = np.concatenate([p[0] for p in parts])
    truth = [label for p in parts for label in p[1]]
    audio_s = sum(p[2] for p in parts)
    flat = reduced(features)
    modulation = reduced(np.abs(np.fft.rfft(features, axis=1)[:, : N_FRAMES // 4]).astype(np.float32))
    n_true = len(set(truth))
    report = {
        "preset": preset,
        "seed": seed,
        "songs": len(truth),
        "types": n_true,
        "audio_s": round(audio_s),
        "x_real_time_with_features": round(audio_s / wall_s),
        "workers": workers,
        "pca_kmeans": scores(truth, KMeans(n_true, n_init=3, random_state=0).fit_predict(flat)),
        "classical_floor": scores(truth, dense_clusters(modulation)),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    typer.run(main)
