"""What a spool knows about its sessions besides their sound: what each is, and how far the server is with it. Pure."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from songstation.dialogue import ClockSource
from songstation.outbox import Loss, LossReason, Sound
from songstation.spool_records import Found, Kind

__all__ = ["Session", "SpooledSound", "Standing", "Totals", "holes_filled"]


@dataclass(frozen=True, slots=True)
class Session:
    """One uninterrupted sample clock of a station; what the server must be told to open it."""

    uuid: UUID
    station: str
    sample_rate_hz: int
    start: datetime
    """UTC time of sample 0, by the station's clock as it was then."""
    n_chunk: int
    """Samples of a usual chunk."""
    encoding: str = "linear16"
    """On the wire; files hold 16-bit samples as they are."""
    client: str = ""
    clock_source: ClockSource = "unspecified"
    clock_error_s: float | None = None

    def to_json(self) -> bytes:
        """Return the description as it stands at the beginning of every file."""
        return json.dumps({**asdict(self), "uuid": str(self.uuid), "start": self.start.isoformat()}).encode()

    @staticmethod
    def from_json(text: bytes) -> "Session":
        """Return the description; raises ValueError, KeyError or TypeError when it is none."""
        facts: dict[str, Any] = json.loads(text)
        facts |= {"uuid": UUID(facts["uuid"]), "start": datetime.fromisoformat(facts["start"])}
        return Session(**facts)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the server is with a session, in the spool's own numbers."""

    committed: int = 0
    committed_sample: int = 0
    finished: bool = False
    name: str = ""
    """Where the server did not go on with the session: the UUID of the one that took the rest of it."""
    number_before: int = 0
    sample_before: int = 0
    """The last number, and the samples, before that one begins."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for the cursor file."""
        return asdict(self)

    def advanced(self, number: int, sample: int) -> "Standing":
        """Return the standing after a commit."""
        return replace(self, committed=number, committed_sample=sample)

    def renamed(self, name: str) -> "Standing":
        """Return the standing when what is not committed goes on under another name."""
        return replace(self, name=name, number_before=self.committed, sample_before=self.committed_sample)


@dataclass(frozen=True, slots=True)
class Totals:
    """A session's samples, each in one of three places: captured = committed + waiting."""

    captured: int
    """Sound and losses."""
    committed: int
    """By the server, as sound or as a declared gap."""

    @property
    def waiting(self) -> int:
        """Samples, and losses to declare, that the server has not committed."""
        return self.captured - self.committed


@dataclass(frozen=True, slots=True)
class SpooledSound(Sound):
    """A chunk whose data is in a file."""

    segment: int = 0
    offset: int = 0
    n_data: int = 0

    @property
    def n_bytes(self) -> int:
        """What it takes on the disk."""
        return self.n_data


def holes_filled(found: list[Found], segment: int, number: int, sample: int) -> list[SpooledSound | Loss]:
    """Return the chunks and losses of a file that begins at a number and sample, and losses for what is damaged in it.

    The records behind a damaged one say by their numbers and samples exactly what is missing.
    """
    items: list[SpooledSound | Loss] = []

    def fill(until_number: int, until_sample: int) -> None:
        if until_number > number and until_sample > sample:
            corrupt = LossReason.SPOOL_CORRUPT
            items.append(Loss(number, sample, until_sample - sample, corrupt, until_number - 1))

    for one in found:
        record = one.record
        if record.kind is Kind.SESSION or record.number < number or record.start_sample < sample:
            continue
        fill(record.number, record.start_sample)
        number, sample = record.last_number + 1, record.start_sample + record.n_samples
        if record.kind is Kind.LOSS or not one.intact:
            reason = record.reason or LossReason.SPOOL_CORRUPT
            items.append(Loss(record.number, record.start_sample, record.n_samples, reason, record.last_number))
        else:
            items.append(
                SpooledSound(record.number, record.start_sample, record.n_samples, b"", segment, one.offset, one.n_data)
            )
    return items
