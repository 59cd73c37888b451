"""Run parameters of a reclustering: one TOML file, checked, with defaults that work; nothing of it travels with the model."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from songcore.errors import ConfigError
from songcore.setting_problems import setting_problems
from songtrain.recluster.groups import GroupSettings

__all__ = ["FullSettings", "GateSettings", "ReclusterSettings", "load_recluster_settings"]


class GateSettings(BaseModel):
    """What a proposal has to show before it may be served."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_stability: float = Field(default=0.85, ge=0, le=1)
    """Songs of surviving types that are called as before."""
    min_survival: float = Field(default=0.85, ge=0, le=1)
    """Songs that had a type and whose type is still one."""
    min_review: float = Field(default=0.9, ge=0, le=1)
    """Songs that people gave a type and that are called so."""
    calibration_tolerance: float = Field(default=0.02, ge=0, le=1)
    """How far the share of held-out known songs called novel may be from what was promised, beyond chance."""


class FullSettings(BaseModel):
    """How the encoder is retrained, from where it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_epochs: int = Field(default=2, ge=0, le=1000)
    n_rounds: int = Field(default=2, ge=0, le=50)
    """Fewer where the network learned in fewer at first, none where it learned in none."""
    round_epochs: int = Field(default=3, ge=1, le=1000)
    rate_share: float = Field(default=0.3, gt=0, le=1)
    """Of the learning rates that the encoder was first trained with: it shall learn new types and not forget old ones."""
    n_workers: int = Field(default=1, ge=1, le=1024)


class ReclusterSettings(BaseModel):
    """Everything of a reclustering."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, lt=2**32)
    max_known: int = Field(default=100, ge=1)
    """Songs per known type that the pool is seen beside, the latest; with `full` also those that are learned from."""
    shard_songs: int = Field(default=10_000, ge=1)
    """Songs whose neighbours are one task."""
    max_prototypes: int = Field(default=4, ge=1, le=64)
    """Of a new type."""
    max_bank: int = Field(default=50, ge=1)
    """Songs of a type that the reference bank gains."""
    held_out_share: float = Field(default=0.25, gt=0, lt=1)
    """Songs of a new type that calibrate novelty and are in no bank."""
    groups: GroupSettings = GroupSettings()
    gate: GateSettings = GateSettings()
    full: FullSettings = FullSettings()


def load_recluster_settings(file: Path | None) -> ReclusterSettings:
    """Return the defaults with what the TOML ``file`` changes; ConfigError names a wrong or unknown key."""
    if file is None:
        return ReclusterSettings()
    try:
        changes = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", reason="CONFIG_UNREADABLE") from error
    except ValueError as error:  # neither TOML nor, it may be, UTF-8
        raise ConfigError(f"{file} is not TOML ({error})", reason="CONFIG_UNREADABLE") from error
    try:
        return ReclusterSettings.model_validate(changes)
    except ValidationError as error:
        raise ConfigError(f"{file}: {setting_problems(error, ReclusterSettings)}") from error
