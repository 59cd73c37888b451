"""All parts by name, and how a declared part becomes an estimator."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN, OPTICS, AgglomerativeClustering, KMeans, MeanShift
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import FunctionTransformer, Normalizer

from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.clusterers.density import DensityClusterer
from songtrain.clusterers.spherical import SphericalKMeans
from songtrain.lab.features import Cepstra, Chroma, LogMelImage, ModulationSpectrum
from songtrain.lab.systems import Part, System
from songtrain.reducers.components import UnitComponents
from songtrain.reducers.projections import Components, NeighbourMap, UniformMap

__all__ = ["PARTS", "Kind", "build", "describe", "n_clusters_asked", "with_clusters"]

Kind: TypeAlias = Literal["features", "encoder", "reducer", "clusterer"]


def _self_labelled() -> BaseEstimator:
    # Brings torch, which costs every process without a network seconds and hundreds of megabytes.
    from songtrain.lab.encoders import SelfLabelledEncoder

    return SelfLabelledEncoder()


PARTS: Mapping[Kind, Mapping[str, Callable[[], BaseEstimator]]] = {
    "features": {
        "log-mel": LogMelImage,
        "modulation": ModulationSpectrum,
        "chroma": Chroma,
        "mfcc": Cepstra,
    },
    "encoder": {"self-labelled": _self_labelled},
    "reducer": {
        "none": FunctionTransformer,
        "l2": Normalizer,
        "pca": Components,
        "unit-pca": UnitComponents,
        "tsne": NeighbourMap,
        "umap": UniformMap,
    },
    "clusterer": {
        "kmeans": lambda: KMeans(n_init=3),
        "spherical-kmeans": SphericalKMeans,
        "optics": OPTICS,
        "dbscan": DBSCAN,
        "hdbscan": DensityClusterer,
        "meanshift": MeanShift,
        "agglomerative": lambda: AgglomerativeClustering(linkage="average"),
        "gmm": lambda: GaussianMixture(covariance_type="diag"),
    },
}
"""Scikit-learn's own estimators where it has them, with its parameters; songtrain's own have the same habits."""

SEEDS = ("random_state", "seed")
COUNTS = ("n_clusters", "n_components")
"""What clusterers call the number of clusters that they are given."""


def build(kind: Kind, part: Part, *, seed: int = 0, stream: StreamConfig | None = None) -> BaseEstimator:
    """Return the estimator that the part declares, with seed and front end where it takes one.

    ConfigError lists the choices when name or parameter is unknown.
    """
    if part.name not in PARTS[kind]:
        raise ConfigError(f"no {kind} {part.name!r}: choose among {', '.join(PARTS[kind])}", reason="PART_UNKNOWN")
    estimator = PARTS[kind][part.name]()
    known = estimator.get_params(deep=False)
    unknown = [name for name, _ in part.parameters if name not in known]
    if unknown:
        raise ConfigError(
            f"{part.name} has no parameter {', '.join(unknown)}: choose among {', '.join(known)}", reason="PART_UNKNOWN"
        )
    given: dict[str, Any] = {name: seed for name in SEEDS if name in known}
    if stream is not None:
        given |= {name: value for name, value in (("frontend", stream.frontend), ("stream", stream)) if name in known}
    return estimator.set_params(**(given | dict(part.parameters)))


def n_clusters_asked(clusterer: BaseEstimator) -> int | None:
    """Return how many clusters the clusterer is told to find, None when it finds their number."""
    known = clusterer.get_params(deep=False)
    return next((int(known[name]) for name in COUNTS if known.get(name) is not None), None)


def with_clusters(system: System, n_clusters: int) -> System:
    """Return the system asked for that many clusters, itself when its clusterer finds their number."""
    known = build("clusterer", system.clusterer).get_params(deep=False)
    name = next((name for name in COUNTS if name in known), None)
    if name is None:
        return system
    parameters = dict(system.clusterer.parameters) | {name: n_clusters}
    return replace(system, clusterer=Part(system.clusterer.name, tuple(sorted(parameters.items()))))


def describe(system: System, stream: StreamConfig) -> str:
    """Return every parameter of every part, defaults included: two systems with one description give the same labels."""
    chosen: dict[Kind, Part | None] = {
        "features": system.features,
        "encoder": system.encoder,
        "reducer": system.reducer,
        "clusterer": system.clusterer,
    }
    parts = {
        kind: [part.name, build(kind, part, stream=stream).get_params(deep=False)]
        for kind, part in chosen.items()
        if part is not None
    }
    return json.dumps(parts, default=str, sort_keys=True)
