"""The report of a training run: one HTML page that needs nothing beside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from songcore.features import SCALE_DB
from songcore.figures import png, sizes_figure, svg
from songcore.stream import StreamConfig
from songtrain.datasets.distributed import Skipped
from songtrain.datasets.songs import SongSet
from songtrain.discovery import Discovery
from songtrain.evaluation.novelty import NoveltyCheck
from songtrain.evaluation.scores import label_numbers, label_scores
from songtrain.loop.distributed import TrainedEncoder
from songtrain.report.figures import N_COLOURED, map_figure, novelty_figure, song_picture, training_figure
from songtrain.settings import TrainSettings

__all__ = ["ReportContent", "write_report"]

MAX_GALLERY = 60
N_PICTURES = 4
MAX_SKIPPED = 50
PIXELS_PER_S = 48


@dataclass(frozen=True)
class ReportContent:
    """Everything the report tells."""

    settings: TrainSettings
    stream: StreamConfig
    train: SongSet
    trained: TrainedEncoder
    found: Discovery
    novelty: NoveltyCheck
    scores: Mapping[str, float]
    facts: Mapping[str, int | float]
    skipped: Sequence[Skipped]
    seconds: Mapping[str, float]
    digest: str
    created_at: datetime


def write_report(path: Path, content: ReportContent) -> None:
    """Write the report to ``path``."""
    environment = Environment(loader=PackageLoader("songtrain.report", "."), autoescape=True, undefined=StrictUndefined)
    found = content.found
    page = environment.get_template("page.html").render(
        facts=content.facts,
        scores=content.scores,
        seconds=content.seconds,
        digest=content.digest,
        created_at=content.created_at.isoformat(sep=" "),
        gallery=_gallery(content),
        n_more_types=max(0, len(found.types) - MAX_GALLERY),
        n_grey=max(0, len(found.types) - N_COLOURED),
        rounds=_rounds(content),
        skipped=content.skipped[:MAX_SKIPPED],
        n_more_skipped=max(0, len(content.skipped) - MAX_SKIPPED),
        settings=content.settings.model_dump_json(indent=2),
        alpha=content.settings.novelty.alpha,
        band=(content.stream.frontend.f_min_hz / 1e3, content.stream.frontend.f_max_hz / 1e3),
        pixels_per_s=PIXELS_PER_S,
        sizes=svg(
            sizes_figure([t.n_songs for t in found.types], content.scores["zipf_exponent"], content.scores["zipf_p"])
        ),
        map=_embedded(
            png(map_figure(found.embeddings, found.labels, found.core_labels, [t.id for t in found.types], 0))
        ),
        training=svg(training_figure(content.trained.history)),
        novelty=svg(novelty_figure(content.novelty, content.settings.novelty.alpha)),
    )
    path.write_text(page, encoding="utf-8")


def _gallery(content: ReportContent) -> list[dict[str, Any]]:
    """Every type with its most typical songs and, where songs are annotated, what annotators called them."""
    found, train = content.found, content.train
    lengths = np.asarray([place.offset - place.onset for place in train.places])
    durations_s = lengths / content.stream.frontend.sample_rate_hz
    ceiling = content.stream.features.range_db / SCALE_DB
    cards = []
    for number, (song_type, best) in enumerate(list(zip(found.types, found.exemplars, strict=True))[:MAX_GALLERY]):
        members = np.flatnonzero(found.labels == number)
        pictures: list[dict[str, Any]] = []
        for index in best[:N_PICTURES]:
            picture = _embedded(song_picture(train.features(index), ceiling))
            pictures.append(
                {
                    "image": picture,
                    "width": round(durations_s[index] * PIXELS_PER_S),
                    "where": song_type.exemplars[len(pictures)],
                }
            )
        cards.append(
            {
                "id": song_type.id,
                "n_songs": song_type.n_songs,
                "share": song_type.n_songs / len(train),
                "core": float((found.core_labels[members] >= 0).mean()),
                "median_s": float(np.median(durations_s[members])),
                "n_recordings": len({train.places[i].recording for i in members}),
                "labels": _labels([train.places[i].label for i in members]),
                "pictures": pictures,
            }
        )
    return cards


def _labels(labels: Sequence[str]) -> str:
    names, counts = np.unique([label for label in labels if label], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    return ", ".join(f"{names[i]} {counts[i] / len(labels):.0%}" for i in order)


def _rounds(content: ReportContent) -> list[dict[str, Any]]:
    """One row per round of self-labelling; scores against labels are of the core songs."""
    opened = [row for row in content.trained.history if row["core_share"] is not None]
    truth = label_numbers(content.train.labels)
    rows = []
    for row, core in zip(opened, content.trained.labels, strict=True):
        inside = core >= 0
        scores = label_scores(truth[inside], core[inside], rng=np.random.default_rng(0))
        rows.append({**row, "nmi": scores.get("nmi"), "ari": scores.get("ari")})
    return rows


def _embedded(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
