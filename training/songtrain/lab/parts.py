"""All parts by name, and how a declared part becomes an estimator."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b, file_digest
from importlib import import_module
from inspect import getfile
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sklearn.base import BaseEstimator

from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.datasets.sound import SoundSource
from songtrain.lab.systems import Part, System, part

__all__ = ["PARTS", "Kind", "build", "chain_of", "describe", "n_clusters_asked", "parts_of", "takes"]

Kind: TypeAlias = Literal["features", "encoder", "reducer", "clusterer"]


PARTS: Mapping[Kind, Mapping[str, str]] = {
    "features": {
        "log-mel": "songtrain.lab.features:LogMelImage",
        "modulation": "songtrain.lab.features:ModulationSpectrum",
        "chroma": "songtrain.lab.features:Chroma",
        "mfcc": "songtrain.lab.features:Cepstra",
        "sound-log-mel": "songtrain.lab.sound_features:SoundLogMel",
        "sound-chroma": "songtrain.lab.sound_features:SoundChroma",
        "sound-mfcc": "songtrain.lab.sound_features:SoundCepstra",
    },
    "encoder": {
        "self-labelled": "songtrain.methods.self_labelled:SelfLabelledEncoder",
        "simclr": "songtrain.methods.contrastive:SimCLR",
        "byol-a": "songtrain.methods.bootstrap:BYOLA",
        "contrastive-clustering": "songtrain.methods.contrastive:ContrastiveClustering",
        "deep-cluster": "songtrain.methods.deep_cluster:DeepCluster",
        "nscnet": "songtrain.methods.nscnet:NSCNet",
        "autoencoder": "songtrain.methods.autoencoder:AutoencoderEncoder",
        "vade": "songtrain.methods.vade:VaDE",
        "random-light": "songtrain.methods.untrained:UntrainedEncoder",
        "spice": "songtrain.methods.spice:PrototypeLabels",
        "secu": "songtrain.methods.secu:StableClusters",
        "onnx": "songtrain.methods.frozen:OnnxEncoder",
        "transformer": "songtrain.methods.transformers_local:LocalTransformer",
        "random-transformer": "songtrain.methods.transformers_local:RandomTransformer",
    },
    "reducer": {
        "none": "sklearn.preprocessing:FunctionTransformer",
        "l2": "sklearn.preprocessing:Normalizer",
        "pca": "songtrain.reducers.projections:Components",
        "unit-pca": "songtrain.reducers.components:UnitComponents",
        "lda": "songtrain.reducers.projections:DiscriminantMap",
        "tsne": "songtrain.reducers.projections:NeighbourMap",
        "umap": "songtrain.reducers.projections:UniformMap",
    },
    "clusterer": {
        "kmeans": "sklearn.cluster:KMeans",
        "spherical-kmeans": "songtrain.clusterers.spherical:SphericalKMeans",
        "optics": "sklearn.cluster:OPTICS",
        "dbscan": "sklearn.cluster:DBSCAN",
        "hdbscan": "songtrain.clusterers.density:DensityClusterer",
        "hdbscan-graph": "songtrain.clusterers.density_graph:GraphDensityClusterer",
        "meanshift": "sklearn.cluster:MeanShift",
        "agglomerative": "sklearn.cluster:AgglomerativeClustering",
        "gmm": "sklearn.mixture:GaussianMixture",
        "communities": "songtrain.clusterers.communities:EigenvectorCommunities",
        "louvain": "songtrain.clusterers.communities:LouvainCommunities",
        "argmax": "songtrain.clusterers.argmax:LargestShare",
        "temi": "songtrain.clusterers.temi:NeighbourHeads",
    },
}
"""Where the estimators are: scikit-learn's own, with its parameters, where it has them; songtrain's have the same habits.

Imported when first built, since torch costs every process without a network seconds and hundreds of megabytes.
"""

BETTER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "kmeans": {"n_init": 3},
    "agglomerative": {"linkage": "average"},
    "gmm": {"covariance_type": "diag"},
}
"""Where scikit-learn's own are not what anyone wants of thousands of songs."""

LATER: Mapping[str, Mapping[str, Any]] = {
    "nscnet": {"epoch_length": 1},
    "vade": {"zipf_exponent": None, "zipf_weight": 1.0},
}
"""Parameters that parts did not have from the start: with these values a part does what it did before, and its description
says nothing of them, so that rows made before still count."""

SEEDS = ("random_state", "seed")
CONTENT = "content"
"""In a description: what a part of a user's own is, by its files; a path says nothing of what lies there now."""
_NOT_CHOSEN = (*SEEDS, "frontend", "stream", "sound", CONTENT)
"""What `build` and `describe` set by themselves."""
OF_SONGS = ("settings", "sound")
"""What only encoders of songs, not of features, are told: how to train on them, or where their sound is."""
COUNTS = ("n_clusters", "n_components")
"""What clusterers call the number of clusters that they are given."""


def build(
    kind: Kind, part: Part, *, seed: int = 0, stream: StreamConfig | None = None, sound: SoundSource | None = None
) -> BaseEstimator:
    """Return the estimator that the part declares, with seed, front end and source of the songs' sound where it takes one.

    A name like ``package.module:Class`` is an estimator of one's own, imported from there. ConfigError lists the choices
    when name or parameter is unknown.
    """
    estimator = _estimator(kind, part.name)
    known = estimator.get_params(deep=False)
    unknown = [name for name, _ in part.parameters if name not in known]
    if unknown:
        raise ConfigError(
            f"{part.name} has no parameter {', '.join(unknown)}: choose among {', '.join(known)}", reason="PART_UNKNOWN"
        )
    given: dict[str, Any] = {name: seed for name in SEEDS if name in known}
    if stream is not None:
        given |= {name: value for name, value in (("frontend", stream.frontend), ("stream", stream)) if name in known}
    if sound is not None and "sound" in known:
        given["sound"] = sound
    return estimator.set_params(**(given | dict(part.parameters)))


def _estimator(kind: Kind, name: str) -> BaseEstimator:
    where = name if ":" in name else PARTS[kind].get(name)
    if where is None:
        raise ConfigError(f"no {kind} {name!r}: choose among {', '.join(PARTS[kind])}", reason="PART_UNKNOWN")
    module, _, attribute = where.partition(":")
    try:
        estimator: BaseEstimator = getattr(import_module(module), attribute)(**BETTER_DEFAULTS.get(name, {}))
    except (ModuleNotFoundError, AttributeError) as error:
        if where != name:
            raise
        raise ConfigError(
            f"{kind} {name!r} cannot be imported ({error}); is its package installed?", reason="PART_UNKNOWN"
        ) from error
    return estimator


def takes(kind: Kind, chosen: Part, names: Sequence[str]) -> bool:
    """Return True when the part has a parameter of one of these names."""
    return any(name in names for name in _estimator(kind, chosen.name).get_params(deep=False))


def n_clusters_asked(clusterer: BaseEstimator) -> int | None:
    """Return how many clusters the clusterer is told to find, None when it finds their number."""
    known = clusterer.get_params(deep=False)
    return next((int(known[name]) for name in COUNTS if known.get(name) is not None), None)


def parts_of(system: System) -> dict[Kind, Part]:
    """Return the system's parts by kind, in the order in which songs pass them."""
    chosen: dict[Kind, Part | None] = {
        "features": system.features,
        "encoder": system.encoder,
        "reducer": system.reducer,
        "clusterer": system.clusterer,
    }
    return {kind: part for kind, part in chosen.items() if part is not None}


def describe(system: System, stream: StreamConfig) -> str:
    """Return every parameter of every part, defaults included: two systems with one description give the same labels.

    ConfigError when features stand before an encoder that takes the songs themselves.
    """
    if system.features is not None and system.encoder is not None and _takes_songs(system.encoder):
        raise ConfigError(
            f"{system.name}: the encoder {system.encoder.name} takes the songs themselves; leave out the features "
            f"{system.features.name}, or name another encoder",
            reason="SYSTEM_INVALID",
        )
    parts = {}
    for kind, chosen in parts_of(system).items():
        estimator = build(kind, chosen, stream=stream)
        values = estimator.get_params(deep=False)
        later = LATER.get(chosen.name, {}).items()
        told = {name: value for name, value in values.items() if (name, value) not in later}
        if content := _content(chosen, estimator):
            told[CONTENT] = content
        parts[kind] = [chosen.name, told]
    return json.dumps(parts, default=str, sort_keys=True)


def _takes_songs(encoder: Part) -> bool:
    """Whether the encoder is one of ours that takes songs; what an estimator of one's own takes is its own affair."""
    return encoder.name in PARTS["encoder"] and takes("encoder", encoder, OF_SONGS)


def _content(chosen: Part, estimator: BaseEstimator) -> str:
    """Return a name for the files of a user's own that decide what a part does, its class and its model; empty without any.

    Empty as well where they cannot be read here: the row tells why, and on a cluster they may lie on other nodes only.
    """
    try:
        files = [Path(getfile(type(estimator)))] if ":" in chosen.name else []
        files += estimator.model_files() if hasattr(estimator, "model_files") else []
        return _digest(tuple((path, path.stat().st_mtime_ns) for path in files)) if files else ""
    except (OSError, ConfigError):
        return ""


@lru_cache(maxsize=64)
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    """Return a name for the content of files, each with the time of its last change."""
    digest = blake2b(digest_size=16)
    for path, _ in files:
        with path.open("rb") as file:
            digest.update(file_digest(file, lambda: blake2b(digest_size=16)).digest())
    return digest.hexdigest()


def chain_of(description: str) -> str:
    """Return the parts of a description in words, with all counts and what else differs from the parts' defaults."""
    told = json.loads(description or "{}")
    words = []
    for kind in (kind for kind in PARTS if kind in told):
        name, values = told[kind]
        shown = {key: value for key, value in values.items() if key not in _NOT_CHOSEN and value is not None}
        usual = {key: value for key, value in _usual(kind, name).items() if key not in COUNTS}
        words.append(part(name, **{key: value for key, value in shown.items() if usual.get(key) != value}))
    return " → ".join(map(str, words)) or "–"


def _usual(kind: Kind, name: str) -> dict[str, Any]:
    """Return the part's defaults as a description has them, none where it cannot be had any more."""
    try:
        defaults: dict[str, Any] = json.loads(json.dumps(_estimator(kind, name).get_params(deep=False), default=str))
    except (ConfigError, ImportError):
        return {}
    return defaults
