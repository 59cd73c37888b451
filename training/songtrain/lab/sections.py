"""The parts of the laboratory's report: numbers and pictures, as its template takes them."""

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.figures import png, sizes_figure, svg
from songcore.zipf import zipf_probabilities
from songtrain.evaluation.distances import PairDistances, pair_distances
from songtrain.evaluation.over_k import scores_over_k, usual_numbers
from songtrain.evaluation.scores import label_numbers
from songtrain.evaluation.song_statistics import Summary, summary
from songtrain.evaluation.types import TypeScore, type_scores
from songtrain.evaluation.zipf_alternatives import zipf_scores
from songtrain.lab.keepsakes import KeptPoints, SongTable, read_points
from songtrain.lab.results import LABEL_FREE, Row, parameters_text
from songtrain.lab.sweep_table import SweepTable, sweep_tables
from songtrain.reducers.projections import Components
from songtrain.report.cluster_pictures import distances_figure, maps, maps_figure, over_k_figure, types_figure
from songtrain.report.network_pictures import history_figure, reconstructions_figure
from songtrain.report.song_pictures import STATISTIC_WORDS, duration_figure, statistics_figure
from songtrain.report.sweep_pictures import sweep_figure

__all__ = [
    "SongSection",
    "SystemSection",
    "networks",
    "reconstructions",
    "song_section",
    "sweeps",
    "system_section",
]

MAX_K_SONGS = 2000
MAX_MAP_DIMENSIONS = 512
"""Maps of more dimensions are made of so many principal components: LDA of whole spectrograms would take hours, and memory by
the gigabyte."""


@dataclass(frozen=True)
class SongSection:
    """What the songs sound like."""

    summaries: Mapping[str, Summary]
    """By the words for the statistic."""
    durations: str
    statistics: str
    """Empty when the recordings were not to be had."""


@dataclass(frozen=True)
class SystemSection:
    """One system in detail; pictures are empty where there is nothing to show."""

    system: str
    seed: int
    types: Sequence[TypeScore]
    types_picture: str
    zipf: Mapping[str, float]
    sizes_picture: str
    sizes: Sequence[tuple[int, float]]
    """Songs of every cluster, the largest first, and how many Zipf's law expects there."""
    maps: str
    over_k: str
    distances: Mapping[str, PairDistances]
    """By what pairs are pairs of: types, or clusters found."""
    distance_pictures: Sequence[str]


def song_section(songs: SongTable | None) -> SongSection | None:
    """Return the statistics of the songs, None when no run got so far."""
    if songs is None:
        return None
    columns = {"duration_s": songs.duration_s, **songs.statistics}
    summaries = {STATISTIC_WORDS[name]: summary(columns[name].tolist()) for name in STATISTIC_WORDS if name in columns}
    statistics = svg(statistics_figure(songs.statistics)) if songs.statistics else ""
    return SongSection(summaries, svg(duration_figure(songs.duration_s, songs.labels)), statistics)


def system_section(row: Row, labels: Sequence[str], kept: KeptPoints | None) -> SystemSection:
    """Return a row in detail; songs have ``labels``, empty if unknown, and points where ``kept`` has them."""
    found, truth = np.asarray(row.labels, np.int64), label_numbers(labels)
    types = type_scores(list(labels), found)
    counts = np.bincount(found[found >= 0]).tolist() if row.n_clusters else []
    zipf = zipf_scores(counts, rng=np.random.default_rng(row.seed)) if len(counts) > 1 else {}
    distances = {} if kept is None else _distances(kept, found, truth)
    return SystemSection(
        system=row.system,
        seed=row.seed,
        types=types,
        types_picture=svg(types_figure(types)) if types else "",
        zipf=zipf,
        sizes_picture=svg(sizes_figure(counts, zipf["zipf_exponent"], zipf["zipf_p"])) if zipf else "",
        sizes=_beside_expected(counts, zipf["zipf_exponent"]) if zipf else (),
        maps="" if kept is None else _maps(kept.values, found[kept.chosen], truth[kept.chosen]),
        over_k="" if kept is None else _over_k(kept.values, truth[kept.chosen]),
        distances=distances,
        distance_pictures=[svg(distances_figure(pairs, words)) for words, pairs in distances.items()],
    )


def _beside_expected(counts: Sequence[int], exponent: float) -> list[tuple[int, float]]:
    expected = sum(counts) * zipf_probabilities(len(counts), exponent)
    return list(zip(sorted(counts, reverse=True), expected.tolist(), strict=True))


def _distances(kept: KeptPoints, found: IntArray, truth: IntArray) -> dict[str, PairDistances]:
    pairs = {
        words: pair_distances(kept.values, numbers[kept.chosen], np.random.default_rng(0))
        for words, numbers in (("cluster", found), ("type", truth))
    }
    return {words: value for words, value in pairs.items() if value is not None}


def _maps(points: FloatArray, found: IntArray, truth: IntArray) -> str:
    if points.shape[1] > MAX_MAP_DIMENSIONS:
        points = Components(MAX_MAP_DIMENSIONS, unit=False, random_state=0).fit_transform(points)
    return _embedded(png(maps_figure(maps(points, found, seed=0), found, truth)))


def _over_k(points: FloatArray, truth: IntArray) -> str:
    # Points are in the order of the recordings: the first of them would be songs of the first recordings.
    chosen = np.random.default_rng(0).permutation(len(points))[:MAX_K_SONGS]
    points, truth = points[chosen], truth[chosen]
    curve = scores_over_k(points, truth, usual_numbers(len(points)), seed=0)
    return svg(over_k_figure(curve)) if len(curve) > 1 else ""


def networks(rows: Sequence[Row]) -> str:
    """Return the course of every network that was trained, its first seed; empty when none was.

    Systems that differ in the clusterer alone share a network, and its line.
    """
    sharing: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.history and not row.seed and not row.parameters:
            sharing[repr(row.history)].append(row)
    histories = {", ".join(row.system for row in same): same[0].history for same in sharing.values()}
    return svg(history_figure(histories)) if histories else ""


def reconstructions(folder: Path, systems: Sequence[str]) -> dict[str, str]:
    """Return the picture of what every autoencoder gave back, by the systems that share it."""
    sharing: dict[bytes, list[str]] = defaultdict(list)
    images: dict[bytes, FloatArray] = {}
    for system in systems:
        kept = read_points(folder, system)
        if kept is not None and kept.reconstructions is not None:
            key = kept.reconstructions.tobytes()
            sharing[key].append(system)
            images[key] = kept.reconstructions
    return {", ".join(names): _embedded(png(reconstructions_figure(images[key]))) for key, names in sharing.items()}


@dataclass(frozen=True)
class SweepSection:
    """One sweep: its table, and a picture for every parameter that took more than one value."""

    table: SweepTable
    pictures: Sequence[str]
    best: Mapping[str, str]
    """For labels and for every label-free score, the setting that it prefers."""


def sweeps(rows: Sequence[Row]) -> list[SweepSection]:
    """Return the sweeps among the rows."""
    sections = []
    for table in sweep_tables(rows):
        values: dict[str, set[str]] = defaultdict(set)
        for point in table.points:
            for name, value in point.parameters.items():
                values[name].add(str(value))
        pictures = [svg(sweep_figure(table.points, name)) for name, own in sorted(values.items()) if len(own) > 1]
        scores = ("ari", "nmi", *LABEL_FREE)
        preferred = {score: table.best(score) for score in scores}
        best = {score: parameters_text(at.parameters.items()) for score, at in preferred.items() if at is not None}
        sections.append(SweepSection(table, pictures, best))
    return sections


def _embedded(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
