"""``songstream train``, stage by stage: recordings → songs → encoder → types → calibration → scores → bundle and report."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.nn.functional import normalize

from songcore.arrays import FloatArray
from songcore.bundle import Bundle, BundleParts, check_output, write_bundle
from songcore.manifest import EncoderInfo
from songcore.presets import STREAMS
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.cluster import ray_session
from songtrain.datasets.distributed import FeatureRun, extract_features
from songtrain.datasets.folder import DataFolder, scan_folder
from songtrain.datasets.screening import screen_songs
from songtrain.datasets.songs import SongSet
from songtrain.datasets.split import hold_out
from songtrain.discovery import Discovery, discover_types
from songtrain.encoders.beside import fit_beside, with_beside
from songtrain.encoders.build import n_parameters
from songtrain.encoders.network import SteadyEncoder
from songtrain.evaluation.collapse import check_variation
from songtrain.evaluation.novelty import NoveltyCheck, check_novelty
from songtrain.evaluation.scores import diagnostics, label_numbers, label_scores
from songtrain.evaluation.zipf_alternatives import zipf_scores
from songtrain.export.golden import golden_recordings
from songtrain.export.onnx import check_parity
from songtrain.export.served import Served, serve_encoder
from songtrain.export.training_state import TrainingState, chosen_songs, pack_training
from songtrain.loop.distributed import TrainedEncoder, train_encoder
from songtrain.loop.embedding import embed_store
from songtrain.loop.steadying import steady_weights
from songtrain.report.page import ReportContent, write_report
from songtrain.settings import TrainSettings

__all__ = ["Progress", "TrainJob", "serve_trained", "train_bundle"]

Progress: TypeAlias = Callable[[str, int, int, str], None]
"""Called with stage, how much is done, of how much, and a few words."""

N_PARITY_SONGS = 16
N_LOOKED_AT = 256
"""Songs, or up to twice as many, that show whether the encoder has collapsed."""


@dataclass(frozen=True)
class TrainJob:
    """What to learn from, where to put it, and how."""

    data: Path
    out: Path
    settings: TrainSettings
    work: Path
    """Feature cache and checkpoints; the same job with the same folder goes on where it was killed."""
    created_by: str
    now: datetime
    address: str | None = None
    """Of a Ray cluster; None for this machine alone."""
    device: Literal["cpu", "cuda"] = "cpu"
    overwrite: bool = False


@dataclass
class _Clock:
    """Seconds per stage, for the report."""

    seconds: dict[str, float] = field(default_factory=dict)
    begin: float = field(default_factory=perf_counter)

    def lap(self, stage: str) -> None:
        now = perf_counter()
        self.seconds[stage], self.begin = now - self.begin, now


def train_bundle(job: TrainJob, on_progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Train, write the bundle with its report, and return the run's facts and scores.

    Bundle and report appear at ``out`` together; a failure leaves it as it was.

    Raises InputError for what cannot be learned from, ConfigError for what cannot be written, CollapseError when training
    fails.
    """
    # Said before hours are spent, not after.
    check_output(job.out, overwrite=job.overwrite)
    settings, clock = job.settings, _Clock()
    stream = STREAMS[settings.data.segmenter]
    folder = scan_folder(job.data, settings.data.segmentation)
    with ray_session(job.address):
        clock.lap("start")
        features = _features(folder, stream, job, on_progress)
        songs, n_silent = screen_songs(features.songs, min_songs=settings.data.min_songs, left_out=features.left_out)
        rng = np.random.default_rng([settings.seed, 1])
        held = hold_out(songs.sources, settings.novelty.held_out_share, rng, [place.onset for place in songs.places])
        train, held_out = songs.parted(held)
        clock.lap("features")
        trained = _train(train, stream, job, on_progress)
        clock.lap("training")
    on_progress("types", 0, 1, "exporting the encoder, clustering")
    served = serve_trained(trained, train, settings, stream)
    parity = check_parity(
        served.encoder, served.embedder, [train.features(i) for i in range(min(len(train), N_PARITY_SONGS))]
    )
    found = discover_types(
        train,
        held_out,
        served.embedder,
        settings,
        stream,
        np.random.default_rng([settings.seed, 2]),
    )
    check = _novelty_check(found, held_out, settings)
    scores = {**_scores(train, held_out, found, settings), "parity_cosine": parity, **_novelty_scores(check)}
    facts = _facts(songs, train, held_out, features, n_silent, found)
    clock.lap("types")
    golden = _golden(folder, train, found, stream, settings)
    training = _training(trained, train, found, settings)
    parts = _parts(job, stream, served, found, golden, facts, scores)

    def report(folder: Path, written: Bundle) -> None:
        clock.lap("bundle")
        on_progress("report", 0, 1, "drawing")
        content = ReportContent(
            settings=settings,
            stream=stream,
            train=train,
            trained=trained,
            found=found,
            novelty=check,
            scores=scores,
            facts=facts,
            skipped=features.skipped,
            seconds=clock.seconds,
            digest=written.digest,
            created_at=job.now,
        )
        write_report(folder / "report.html", content)

    # A bundle without its report would be taken for what a finished run left, and the report never be drawn.
    bundle = write_bundle(job.out, replace(parts, training=training), overwrite=job.overwrite, add=report)
    on_progress("report", 1, 1, "done")
    return {**facts, **scores, "digest": bundle.digest, "bundle": str(job.out), "seconds": clock.seconds}


def _features(folder: DataFolder, stream: StreamConfig, job: TrainJob, on_progress: Progress) -> FeatureRun:
    n_done, n_all = 0, len(folder.recordings)
    on_progress("features", 0, n_all, "recordings")

    def count() -> None:
        nonlocal n_done
        n_done += 1
        on_progress("features", n_done, n_all, "recordings")

    return extract_features(
        folder.recordings, stream, job.work / "features", channel=job.settings.data.channel, on_recording=count
    )


def _train(train: SongSet, stream: StreamConfig, job: TrainJob, on_progress: Progress) -> TrainedEncoder:
    n_all = job.settings.warmup.n_epochs + job.settings.rounds.n_rounds * job.settings.rounds.n_epochs
    on_progress("training", 0, n_all, "starting workers")

    def tell(event: dict[str, Any]) -> None:
        words = "warm-up" if event["stage"] == "warmup" else f"round {event['round']}, {event['n_clusters']} clusters"
        on_progress("training", event["epoch"] + 1, n_all, f"{words}, loss {event['loss']:.3f}")

    return train_encoder(train, job.settings, stream, job.work, use_gpu=job.device == "cuda", on_event=tell)


def serve_trained(trained: TrainedEncoder, train: SongSet, settings: TrainSettings, stream: StreamConfig) -> Served:
    """Put what is learned in closed form behind the encoder, steadiness and principal components, and export it.

    Raises CollapseError when the encoder says the same of every song: what stands beside it would hide that, and in a training
    without rounds and neighbours nobody has looked yet.
    """
    store = FrameStore(train, torch.device("cpu"))
    some = np.arange(0, len(store), max(1, len(store) // N_LOOKED_AT), dtype=np.int64)
    check_variation(normalize(torch.from_numpy(embed_store(trained.encoder, store, some))).numpy())
    whole = with_beside(trained.encoder, fit_beside(settings, stream.features, store))
    steady = SteadyEncoder(whole, steady_weights(whole, store, settings, stream))
    return serve_encoder(steady, store, settings, stream)


def _novelty_check(found: Discovery, held_out: SongSet, settings: TrainSettings) -> NoveltyCheck:
    return check_novelty(
        found.calibration,
        held_out.recordings * settings.novelty.n_others,
        found.bank,
        found.bank_labels,
        n_neighbours=settings.novelty.n_neighbours,
        alpha=settings.novelty.alpha,
        rng=np.random.default_rng([settings.seed, 3]),
    )


def _scores(train: SongSet, held_out: SongSet, found: Discovery, settings: TrainSettings) -> dict[str, float]:
    """Scores over all songs as they are named when served; those held out also alone."""
    rng = np.random.default_rng([settings.seed, 4])
    number = {t.id: index for index, t in enumerate(found.types)}
    named = np.asarray(
        [
            number[a.type_id]
            for a in found.catalogue.assign(np.concatenate([found.embeddings, found.held_out_embeddings]))
        ],
        np.int64,
    )
    truth = label_numbers([*train.labels, *held_out.labels])
    scores = label_scores(truth, named, rng=rng)
    scores |= {
        f"held_out_{name}": value
        for name, value in label_scores(truth[len(train) :], named[len(train) :], rng=rng).items()
    }
    scores |= diagnostics(found.embeddings, found.labels)
    scores["core_share"] = float((found.core_labels >= 0).mean())
    # Serving names by the nearest prototype: how often that is the cluster the song was found in.
    scores["prototype_agreement"] = float((named[: len(train)] == found.labels).mean())
    return scores | zipf_scores([t.n_songs for t in found.types], rng=rng)


def _novelty_scores(check: NoveltyCheck) -> dict[str, float]:
    scores = {"novelty_auroc": check.auroc, "novelty_caught": check.caught_share}
    return scores if np.isnan(check.false_alarms) else scores | {"false_alarms": check.false_alarms}


def _facts(
    songs: SongSet, train: SongSet, held_out: SongSet, features: FeatureRun, n_silent: int, found: Discovery
) -> dict[str, int | float]:
    return {
        "n_types": len(found.types),
        "n_songs": len(songs),
        "n_train": len(train),
        "n_held_out": len(held_out),
        "n_recordings": len(set(songs.recordings)),
        "recorded_s": round(songs.duration_s, 1),
        "n_skipped": len(features.skipped),
        "n_behind": features.n_behind,
        "n_silent": n_silent,
        "n_true_types": len({label for label in songs.labels if label}),
    }


def _golden(
    folder: DataFolder, train: SongSet, found: Discovery, stream: StreamConfig, settings: TrainSettings
) -> list[FloatArray]:
    """Return the pieces of recordings that the bundle proves itself on: typical songs, of the largest types first."""
    paths = {file.name: file.path for file in folder.recordings}
    most = max(len(best) for best in found.exemplars)
    typical = [train.places[best[k]] for k in range(most) for best in found.exemplars if k < len(best)]
    return golden_recordings(typical, paths, stream, settings.data.channel)


def _training(trained: TrainedEncoder, train: SongSet, found: Discovery, settings: TrainSettings) -> bytes:
    """Return what a retraining goes on with."""
    chosen = chosen_songs(found.labels, settings.seed)
    ids = tuple(found.types[number].id for number in found.labels[chosen].tolist())
    return pack_training(TrainingState(settings, trained.encoder.state_dict(), train.subset(chosen), ids))


def _parts(
    job: TrainJob,
    stream: StreamConfig,
    served: Served,
    found: Discovery,
    golden: list[FloatArray],
    facts: dict[str, int | float],
    scores: dict[str, float],
) -> BundleParts:
    settings = job.settings
    return BundleParts(
        name=settings.name,
        created_by=job.created_by,
        created_at=job.now,
        stream=stream,
        encoder=served.model,
        encoder_info=EncoderInfo(
            architecture=settings.encoder.name,
            n_parameters=n_parameters(served.encoder),
            dimension=found.embeddings.shape[1],
            trained_on=f"{facts['n_train']} songs in {facts['n_recordings']} recordings of {job.data.name}",
        ),
        types=found.types,
        prototypes=found.prototypes,
        type_index=found.type_index,
        bank=found.bank,
        calibration=found.calibration,
        calibration_type=found.calibration_type,
        novelty=settings.novelty.served(),
        golden_recordings=golden,
        report={**facts, **{name: round(value, 4) for name, value in scores.items()}},
    )
