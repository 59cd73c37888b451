"""What station and server say to each other, in the station's own words; `songstation.wire` translates. Plain values."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

__all__ = [
    "Acknowledged",
    "ClockQuality",
    "GoingAway",
    "HeardSong",
    "Opened",
    "Pulse",
    "SessionInfo",
    "SessionNotice",
]

ClockSource = Literal["unspecified", "unsynced", "rtc", "ntp", "gnss"]


@dataclass(frozen=True, slots=True)
class ClockQuality:
    """What sets the station's clock, and how far it may be off; None when nobody can tell."""

    source: ClockSource = "unspecified"
    error_s: float | None = None


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What opens a session; the samples are 16-bit, mono."""

    name: str
    """``stations/{station}/sessions/{uuid}``."""
    sample_rate_hz: int
    start: datetime
    """UTC time of sample 0."""
    client: str
    lane: Literal["live", "backfill"] = "live"
    encoding: Literal["linear16", "flac"] = "linear16"
    """On the wire; the same in every stream of the session."""
    guesses: bool = False
    """Also hear guesses at the song that is being sung."""
    clock: ClockQuality = field(default_factory=ClockQuality)


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the station is; None for what it cannot measure."""

    held_bytes: int
    oldest: datetime | None = None
    """Capture time of the oldest sound that is not committed."""
    disk_free_bytes: int = 0
    room_bytes: int | None = None
    """How much more it can keep before sound is lost."""
    supply_volts: float | None = None
    temperature_celsius: float | None = None
    clock: ClockQuality = field(default_factory=ClockQuality)


@dataclass(frozen=True, slots=True)
class Opened:
    """The server's answer to the setup."""

    expected: int
    committed_sample: int
    window: int
    finished: bool
    window_bytes: int = 0
    resume_token: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """How far the server is."""

    received: int
    committed: int
    finished: bool
    window: int = 0
    window_bytes: int = 0
    resume_token: str = ""


@dataclass(frozen=True, slots=True)
class HeardSong:
    """A song that the server found, named and stored, or a guess at one."""

    name: str
    type_id: str
    is_song: bool
    """False for a type of kind noise."""
    similarity: float
    p_value: float
    novel: bool
    novelty: str
    """known, uncertain or novel; empty from an older server."""
    quality: str
    """good, or what is wrong with it; empty for a guess and from an older server."""
    onset_s: float
    offset_s: float
    start: datetime
    snr_db: float
    forced_cut: bool
    bundle: str
    revision: int = 0
    """Of a guess at a song that is being sung: 1, 2, ...; 0 for a song that was found, named and stored."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs, with the uid by which other commands know the song."""
        return {"uid": self.name.rpartition("/")[2], **asdict(self)}


@dataclass(frozen=True, slots=True)
class SessionNotice:
    """Something that whoever looks after the station should know."""

    kind: str
    message: str
    start_sample: int
    n_samples: int


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The server is about to stop."""

    retry_after_s: float
