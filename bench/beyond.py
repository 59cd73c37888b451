"""What could beat the recipe and does not look at single songs alone; prints one JSON line of scores last.

The recipe is trained with several seeds on the songs of one folder. Then, labels only scoring,

recipe       density clusters of each seed's embeddings, mean of the seeds
embeddings   one clustering of the embeddings of all seeds side by side
votes        songs that most seeds put into one cluster, by average linkage of the share that does (evidence accumulation,
             Fred and Jain 2005)
windows      each seed's embeddings of the whole song, its first and its second half side by side
order        each seed's clusters, decided again for whole recordings: the most probable sequence of types by Viterbi's
             algorithm, with the probabilities that a logistic regression gives songs it did not learn from, and how
             often types followed each other

``--songs`` takes whole recordings, drawn at random with a fixed seed, until they hold so many: songs left out between two
others would change what follows what. Run as ``python bench/beyond.py --data FOLDER [--segmenter syllable] [--songs 2000]``.
"""

import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Annotated, Literal

import librosa
import numpy as np
import typer
from sklearn.cluster import AgglomerativeClustering
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from songcore.arrays import FloatArray, IntArray
from songcore.stream import StreamConfig
from songtrain.clusterers.density import DensityClusterer
from songtrain.datasets.songs import SongSet
from songtrain.evaluation.scores import label_numbers, label_scores
from songtrain.lab.chain import Chain
from songtrain.lab.options import with_sound
from songtrain.lab.parts import build
from songtrain.lab.run import LabJob, lab_songs
from songtrain.lab.systems import System, choose_systems

SHOWN = ("nmi", "v_measure", "ari")
N_FOLDS = 3


def whole_recordings(songs: SongSet, n_songs: int | None) -> SongSet:
    """Return the songs of recordings drawn at random until there are that many; all without a number."""
    if n_songs is None or n_songs >= len(songs):
        return songs
    of: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(songs.recordings):
        of[name].append(index)
    chosen: list[int] = []
    for name in np.random.default_rng(0).permutation(sorted(of)):
        if len(chosen) < n_songs:
            chosen += of[str(name)]
    return songs.subset(sorted(chosen))


def halves(songs: SongSet) -> SongSet:
    """Return every song as two, one after the other, parted in the middle of what is not silent."""
    sounding = [np.flatnonzero(song.any(axis=1)) for song in songs.all_features()]
    first = np.asarray([int(at[0] + at[-1] + 1) // 2 if len(at) > 1 else 1 for at in sounding], np.int64)
    lengths = np.stack([first, songs.lengths - first], axis=1).ravel()
    places = tuple(place for place in songs.places for _ in range(2))
    return SongSet(places, lengths, songs.frames, songs.background, songs.duration_s)


def by_votes(labels: list[IntArray]) -> IntArray:
    """Return clusters (n,) of songs of which more than half of the clusterings agree, on average."""
    together = np.mean([found[:, None] == found for found in labels], axis=0, dtype=np.float32)
    linkage = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=0.5)
    return np.asarray(linkage.fit_predict(1 - together), np.int64)


def by_order(points: FloatArray, labels: IntArray, songs: SongSet) -> IntArray:
    """Return labels (n,) decided again by what was sung before and after in the same recording."""
    states, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(states) < 2 or counts.min() < N_FOLDS:  # nothing to decide between, or too few songs to learn a type from
        return labels
    model = LogisticRegression(max_iter=500)
    shares = cross_val_predict(model, points, numbers, cv=N_FOLDS, method="predict_proba")
    recordings: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(songs)), key=lambda i: songs.places[i].onset):
        recordings[songs.places[index].recording].append(index)
    follows = np.ones((len(states), len(states)))
    for indices in recordings.values():
        np.add.at(follows, (numbers[indices[:-1]], numbers[indices[1:]]), 1)
    follows /= follows.sum(axis=1, keepdims=True)
    prior = counts / len(numbers)
    decided = np.empty(len(songs), np.int64)
    for indices in recordings.values():
        decided[indices] = librosa.sequence.viterbi_discriminative(
            shares[indices].T, follows, p_state=prior, p_init=prior
        )
    return states[decided]


def recipe_and_clusterer(stream: StreamConfig) -> tuple[System, DensityClusterer]:
    """Return the recipe for the kind of sound, and its clusterer."""
    system = with_sound(choose_systems(["recipe"])[0], stream)
    assert system.clusterer
    clusterer = build("clusterer", system.clusterer, seed=0, stream=stream)
    assert isinstance(clusterer, DensityClusterer)
    return system, clusterer


def try_all(songs: SongSet, stream: StreamConfig, n_seeds: int) -> dict[str, list[IntArray]]:
    """Return the clusterings (n,) that each way of clustering gives."""
    system, clusterer = recipe_and_clusterer(stream)
    found: dict[str, list[IntArray]] = defaultdict(list)
    embeddings = []
    for seed in range(n_seeds):
        chain = Chain(system, seed, stream)
        points = chain.fit(songs)
        labels = clusterer.fit(points).labels_
        parts = chain.transform(halves(songs)).reshape(len(songs), -1)
        embeddings.append(points)
        found["recipe"].append(labels)
        found["windows"].append(clusterer.fit(_side_by_side([points, parts])).labels_)
        found["order"].append(by_order(points, labels, songs))
    found["embeddings"].append(clusterer.fit(_side_by_side(embeddings)).labels_)
    found["votes"].append(by_votes(found["recipe"]))
    return found


def _side_by_side(parts: list[FloatArray]) -> FloatArray:
    joined: FloatArray = np.concatenate(parts, axis=1)
    joined /= np.linalg.norm(joined, axis=1, keepdims=True)
    return joined


def main(
    data: Annotated[Path, typer.Option(help="Folder with recordings and songs.csv.")],
    segmenter: Annotated[Literal["song", "syllable", "general"], typer.Option(help="The kind of sound.")] = "song",
    songs: Annotated[int | None, typer.Option(help="About so many, in whole recordings.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings of the recipe.")] = 3,
) -> None:
    """Try what could beat the recipe."""
    with tempfile.TemporaryDirectory() as folder:
        systems = choose_systems(["recipe"])
        job = LabJob(data, Path(folder), systems, 1, segmenter=segmenter, segmentation="annotated")
        with lab_songs(job) as heard:
            songs_used = whole_recordings(heard.songs, songs)
        found = try_all(songs_used, job.stream, seeds)
    truth = label_numbers(songs_used.labels)
    result = {}
    for name, clusterings in found.items():
        scores = [label_scores(truth, labels, rng=np.random.default_rng(0)) for labels in clusterings]
        result[name] = {score: round(mean(one[score] for one in scores), 4) for score in SHOWN} | {
            "types": round(mean(len(np.unique(labels)) for labels in clusterings), 1)
        }
    n_types = len(np.unique(truth[truth >= 0]))
    print(json.dumps({"songs": len(songs_used), "n_types": n_types, "seeds": seeds, "systems": result}))


if __name__ == "__main__":
    typer.run(main)
