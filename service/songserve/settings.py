"""Deployment settings of the service: command line over environment over TOML file over defaults.

The environment is ``SONGSTREAM_SERVE_*``; a name there or in the file that is no setting is an error, not a surprise. Each
setting is described in docs/operating.md, and a test compares.
"""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from songcore.embed import Device
from songcore.errors import ConfigError
from songcore.setting_problems import did_you_mean, has_unknown_setting, near_names, setting_problems
from songserve.records import ClipChoice

__all__ = ["ENVIRONMENT_PREFIX", "ServeSettings", "load_settings"]

ENVIRONMENT_PREFIX = "SONGSTREAM_SERVE_"
_PAGE = "docs/operating.md"
MESSAGE_OVERHEAD_BYTES = 4096
"""Of a chunk's message, far more than its other fields take."""


class ServeSettings(BaseSettings):
    """How one server runs; what it hears is decided by the bundle alone."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True)

    bundle: Path
    """Directory of the bundle to serve."""
    data_dir: Path
    """Directory of the database and the clips; one server owns it."""
    models_dir: Path | None = None
    """Further bundles, each in a directory called by its digest; None for `models` in the data directory."""
    activate_bundle: bool = False
    """Make `bundle` the active one at start, whatever was active before."""
    database_url: SecretStr | None = None
    """PostgreSQL to use in place of the SQLite file, ``postgresql+psycopg://user:password@host/database``."""
    listen: str = "127.0.0.1:50051"
    """Host and port of gRPC; port 0 takes a free one."""
    insecure: bool = False
    """Listen without encryption or credentials on an address that others can reach."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    """PEM files; read again when they change."""
    tls_client_ca: Path | None = None
    """Let in only clients with a certificate of this authority, which names their station."""
    token_file: Path | None = None
    """Let in only callers with a token of this file, which `songstream token` writes."""
    recheck_s: float = Field(60.0, gt=0, le=3600)
    """How often the credentials of a long call are checked again."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(9464, ge=0, le=65535)
    """Port of Prometheus' HTTP; 0 takes a free one."""
    device: Device = "auto"
    """Where the encoder runs."""
    reflection: bool = True
    """Let tools like grpcurl ask for the API."""
    max_streams: int = Field(1000, ge=1)
    max_streams_per_station: int = Field(4, ge=0)
    """This and the next four bind only where callers need credentials; 0 for no limit."""
    max_sessions_per_day: int = Field(1000, ge=0)
    """New sessions of one station, at once and then in the course of a day."""
    live_speed: float = Field(4.0, ge=0)
    backfill_speed: float = Field(16.0, ge=0)
    """Seconds of sound that a station may send for each second, by lane; then it is read more slowly."""
    burst_s: float = Field(600.0, ge=0)
    """Seconds of sound that may come at once after a quiet time."""
    max_message_kb: int = Field(1024, ge=16, le=16 * 1024)
    """Largest message of gRPC, unpacked."""
    max_metadata_kb: int = Field(16, ge=4, le=1024)
    """Largest metadata of a call."""
    max_calls_per_connection: int = Field(256, ge=1)
    """Calls at once over one connection; more wait at the client."""
    max_connection_age_s: float = Field(86_400.0, ge=0)
    """Age at which a connection is replaced, so that certificates are checked anew; 0 for never."""
    connection_grace_s: float = Field(60.0, ge=0)
    """Seconds that the calls of an old connection have to end."""
    lookahead_kb: int = Field(128, ge=16, le=16 * 1024)
    """Unread bytes of a stream that gRPC takes in ahead."""
    max_chunk_bytes: int = Field(512 * 1024, ge=256 * 1024, le=960 * 1024)
    """No less than the longest chunk of songstream's own stations: what they have cut and kept is never cut anew, so a spool
    with longer ones could not be sent."""
    max_in_flight_chunks: int = Field(64, ge=2, le=10_000)
    """Chunks of a stream that wait in memory; then reading stops."""
    max_waiting_kb: int = Field(128, ge=1, le=64 * 1024)
    """Audio of a stream that waits in memory; then reading stops. It bounds what a client parks that takes no answers."""
    max_in_flight_mb: int = Field(256, ge=1)
    """Audio of all streams and uploads that may wait in memory; the nearer it is, the less may each station send ahead."""
    lease_s: float = Field(3600.0, ge=0)
    """Age at which a stream is asked to reconnect; 0 for never."""
    max_recording_mb: int = Field(4096, ge=1)
    """Largest file that ClassifyRecording takes."""
    max_recording_hours: float = Field(100.0, gt=0)
    """Longest recording, as packed silence of months fits into a small file."""
    setup_timeout_s: float = Field(10.0, gt=0)
    idle_timeout_s: float = Field(60.0, gt=0)
    """Seconds that a stream may say nothing, or take no answer."""
    drain_grace_s: float = Field(20.0, ge=0)
    """Seconds that streams have to end after SIGTERM."""
    commit_interval_s: float = Field(2.0, gt=0, le=60)
    """Seconds of audio after which a stream commits even if no song ended."""
    group_window_ms: float = Field(50.0, ge=0, le=1000)
    """How long a transaction waits for commits of other streams."""
    min_free_disk_mb: int = Field(64, ge=0)
    """With less than this free, nothing is written or acknowledged."""
    clips: ClipChoice = "songs"
    """Whose sound is kept: none, novel (songs only), songs, or all (known noise too)."""
    clip_pre_roll_s: float = Field(0.5, ge=0, le=10)
    clip_post_roll_s: float = Field(0.5, ge=0, le=10)
    """Seconds of sound in a clip before and after its song."""
    clip_days: int = Field(400, ge=1, le=36_500)
    """Clips of older songs are deleted."""
    clip_quota_mb: int = Field(20_000, ge=0)
    """With more clips than this the oldest are deleted."""
    listen_threads: int = Field(1, ge=1, le=64)
    """Threads of signal processing."""
    listen_window_ms: float = Field(150.0, ge=0, le=1000)
    """How long chunks of different streams wait to be listened to together."""
    max_batch: int = Field(32, ge=1, le=1024)
    max_batch_delay_ms: float = Field(5.0, ge=0, le=1000)
    max_pending_songs: int = Field(512, ge=1)
    """Songs that wait for the encoder; then streams wait."""

    @model_validator(mode="after")
    def _check_listen(self) -> Self:
        host, port = self.listen_address
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} of listen {self.listen!r} is not in 0-65535")
        if self.max_chunk_bytes + MESSAGE_OVERHEAD_BYTES > self.max_message_kb * 1024:
            raise ValueError(f"a chunk of max_chunk_bytes {self.max_chunk_bytes} does not fit into max_message_kb")
        if (self.tls_certificate is None) != (self.tls_key is None) or (
            self.tls_client_ca and not self.tls_certificate
        ):
            raise ValueError("tls_certificate and tls_key belong together, and tls_client_ca needs both")
        if not self.insecure:
            self._check_public(host)
        return self

    @property
    def bundles_dir(self) -> Path:
        """Where bundles that may be activated are."""
        return self.models_dir or self.data_dir / "models"

    @property
    def max_in_flight_bytes(self) -> int:
        """`max_in_flight_mb` in bytes."""
        return self.max_in_flight_mb * 2**20

    @property
    def protected(self) -> bool:
        """Whether what others can reach is encrypted and asks who calls."""
        asks = self.token_file is not None or self.tls_client_ca is not None
        return _is_loopback(self.listen_address[0]) or (self.tls_certificate is not None and asks)

    def _check_public(self, host: str) -> None:
        if self.protected:
            return
        if self.tls_certificate is None:
            raise ValueError(
                f"{host} can be reached by others and this server does not encrypt; give --tls-certificate and --tls-key "
                "(docs/security.md shows how to make them), listen on 127.0.0.1 behind a proxy that encrypts, or say "
                "--insecure"
            )
        raise ValueError(
            f"{host} can be reached by others and this server lets everyone in; give --token-file (`songstream token add` "
            "makes one) or --tls-client-ca, or say --insecure"
        )

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host, without the brackets of IPv6, and port."""
        host, separator, port = self.listen.rpartition(":")
        if not separator or not port.isdecimal() or not host:
            raise ValueError(f"listen {self.listen!r} is not of the form host:port")
        return host.removeprefix("[").removesuffix("]"), int(port)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources; the file is named at `load_settings`."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(given: Mapping[str, Any], *, file: Path | None = None) -> ServeSettings:
    """Return the settings from what the command line gave (None for not given), environment and file.

    Raises ConfigError SETTING_UNKNOWN or SETTING_INVALID that names the setting, what is wrong with it and what was expected.
    """
    unknown = [
        name
        for name in os.environ
        if name.startswith(ENVIRONMENT_PREFIX)
        and name.removeprefix(ENVIRONMENT_PREFIX).lower() not in ServeSettings.model_fields
    ]
    if unknown:
        told = "; ".join(f"{name} in the environment is no setting{_instead(name)}" for name in sorted(unknown))
        raise ConfigError(told, reason="SETTING_UNKNOWN")

    class FromFile(ServeSettings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        if file is not None and not file.is_file():
            raise ConfigError(f"the settings file {file} does not exist", reason="SETTING_INVALID")
        return FromFile(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = setting_problems(error, ServeSettings, whole="", listed_in=_PAGE, missing=_how_to_give)
        raise ConfigError(
            f"the settings cannot be used: {problems}",
            reason="SETTING_UNKNOWN" if has_unknown_setting(error) else "SETTING_INVALID",
        ) from error
    except ValueError as error:
        raise ConfigError(f"the settings file {file} cannot be read: {error}", reason="SETTING_INVALID") from error


def _instead(variable: str) -> str:
    """Return what to write in the place of a variable that is no setting."""
    near = near_names(variable.removeprefix(ENVIRONMENT_PREFIX), ServeSettings.model_fields)
    return did_you_mean([ENVIRONMENT_PREFIX + one.upper() for one in near]) or f"; {_PAGE} lists those there are"


def _how_to_give(name: str) -> str:
    return f"give --{name.replace('_', '-')}, {ENVIRONMENT_PREFIX}{name.upper()}, or {name} in the --config file"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
