"""What the service remembers: sessions, songs, and the commits that move a session forward.

Plain values without behaviour of their own; sessions make them, the store keeps them, the wire shows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from uuid import UUID

from songcore.names import is_name
from songcore.novelty import Novelty
from songcore.quality import Quality
from songserve.refusal import Refusal

__all__ = [
    "AudioFormat",
    "ClipChoice",
    "ClockState",
    "Commit",
    "Encoding",
    "Retyping",
    "SessionName",
    "SessionOpening",
    "SessionRecord",
    "StoredClip",
    "StoredSong",
]

Encoding = Literal["linear16", "float32", "flac"]
ClipChoice = Literal["none", "novel", "songs", "all"]
"""Which songs have clips: none, only novel and uncertain ones, all songs, or known noise too."""


@dataclass(frozen=True)
class SessionName:
    """One session of one station; ``str()`` gives its resource name."""

    station: str
    uuid: UUID

    @classmethod
    def parse(cls, name: str, *, reason: str = "NAME_INVALID") -> Self:
        """Read ``stations/{station}/sessions/{uuid}``, or raise Refusal."""
        match name.split("/"):
            case ["stations", station, "sessions", uuid] if is_name(station):
                try:
                    return cls(station, UUID(uuid))
                except ValueError:
                    pass
        raise Refusal(
            f"session name {name!r} is not of the form stations/{{station}}/sessions/{{uuid}}, "
            "with a station of a-z, 0-9 and -, at most 63 long",
            reason=reason,
        )

    @classmethod
    def of(cls, station: str, uuid: str) -> Self:
        """Return the name of a session known by its parts."""
        return cls(station, UUID(uuid))

    def __str__(self) -> str:
        return f"stations/{self.station}/sessions/{self.uuid}"


@dataclass(frozen=True)
class AudioFormat:
    """How the bytes of a session's chunks are read."""

    encoding: Encoding
    sample_rate_hz: int
    n_channels: int
    channel: int | None
    """Counted from 1; None for the mean of all."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels, of FLAC once it is decoded."""
        return self.n_channels * (4 if self.encoding == "float32" else 2)


@dataclass(frozen=True)
class ClockState:
    """What a station says of its clock."""

    source: str
    """What it is set by: unsynced, rtc, ntp, gnss, or unspecified."""
    error_s: float | None
    """How far it may be off, where the station can tell."""


@dataclass(frozen=True)
class SessionOpening:
    """What a stream says when it opens or resumes a session."""

    name: SessionName
    audio_format: AudioFormat
    capture_start_ms: int
    """UTC of sample 0, milliseconds since 1970."""
    clock: ClockState = field(default=ClockState("unspecified", None), compare=False, repr=False)
    """The clock that says so; the store keeps the first setup's, as a station's clock may get better later."""


@dataclass(frozen=True)
class SessionRecord:
    """A session as it stands in the store."""

    opening: SessionOpening
    writer_epoch: int
    committed_sequence_number: int = 0
    committed_sample: int = 0
    """First input sample after the committed chunks."""
    origin_sample: int = 0
    """Input sample that the stream state counts from; moves only when another bundle takes the session over."""
    heard_until_ms: int = 0
    """Songs that begin earlier were heard by the bundle before; milliseconds since the session's start."""
    songs_until_ms: int = 0
    """End of the last stored song, milliseconds since the session's start; filled in when the session is opened."""
    input_sample: int = 0
    """First input sample that the stream state still needs."""
    state: bytes | None = None
    finished: bool = False


@dataclass(frozen=True)
class StoredSong:
    """One song as a row of the store; samples are half-open, at ``sample_rate_hz``, from the session's start."""

    uid: str
    station: str
    session: str
    start_ms: int
    """UTC, milliseconds since 1970."""
    end_ms: int
    onset: int
    offset: int
    sample_rate_hz: int
    type_id: str
    kind: str
    similarity: float
    novelty_score: float
    p_value: float
    novelty: Novelty
    forced_cut: bool
    snr_db: float
    quality: Quality
    bundle: str
    """Digest of the bundle that decided."""
    placed_in: str | None = None
    """The type that people made by a split and this song is of, whatever the bundle decided."""

    @property
    def is_novel(self) -> bool:
        """Whether it is like nothing that the bundle knows."""
        return self.novelty == "novel"

    def row(self) -> dict[str, Any]:
        """Return the fields by name, as a table wants them."""
        return {**self.__dict__, "is_novel": self.is_novel}


@dataclass(frozen=True)
class Retyping:
    """What another bundle makes of a stored song; all but the first three None where it hears no such song."""

    song: str
    """Uid of the song."""
    bundle: str
    source: str
    """features or clip, what it was made from; unheard."""
    type_id: str | None = None
    kind: str | None = None
    similarity: float | None = None
    novelty_score: float | None = None
    p_value: float | None = None
    novelty: Novelty | None = None
    vector: bytes | None = None
    """Embedding, float32, little-endian."""


@dataclass(frozen=True)
class StoredClip:
    """A file with the sound of a song; samples are of the sender's rate, from the session's start."""

    song: str
    """Uid of the song."""
    shelf: str
    """Uuid of the data directory that holds the file."""
    song_start_ms: int
    start_sample: int
    n_samples: int
    sample_rate_hz: int
    n_bytes: int
    feature_bytes: int = 0
    """Of the file beside it, with the song's features; 0 for none."""
    kept: bool = False
    """Never deleted by age or quota."""

    @property
    def total_bytes(self) -> int:
        """What it takes of the quota."""
        return self.n_bytes + self.feature_bytes


@dataclass(frozen=True)
class Commit:
    """One step of a session, stored whole or not at all: songs, watermark and stream state together."""

    record: SessionRecord
    """The session after the step, under the epoch of its writer."""
    songs: tuple[StoredSong, ...]
    recorded_s: dict[int, float] = field(default_factory=dict)
    """Newly committed seconds of audio, by the hour (UTC, milliseconds since 1970) they were recorded in."""
    gap_s: Mapping[str, float] = field(default_factory=dict)
    """Newly committed seconds that were declared lost, by reason."""
    clips: tuple[StoredClip, ...] = ()
    """Files that are on the disk already, of some of the songs."""
    embeddings: Mapping[str, bytes] = field(default_factory=dict)
    """Of the songs, by uid: float32, little-endian."""
