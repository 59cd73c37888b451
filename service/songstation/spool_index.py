"""Which files a spool has, and which to give up when. Pure: no I/O, no clock."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

__all__ = ["Policy", "Segment", "SpoolIndex", "SpoolLimits"]


class Policy(StrEnum):
    """What happens to sound when the spool is full."""

    STOP_NEW = "stop-new"
    """What is heard now is lost, what was heard first is kept."""
    DROP_OLDEST = "drop-oldest"
    """The oldest is lost."""
    THIN = "thin"
    """Of the oldest every second minute is lost, then every second of the rest: the whole time stays sampled."""


@dataclass(frozen=True)
class SpoolLimits:
    """How much the spool takes, and how safely."""

    max_bytes: int
    min_free_bytes: int = 0
    """Of the disk; below it the spool counts as full."""
    policy: Policy = Policy.STOP_NEW
    grace_s: float = 900.0
    """Committed sound is kept so long for a server that is restored from a backup."""
    sync_s: float = 1.0
    sync_bytes: int = 2**20
    """What a power cut may take: the sound of so many seconds, at most so many bytes."""


@dataclass(slots=True)
class Segment:
    """One file: consecutive records of one session."""

    number: int
    """Grows by one with every file of the spool."""
    session: UUID
    first_number: int
    last_number: int
    """Of the last record in it; less than ``first_number`` while there is none."""
    n_bytes: int
    oldest_us: int
    """Time of its first sample, in microseconds since 1970."""
    first_sample: int = 0
    end_sample: int = 0
    """Of the session; the samples before the file, and those up to its end."""
    committed_s: float | None = None
    """When all of it was known to be committed, by a clock that never steps."""
    is_dropped: bool = False
    """Its sound has been replaced by a loss."""

    @property
    def is_empty(self) -> bool:
        """Nothing follows its opening: the power failed, or the disk was full, just then."""
        return self.last_number < self.first_number


@dataclass
class SpoolIndex:
    """All files, oldest first."""

    segments: list[Segment] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        """Return the size of all files."""
        return sum(segment.n_bytes for segment in self.segments)

    @property
    def held_bytes(self) -> int:
        """Size of the files that are still needed: what is in them is not committed, or that a session is over not told."""
        return sum(segment.n_bytes for segment in self.segments if segment.committed_s is None)

    @property
    def waiting(self) -> list[Segment]:
        """Return the files with sound or a loss that is not committed."""
        return [segment for segment in self.segments if segment.committed_s is None and not segment.is_empty]

    def sessions(self) -> list[UUID]:
        """Return the sessions that have files, oldest first."""
        return list(dict.fromkeys(segment.session for segment in self.segments))

    def of(self, session: UUID) -> list[Segment]:
        """Return the files of a session."""
        return [segment for segment in self.segments if segment.session == session]

    def remove(self, segment: Segment) -> None:
        """Forget a file; who goes through the files meanwhile, in another thread, does not stumble."""
        self.segments = [one for one in self.segments if one is not segment]

    def note_committed(self, session: UUID, number: int, now_s: float, *, finished: bool = False) -> None:
        """Mark the files of a session that the server has committed as a whole, and unmark those that it has no more.

        An empty one is needed until the session is ``finished``: it may be all that tells of the session, and where it ends.
        """
        for segment in self.segments:
            if segment.session == session:
                is_committed = segment.last_number <= number and (finished or not segment.is_empty)
                segment.committed_s = (segment.committed_s or now_s) if is_committed else None

    def expired(self, *, now_s: float, grace_s: float) -> list[Segment]:
        """Return the files that were committed longer ago than the grace, which a server restored from a backup has."""
        return [s for s in self.segments if s.committed_s is not None and now_s - s.committed_s >= grace_s]

    def first_to_delete(self, writing: Iterable[int]) -> Segment | None:
        """Return the oldest committed file, which goes before its time when room is needed."""
        kept = set(writing)
        return next((s for s in self.segments if s.committed_s is not None and s.number not in kept), None)

    def first_to_drop(self, policy: Policy, writing: Iterable[int]) -> Segment | None:
        """Return the file whose sound the policy gives up next, or None when it gives up what is heard now."""
        if policy is Policy.STOP_NEW:
            return None
        kept = set(writing)
        candidates = [s for s in self.waiting if not s.is_dropped and s.number not in kept]
        if policy is Policy.THIN:
            # By the power of two in the number: all odd ones before those divisible by 2, those before 4, 8, ...
            return min(candidates, key=lambda s: (s.number & -s.number, s.number), default=None)
        return candidates[0] if candidates else None
