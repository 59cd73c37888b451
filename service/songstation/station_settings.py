"""Settings of a field station: command line over environment over TOML file over defaults.

The environment is ``SONGSTREAM_STATION_*``; a name that is no setting is an error. docs/station.md describes each.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from songcore.errors import ConfigError
from songcore.names import NAME
from songcore.setting_problems import did_you_mean, near_names, setting_problems
from songstation.clock_kernel import ClockSetting
from songstation.spool_index import Policy, SpoolLimits

__all__ = ["ENVIRONMENT_PREFIX", "StationSettings", "load_settings"]

ENVIRONMENT_PREFIX = "SONGSTREAM_STATION_"
_LISTED = "; docs/station.md lists those there are"


class StationSettings(BaseModel):
    """How one station listens, keeps and sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    station: str = Field("station", pattern=f"^{NAME}$")
    server: str = "127.0.0.1:50051"
    spool: Path = Path("/var/lib/songstream-station")
    """Directory of the spool; one station owns it."""
    device: str | None = None
    """Microphone by name, part of it, or number; the system's default without one."""
    rate: int | None = Field(None, ge=8_000, le=384_000)
    channel: int | None = Field(None, ge=1, le=64)
    play: Path | None = None
    """A recording to play instead of a microphone."""
    pipe: Path | None = None
    """A named pipe of 16-bit mono samples instead of a microphone; their rate has to be given."""
    chunk_s: float = Field(0.5, ge=0.05, le=5)
    encoding: Literal["linear16", "flac"] = "linear16"
    """On the wire."""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    insecure: bool = False
    spool_mb: int = Field(20_000, ge=16)
    min_free_disk_mb: int = Field(200, ge=0)
    spool_full: Policy = Policy.STOP_NEW
    grace_s: float = Field(900.0, ge=0)
    """Committed sound is kept so long for a server that is restored from a backup."""
    sync_s: float = Field(1.0, gt=0, le=60)
    sync_kb: int = Field(1024, ge=1)
    """What a power cut may take: the sound of so many seconds, at most so much of it."""
    outage_s: float = Field(30.0, gt=0)
    """After a longer outage a new session begins at once, and the backlog follows beside it."""
    clock: ClockSetting = "auto"
    clock_limit_s: float = Field(2.0, gt=0)
    """With the wall clock further than this from the samples a new session begins."""
    device_retry_s: float = Field(5.0, gt=0)
    device_silent_s: float = Field(10.0, gt=0)
    device_answer_s: float = Field(60.0, gt=0)
    answer_s: float = Field(30.0, gt=0)
    """Without any answer for so long while one is due, the connection counts as dead."""
    heartbeat_s: float = Field(10.0, gt=0)
    keepalive_s: float = Field(20.0, ge=1)
    """After so long without a byte from the server it is pinged; half of that without an answer ends the connection."""
    first_retry_s: float = Field(1.0, gt=0)
    longest_retry_s: float = Field(120.0, gt=0)
    refused_retry_s: float = Field(300.0, gt=0)
    """A server that refuses the station is asked again after about so long."""
    stop_grace_s: float = Field(10.0, ge=0)
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(9465, ge=0, le=65535)
    """Port of Prometheus' HTTP; 0 takes a free one."""

    @model_validator(mode="after")
    def _check_pipe(self) -> Self:
        if self.pipe is not None and (self.rate is None or self.play is not None):
            raise ValueError("a pipe needs the rate of its samples (--rate), and nothing else to play")
        return self

    def spool_limits(self) -> SpoolLimits:
        """Return what the spool needs to know."""
        return SpoolLimits(
            max_bytes=self.spool_mb * 10**6,
            min_free_bytes=self.min_free_disk_mb * 10**6,
            policy=self.spool_full,
            grace_s=self.grace_s,
            sync_s=self.sync_s,
            sync_bytes=self.sync_kb * 1024,
        )


def load_settings(
    given: Mapping[str, Any], *, environment: Mapping[str, str], file: Path | None = None
) -> StationSettings:
    """Return the settings from what the command line gave (None for not given), environment and file.

    Raises ConfigError SETTING_INVALID or SETTING_UNKNOWN that names the setting and what is wrong with it.
    """
    settings: dict[str, Any] = {}
    variables: dict[str, str] = {}
    if file is not None:
        try:
            settings |= tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the settings file {file} cannot be read: {error}", reason="SETTING_INVALID") from error
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            setting = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            settings[setting], variables[setting] = value, name
    settings |= {name: value for name, value in given.items() if value is not None}
    if unknown := settings.keys() - StationSettings.model_fields.keys():
        told = "; ".join(_unknown(name, variables.get(name)) for name in sorted(unknown))
        raise ConfigError(told, reason="SETTING_UNKNOWN")
    try:
        return StationSettings(**settings)
    except ValidationError as error:
        problems = setting_problems(error, StationSettings, whole="")
        raise ConfigError(f"the settings cannot be used: {problems}", reason="SETTING_INVALID") from error


def _unknown(name: str, variable: str | None) -> str:
    """Return what to say of a name that is no setting, and of the variable that it is from."""
    near = near_names(name, StationSettings.model_fields)
    if variable is None:
        return f"{name} is no setting of a station{did_you_mean(near) or _LISTED}"
    meant = [ENVIRONMENT_PREFIX + one.upper() for one in near]
    return f"{variable} in the environment is no setting of a station{did_you_mean(meant) or _LISTED}"
