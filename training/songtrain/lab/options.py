"""A system with other parameters or parts than declared: as many clusters, as many minutes, or whatever a sweep tries."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.lab.parts import COUNTS, PARTS, Kind, build, n_clusters_asked, parts_of
from songtrain.lab.systems import SYSTEMS, Part, System, part
from songtrain.settings import preset_for

__all__ = ["CLUSTERS", "n_clusters_given", "with_clusters", "with_minutes", "with_parameters", "with_sound"]

CLUSTERS = "clusters"
"""What a sweep calls the number of clusters, whichever parts are told it."""
REPLACEABLE: tuple[Kind, ...] = ("features", "reducer", "clusterer")
"""Kinds of parts that another can stand in for; an encoder goes with its features, and is another system."""
N_CLUSTERS = 64
"""Of a clusterer that is told a number in a system that finds it: what systems are declared with."""


def with_parameters(system: System, parameters: Mapping[str, Any], max_minutes: float | None = None) -> System:
    """Return the system with parameters such as ``clusterer.n_clusters`` set; ConfigError lists the choices when unknown.

    What is nested in a parameter is named likewise, ``encoder.changes.rounds.scale``; ``clusters`` is as in `with_clusters`.
    A kind of part alone, ``clusterer``, names the part to take instead, before all else is set: with the parameters that the
    first declared system gives it behind the same part, or else its defaults, and told as many clusters as the one that it
    replaces. ``max_minutes`` is as in `with_minutes`, where parameters do not say otherwise.
    """
    for named in (kind for kind in REPLACEABLE if kind in parameters):
        system = _with_part(system, named, str(parameters[named]))
    if max_minutes is not None:
        system = with_minutes(system, max_minutes)
    for name, value in ((name, value) for name, value in parameters.items() if name not in REPLACEABLE):
        if name == CLUSTERS:
            # Of several clusterers some may find the number.
            if not _counts(system) and "clusterer" not in parameters:
                raise ConfigError(f"{system.name} is given no number of clusters: it finds it", reason="PART_UNKNOWN")
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"clusters={value}: expected a whole number from 1", reason="GRID_INVALID")
            system = with_clusters(system, value)
            continue
        kind, _, option = name.partition(".")
        chosen = parts_of(system)
        known = [k for k in chosen if k == kind]
        if not known or not option:
            raise ConfigError(
                f"{system.name} has no parameter {name!r}: write PART.PARAMETER with a part of {', '.join(chosen)}, or name "
                f"another part as {', '.join(kind for kind in REPLACEABLE if kind in chosen)}",
                reason="PART_UNKNOWN",
            )
        own = chosen[known[0]]
        changed = part(own.name, **_within(dict(own.parameters), option.split("."), value))
        build(known[0], changed)
        options: dict[str, Any] = {kind: changed}
        system = replace(system, **options)
    return system


def with_sound(system: System, stream: StreamConfig) -> System:
    """Return the system asked for types no smaller than the preset for this kind of sound has them, unless it says so itself.

    Itself where its clusterer takes no such part of the songs.
    """
    share = preset_for(stream).clusters.min_share
    given = dict(system.clusterer.parameters).keys() & {"min_share", "min_cluster_size"}
    if share is None or given or "min_share" not in build("clusterer", system.clusterer).get_params(deep=False):
        return system
    return with_parameters(system, {"clusterer.min_share": share})


def with_clusters(system: System, n_clusters: int) -> System:
    """Return the system asked for that many clusters, itself when it finds their number."""
    return with_parameters(system, dict.fromkeys(_counts(system), n_clusters))


def with_minutes(system: System, max_minutes: float) -> System:
    """Return the system with that much time for each of its networks, itself when it trains none."""
    options = _first(system, "encoder", ("max_minutes",)) | _first(system, "clusterer", ("max_minutes",))
    return with_parameters(system, dict.fromkeys(options, max_minutes))


def n_clusters_given(system: System) -> int | None:
    """Return how many clusters clusterer or encoder are told to find; None when the system finds their number."""
    clusterer = build("clusterer", system.clusterer)
    asked = n_clusters_asked(clusterer)
    if asked is not None or not _is_set_by_encoder(system):
        return asked
    assert system.encoder is not None  # noqa: S101 - for mypy
    given = build("encoder", system.encoder).get_params(deep=False).get("n_clusters")
    return None if given is None else int(given)


def _with_part(system: System, kind: Kind, name: str) -> System:
    """Return the system with the part of this name, as `with_parameters` says; ConfigError when there is none."""
    own = parts_of(system).get(kind)
    if own is None:
        raise ConfigError(f"{system.name} has no {kind} to replace: its encoder takes the songs", reason="PART_UNKNOWN")
    if own.name == name:
        return system
    place = (_place(system, kind)[0], name)
    declared = (parts_of(other)[kind] for other in SYSTEMS.values() if _place(other, kind) == place)
    chosen: dict[str, Any] = {kind: next(declared, Part(name))}
    build(kind, chosen[kind])
    changed = replace(system, **chosen)
    if kind != "clusterer":
        return changed
    n_clusters = n_clusters_given(system) or N_CLUSTERS
    return with_parameters(changed, dict.fromkeys(_first(changed, kind, COUNTS), n_clusters))


def _place(system: System, kind: Kind) -> tuple[str, str]:
    """Return the names of the part in front of the one of this kind, and of that one; empty where there is none."""
    names, kinds = {k: chosen.name for k, chosen in parts_of(system).items()}, list(PARTS)
    before = [name for k, name in names.items() if kinds.index(k) < kinds.index(kind)]
    return before[-1] if before else "", names.get(kind, "")


def _counts(system: System) -> dict[str, None]:
    """Return the parameters that tell clusterer and encoder how many clusters to find."""
    return _first(system, "clusterer", COUNTS) | _first(system, "encoder", ("n_clusters",))


def _within(known: Any, path: Sequence[str], value: Any) -> Any:
    """Return the nested mappings with the value at this path."""
    if not path:
        return value
    known = known if isinstance(known, Mapping) else {}
    return {**known, path[0]: _within(known.get(path[0]), path[1:], value)}


def _is_set_by_encoder(system: System) -> bool:
    return system.encoder is not None and system.clusterer.name == "argmax"


def _first(system: System, kind: Kind, names: tuple[str, ...]) -> dict[str, None]:
    """Return the first of ``names`` that the part of this kind takes, written as in `with_parameters`."""
    chosen = parts_of(system).get(kind)
    if chosen is None:
        return {}
    known = build(kind, chosen).get_params(deep=False)
    return {f"{kind}.{name}": None for name in [name for name in names if name in known][:1]}
