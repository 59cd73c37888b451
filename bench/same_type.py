"""Do embeddings bring real songs of one type together? Prints one JSON line last.

The folder holds recordings, ``songs.csv`` and ``same_type.csv``: pairs of songs (recording, onset_a_s, onset_b_s) that were
judged to be renditions of one type. Every song that has a partner asks: is the nearest other such song a partner; and all
pairs of such songs are ranked by similarity (AUROC). The baseline needs no training: the logarithm of the modulation
spectrum, |rFFT over time| of every band of the same features.

With ``--noise`` the same is asked again with stretches of other recordings mixed in, ``--mixes`` times at every ratio with
different stretches; scores are the means over the mixes. See `noisy_songs` for what a ratio is.

Run as ``python bench/same_type.py --data DIR --bundle models/demo-v1 [--noise DIR]``.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import typer
from noisy_songs import NoisySongs, read_sound
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize

from songcore.annotations import Annotation, read_songs_csv
from songcore.arrays import FloatArray
from songcore.audio import recordings_below
from songcore.bundle import load_bundle
from songcore.stream import StreamConfig
from songtrain.datasets.extract import extract_songs

Embed: TypeAlias = Callable[[list[FloatArray]], FloatArray]
Scores: TypeAlias = dict[str, float]
N_MODULATION_FRAMES = 512


@dataclass(frozen=True)
class Partners:
    """Songs that have a partner, and which pairs are of one type."""

    annotations: tuple[Annotation, ...]
    same: NDArray[np.bool_]
    """(n, n), symmetric, false on the diagonal."""


def read_partners(data: Path) -> Partners:
    """Return the songs of songs.csv that same_type.csv pairs; types are what pairs connect."""
    with (data / "songs.csv").open(encoding="utf-8", newline="") as file:
        songs = {(a.recording, round(a.onset_s, 2)): a for a in read_songs_csv(file)}
    with (data / "same_type.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [
        ((r["recording"], round(float(r["onset_a_s"]), 2)), (r["recording"], round(float(r["onset_b_s"]), 2)))
        for r in rows
    ]
    keys = sorted({key for pair in pairs for key in pair})
    at = {key: index for index, key in enumerate(keys)}
    same = np.zeros((len(keys), len(keys)), bool)
    for first, second in pairs:
        same[at[first], at[second]] = same[at[second], at[first]] = True
    return Partners(tuple(songs[key] for key in keys), same)


def scores(embeddings: FloatArray, same: NDArray[np.bool_]) -> dict[str, float]:
    """Return the share of songs whose nearest is a partner, and the AUROC of pairs, for unit embeddings (n, d)."""
    similarity = embeddings @ embeddings.T
    pairs = np.triu_indices(len(same), 1)
    auroc = float(roc_auc_score(same[pairs], similarity[pairs]))
    np.fill_diagonal(similarity, -np.inf)
    nearest = similarity.argmax(axis=1)
    return {"nearest": float(same[np.arange(len(same)), nearest].mean()), "auroc": auroc}


def modulation_spectra(features: list[FloatArray]) -> FloatArray:
    """Return log(1 + |rFFT over time|) of every band, unit rows (n, ...)."""
    padded = [np.pad(f[:N_MODULATION_FRAMES], ((0, max(0, N_MODULATION_FRAMES - len(f))), (0, 0))) for f in features]
    spectra = np.log1p(np.abs(np.fft.rfft(np.stack(padded), axis=1)))
    return np.asarray(normalize(spectra.reshape(len(features), -1)), np.float32)


def served_songs(data: Path, partners: Partners, config: StreamConfig) -> list[FloatArray]:
    """Return the songs' features with the borders that the segmenter gives them, as serving has them."""
    features: dict[tuple[str, float], FloatArray] = {}
    for name in sorted({a.recording for a in partners.annotations}):
        own = [a for a in partners.annotations if a.recording == name]
        path = next(p for p in data.rglob(Path(name).name))
        songs = extract_songs(path, name, own, config)
        parts = np.split(songs.frames.astype(np.float32), np.cumsum(songs.lengths)[:-1])
        features |= {(name, a.onset_s): part for a, part in zip(own, parts, strict=True)}
    return [features[a.recording, a.onset_s] for a in partners.annotations]


def both_scores(features: list[FloatArray], same: NDArray[np.bool_], embed: Embed) -> dict[str, float]:
    """Return the encoder's scores, and the baseline's under names that begin with ``modulation_``."""
    baseline = scores(modulation_spectra(features), same)
    return scores(embed(features), same) | {f"modulation_{name}": value for name, value in baseline.items()}


def noisy_scores(songs: NoisySongs, same: NDArray[np.bool_], embed: Embed, snr_db: float, n_mixes: int) -> Scores:
    """Return the means over mixes; the same stretches of noise at every ratio."""
    mixes = [both_scores(songs.features(snr_db, mix), same, embed) for mix in range(n_mixes)]
    return {f"{name}_{snr_db:g}db": float(np.mean([mix[name] for mix in mixes])) for name in mixes[0]}


def main(
    data: Annotated[Path, typer.Option(help="Folder with recordings, songs.csv and same_type.csv.")],
    bundle: Annotated[Path, typer.Option(help="Bundle whose encoder is judged.")],
    noise: Annotated[Path | None, typer.Option(help="Folder with recordings to mix in.")] = None,
    snr_db: Annotated[str, typer.Option(help="Ratios of song to noise, 1-11 kHz, commas between.")] = "10,5,0",
    mixes: Annotated[int, typer.Option(min=1, help="Mixes per ratio, each with other stretches of noise.")] = 5,
) -> None:
    """Judge a bundle's encoder on real pairs of songs."""
    model = load_bundle(bundle, device="cpu")
    partners = read_partners(data)
    embed, config = model.embedder.embed, model.stream_config
    result: Scores = {"n_songs": len(partners.annotations), "n_pairs": int(partners.same.sum()) // 2}
    result |= both_scores(served_songs(data, partners, config), partners.same, embed)
    if noise is not None:
        sounds = [read_sound(path, config.frontend.sample_rate_hz) for path in recordings_below(noise)]
        songs = NoisySongs(partners.annotations, data, sounds, config)
        for ratio in snr_db.split(","):
            result |= noisy_scores(songs, partners.same, embed, float(ratio), mixes)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    typer.run(main)
