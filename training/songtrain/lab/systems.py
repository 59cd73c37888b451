"""What a system is, and those that ship: a short declaration of parts, from songs to clusters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from songcore.errors import ConfigError

__all__ = ["SYSTEMS", "Part", "System", "choose_systems", "part"]


@dataclass(frozen=True)
class Part:
    """A part by name, with the parameters that differ from its defaults."""

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        words = ", ".join(f"{key}={value}" for key, value in self.parameters)
        return f"{self.name}({words})" if words else self.name


def part(name: str, **parameters: Any) -> Part:
    """Return the part with these parameters."""
    return Part(name, tuple(sorted(parameters.items())))


@dataclass(frozen=True)
class System:
    """Songs → features or encoder → reducer → clusterer."""

    name: str
    source: str
    """Where the method comes from."""
    features: Part | None
    """None when the encoder takes the songs themselves."""
    encoder: Part | None
    reducer: Part
    clusterer: Part
    note: str = ""

    def __post_init__(self) -> None:
        if self.features is None and self.encoder is None:
            raise ConfigError(f"{self.name} has neither features nor an encoder; declare one", reason="SYSTEM_INVALID")

    @property
    def chain(self) -> str:
        """The parts in words."""
        parts = (self.features, self.encoder, self.reducer, self.clusterer)
        return " → ".join(str(part) for part in parts if part is not None)


_BASENET = part("pca", n_components=128, whiten=True)
_CHROMA = part("pca", n_components=144, unit=False)
_FLOOR = part("pca", n_components=64)
_DEEP = "songtrain: contrastive warm-up, ArcFace on dense cores"

_ALL = (
    System(
        "classical-floor",
        "songtrain: what a network has to beat",
        part("modulation"),
        None,
        _FLOOR,
        part("hdbscan"),
        "finds the number of types",
    ),
    System(
        "modulation-kmeans",
        "the classical floor with the clusterer of the sources",
        part("modulation"),
        None,
        _FLOOR,
        part("kmeans", n_clusters=64),
    ),
    System(
        "basenet-kmeans",
        "BASENet",
        part("log-mel"),
        None,
        _BASENET,
        part("kmeans", n_clusters=64),
        "the source tries 64 to 2048 clusters",
    ),
    System("basenet-optics", "BASENet", part("log-mel"), None, _BASENET, part("optics", min_samples=5)),
    System(
        "chroma-kmeans",
        "chroma baseline",
        part("chroma"),
        None,
        _CHROMA,
        part("kmeans", n_clusters=64),
        "the source tries 2 to 20 clusters",
    ),
    System(
        "chroma-dbscan",
        "chroma baseline",
        part("chroma"),
        None,
        part("pca", n_components=144),
        part("dbscan", eps=0.5, min_samples=5),
        "the source saw it collapse into one cluster",
    ),
    System("recipe", _DEEP, None, part("self-labelled"), part("unit-pca"), part("hdbscan"), "as songstream train"),
    System(
        "recipe-kmeans",
        _DEEP,
        None,
        part("self-labelled"),
        part("unit-pca"),
        part("kmeans", n_clusters=64),
        "as recipe",
    ),
)
SYSTEMS: dict[str, System] = {system.name: system for system in _ALL}


def choose_systems(names: Sequence[str]) -> tuple[System, ...]:
    """Return the systems of these names, each once, or all when there is no name; ConfigError lists the choices."""
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise ConfigError(
            f"no system {', '.join(map(repr, unknown))}: choose among {', '.join(SYSTEMS)}", reason="SYSTEM_UNKNOWN"
        )
    return tuple(SYSTEMS[name] for name in dict.fromkeys(names or SYSTEMS))
