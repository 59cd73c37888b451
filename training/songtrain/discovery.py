"""From a trained encoder to a catalogue: what is served is embedded, clustered, given prototypes, and calibrated."""

from dataclasses import dataclass

import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.assign import Catalogue
from songcore.embed import Embedder
from songcore.manifest import SongType
from songcore.stream import StreamConfig
from songtrain.augment.singers import sung_by_others
from songtrain.clusterers.density import DensityClusterer
from songtrain.clusterers.prototypes import draw_bank, make_prototypes, medoids
from songtrain.datasets.songs import SongPlace, SongSet
from songtrain.evaluation.collapse import check_clusters
from songtrain.settings import TrainSettings

__all__ = ["Discovery", "discover_types"]

N_EXEMPLARS = 6


@dataclass(frozen=True)
class Discovery:
    """The song types found among the training songs."""

    embeddings: FloatArray
    """(n_train, d) unit vectors as served."""
    core_labels: IntArray
    """(n_train,) types numbered by size from 0, -1 outside dense cores."""
    labels: IntArray
    """(n_train,) the same with every song filled in."""
    types: tuple[SongType, ...]
    exemplars: tuple[tuple[int, ...], ...]
    """Per type, training songs, the most typical first."""
    prototypes: FloatArray
    type_index: IntArray
    bank: FloatArray
    bank_labels: IntArray
    held_out_embeddings: FloatArray
    calibration: FloatArray
    """(n_others * n_held_out,) novelty scores of the held-out songs as others would sing them."""
    calibration_type: IntArray
    """(n_others * n_held_out,) what these are named, numbers of types."""
    catalogue: Catalogue


def discover_types(
    train: SongSet,
    held_out: SongSet,
    embedder: Embedder,
    settings: TrainSettings,
    stream: StreamConfig,
    rng: np.random.Generator,
) -> Discovery:
    """Embed all songs by the exported encoder and find the types; CollapseError when there is nothing to tell apart."""
    embeddings = embedder.embed(train.all_features())
    s = settings.clusters
    clusterer = DensityClusterer(s.min_cluster_size, s.min_samples, s.fill_neighbours, s.min_share).fit(embeddings)
    check_clusters(clusterer.core_labels_, max_share=s.max_share)
    labels = clusterer.labels_
    # Filling may change the order of sizes; ids go by the final sizes.
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.argsort(order)
    labels = rank[labels].astype(np.int64)
    core = np.where(clusterer.core_labels_ >= 0, rank[clusterer.core_labels_], -1).astype(np.int64)
    exemplars = medoids(embeddings, labels, N_EXEMPLARS)
    prototypes, type_index = make_prototypes(embeddings, labels, max_per_type=s.max_prototypes, seed=settings.seed)
    chosen = draw_bank(labels, most=settings.novelty.max_bank, of_each=settings.novelty.n_neighbours, rng=rng)
    types = tuple(
        SongType(
            id=f"T{number + 1:04d}",
            n_songs=int((labels == number).sum()),
            exemplars=tuple(_place(train.places[i], stream.frontend.sample_rate_hz) for i in best),
        )
        for number, best in enumerate(exemplars)
    )
    held_out_embeddings = embedder.embed(held_out.all_features())

    def catalogue(calibration: FloatArray, calibration_type: IntArray | None = None) -> Catalogue:
        return Catalogue(
            prototypes=prototypes,
            type_index=type_index,
            type_ids=[t.id for t in types],
            kinds=[t.kind for t in types],
            bank=embeddings[chosen],
            calibration=calibration,
            calibration_type=calibration_type,
            novelty=settings.novelty.served(),
        )

    n = settings.novelty
    others = sung_by_others(
        held_out, stream, tempo=n.other_tempo, pitch_mels=n.other_pitch_mels, n_times=n.n_others, seed=settings.seed
    )
    # Names and scores do not depend on the calibration, which is made of them.
    uncalibrated, sung = catalogue(np.zeros(1, np.float32)), embedder.embed(others)
    calibration, calibration_type = uncalibrated.scores(sung), uncalibrated.type_numbers(sung)
    return Discovery(
        embeddings=embeddings,
        core_labels=core,
        labels=labels,
        types=types,
        exemplars=tuple(tuple(best) for best in exemplars),
        prototypes=prototypes,
        type_index=type_index,
        bank=embeddings[chosen],
        bank_labels=labels[chosen],
        held_out_embeddings=held_out_embeddings,
        calibration=calibration,
        calibration_type=calibration_type,
        catalogue=catalogue(calibration, calibration_type),
    )


def _place(place: SongPlace, rate_hz: int) -> str:
    return f"{place.recording}@{place.onset / rate_hz:.3f}-{place.offset / rate_hz:.3f}"
