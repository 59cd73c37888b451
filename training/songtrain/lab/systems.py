"""What a system is, and those that ship: a short declaration of parts, from songs to clusters."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from songcore.errors import ConfigError
from songcore.setting_problems import setting_problems

__all__ = ["SYSTEMS", "Part", "System", "choose_systems", "part", "read_systems", "shipped_declarations"]


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
    """Songs → features or encoder, or features → encoder, → reducer → clusterer."""

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


class _Declaration(BaseModel):
    """A system as it stands in a file."""

    model_config = ConfigDict(extra="forbid")

    source: str = ""
    features: str | dict[str, Any] | None = None
    encoder: str | dict[str, Any] | None = None
    reducer: str | dict[str, Any] = "none"
    clusterer: str | dict[str, Any]
    note: str = ""


def read_systems(text: str, where: str) -> dict[str, System]:
    """Return the systems that TOML ``text`` declares, by name; ConfigError names what is wrong in ``where``."""
    try:
        return {name: _system(name, _Declaration.model_validate(table)) for name, table in tomllib.loads(text).items()}
    except ValidationError as error:
        problems = setting_problems(error, _Declaration, whole="system")
        raise ConfigError(f"{where}: {problems}", reason="SYSTEM_INVALID") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML ({error})", reason="SYSTEM_INVALID") from error


def choose_systems(names: Sequence[str], file: Path | None = None) -> tuple[System, ...]:
    """Return the systems of these names, each once, or all when there is no name; ConfigError lists the choices.

    The systems of ``file`` come after those that ship, or instead of those with the same names; when no name is given, they
    alone are chosen.
    """
    own: Mapping[str, System] = {}
    if file is not None:
        try:
            own = read_systems(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {file} ({error})", reason="CONFIG_UNREADABLE") from error
    known = SYSTEMS | dict(own)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"no system {', '.join(map(repr, unknown))}: choose among {', '.join(known)}", reason="SYSTEM_UNKNOWN"
        )
    return tuple(known[name] for name in dict.fromkeys(names or own or known))


def _system(name: str, declared: _Declaration) -> System:
    return System(
        name=name,
        source=declared.source,
        features=None if declared.features is None else _part(name, declared.features),
        encoder=None if declared.encoder is None else _part(name, declared.encoder),
        reducer=_part(name, declared.reducer),
        clusterer=_part(name, declared.clusterer),
        note=declared.note,
    )


def _part(system: str, declared: str | dict[str, Any]) -> Part:
    if isinstance(declared, str):
        return Part(declared)
    parameters = dict(declared)
    name = parameters.pop("part", None)
    if not isinstance(name, str):
        raise ConfigError(f'{system}: {declared} does not say which part; add part = "name"', reason="SYSTEM_INVALID")
    return part(name, **parameters)


def shipped_declarations() -> str:
    """Return the TOML text of the systems that ship."""
    return files("songtrain.lab").joinpath("systems.toml").read_text(encoding="utf-8")


SYSTEMS: dict[str, System] = read_systems(shipped_declarations(), "systems.toml")
