"""What may come in: the rules for sequence numbers, positions and checksums of one session.

Pure; of the audio only its checksum is looked at, and of float32 that it is finite and not astronomically large.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from google_crc32c import value as crc32c

from songcore.audio import MAX_ENERGY
from songserve.records import SessionRecord
from songserve.refusal import Refusal
from songserve.sound import check_flac

__all__ = ["Chunk", "Finish", "Gap", "Intake", "Work"]

MAX_GAP_S = 3600
MAX_SAMPLE = 2**62
"""Far beyond any session, and what a database takes as an integer with room to spare."""
MAX_CHUNK_ENERGY = MAX_ENERGY / 2
"""Sum of squares of a float32 chunk, all channels together; that of their mean or of one of them is no more. Half of what
listening takes, as it adds up in another order: what comes in never fails there, where the chunk's number is not known."""
N_REMEMBERED = 256
"""Of so many of the latest chunks and gaps it is known what they were, to notice a number that is used twice."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples under one sequence number."""

    sequence_number: int
    start_sample: int
    sample_count: int
    data: bytes
    crc32c: int
    n_clipped: int = 0
    """Samples at full scale, as the station counted them."""

    @property
    def last_sequence_number(self) -> int:
        """The same number: a chunk takes one."""
        return self.sequence_number


@dataclass(frozen=True)
class Gap:
    """Declared loss; takes part in the numbering."""

    sequence_number: int
    last_sequence_number: int
    start_sample: int
    sample_count: int
    reason: str = "unspecified"


_Content = tuple[int, int, int, int | None]
"""What a chunk or gap is: last number, start sample, sample count and, of a chunk, the checksum of its data."""


@dataclass(frozen=True)
class Finish:
    """The sender's account of a whole session."""

    last_sequence_number: int
    total_samples: int


@dataclass(frozen=True)
class Work:
    """What came in since the last step, in order."""

    items: tuple[Chunk | Gap, ...] = ()
    finish: bool = False

    @property
    def n_samples(self) -> int:
        """Input samples of all items."""
        return sum(item.sample_count for item in self.items)


class Intake:
    """Accepts chunks in order and keeps them until they are taken."""

    def __init__(self, record: SessionRecord, *, max_chunk_bytes: int) -> None:
        self._format = record.opening.audio_format
        self._max_chunk_bytes = max_chunk_bytes
        self._last_accepted = record.committed_sequence_number
        self._next_sample = record.committed_sample
        self._finished = record.finished
        self._finish_wanted = False
        self._pending: deque[Chunk | Gap] = deque()
        self._n_pending_bytes = 0
        self._contents: dict[int, _Content] = {}  # of the latest, by their first number
        self._known_from = self.expected_sequence_number  # what came before: forgotten, or to an earlier stream

    @property
    def expected_sequence_number(self) -> int:
        """The number that the next chunk must have."""
        return self._last_accepted + 1

    @property
    def n_pending(self) -> int:
        """Chunks accepted and not yet taken."""
        return len(self._pending)

    @property
    def n_pending_bytes(self) -> int:
        """Bytes of audio accepted and not yet taken."""
        return self._n_pending_bytes

    @property
    def has_work(self) -> bool:
        """Whether `take` would return something."""
        return bool(self._pending) or self._finish_wanted

    def accept(self, item: Chunk | Gap) -> bool:
        """Take a chunk or gap in; False for one that was had before. Raises Refusal when a rule is broken."""
        if item.sequence_number < 1:  # what a client leaves out is 0, which would look as if it had been had before
            raise self._bad_shape(item.sequence_number, "cannot be: numbers begin at 1")
        if isinstance(item, Chunk):
            self._check_chunk(item)
        else:
            self._check_gap(item)
        if item.sequence_number <= self._last_accepted:
            self._check_repetition(item)
            return False
        if self._finished or self._finish_wanted:
            raise Refusal(
                f"chunk {item.sequence_number} came after the session was finished with {self._last_accepted}; "
                "begin a new session",
                reason="SESSION_FINISHED",
            )
        if item.sequence_number > self.expected_sequence_number:
            raise self._sequence_gap(f"chunk {item.sequence_number} came")
        self._check_position(item)
        self._last_accepted = item.last_sequence_number
        self._next_sample += item.sample_count
        self._pending.append(item)
        self._remember(item)
        if isinstance(item, Chunk):
            self._n_pending_bytes += len(item.data)
        return True

    def finish(self, finish: Finish) -> None:
        """Close the session; raises Refusal when the sender's account differs from what came in."""
        if finish.last_sequence_number > self._last_accepted and not self._finished:
            raise self._sequence_gap(f"finish after chunk {finish.last_sequence_number} came")
        if (finish.last_sequence_number, finish.total_samples) != (self._last_accepted, self._next_sample):
            raise Refusal(
                f"finish says {finish.total_samples} samples up to chunk {finish.last_sequence_number}; "
                f"received were {self._next_sample} up to chunk {self._last_accepted}",
                reason="FINISH_MISMATCH",
            )
        self._finish_wanted = True

    def take(self, *, most_samples: int | None = None) -> Work | None:
        """Return what came in since the last call, or None; of more than ``most_samples`` the first, at least one chunk."""
        if not self.has_work:
            return None
        items: list[Chunk | Gap] = []
        n_samples = 0
        while self._pending and (most_samples is None or n_samples < most_samples):
            item = self._pending.popleft()
            items.append(item)
            if isinstance(item, Chunk):
                n_samples += item.sample_count
                self._n_pending_bytes -= len(item.data)
        return Work(tuple(items), self._finish_wanted and not self._pending)

    def _remember(self, item: Chunk | Gap) -> None:
        self._contents[item.sequence_number] = _content(item)
        if len(self._contents) > N_REMEMBERED:
            del self._contents[self._known_from]
            self._known_from = next(iter(self._contents))

    def _check_repetition(self, item: Chunk | Gap) -> None:
        """Raise Refusal SEQUENCE_REUSED for what came before as something else, as far as that is known."""
        # A gap that reaches from numbers that were had to others is refused too: taken for one that was had before, the
        # others would never come in, and the client would be asked for them again and again.
        is_known = item.last_sequence_number >= self._known_from
        if is_known and self._contents.get(item.sequence_number) != _content(item):
            raise Refusal(
                f"chunk {item.sequence_number} came again with other content; a number is never used twice",
                reason="SEQUENCE_REUSED",
                sequence_number=item.sequence_number,
            )

    def _sequence_gap(self, found: str) -> Refusal:
        expected = self.expected_sequence_number
        return Refusal(
            f"{found} where chunk {expected} was expected; send again from there",
            reason="SEQUENCE_GAP",
            expected=expected,
        )

    def _check_chunk(self, chunk: Chunk) -> None:
        number = chunk.sequence_number
        if len(chunk.data) > self._max_chunk_bytes:
            raise Refusal(
                f"chunk {number} has {len(chunk.data)} bytes; at most {self._max_chunk_bytes} are taken",
                reason="MESSAGE_TOO_LARGE",
                max_chunk_bytes=self._max_chunk_bytes,
            )
        if crc32c(chunk.data) != chunk.crc32c:
            raise Refusal(
                f"chunk {number} does not match its checksum; read it again, or declare a gap",
                reason="CHUNK_CORRUPT",
                sequence_number=number,
            )
        if self._format.encoding == "flac":
            check_flac(number, chunk.data, chunk.sample_count, self._format, max_chunk_bytes=self._max_chunk_bytes)
        n_bytes = len(chunk.data) if self._format.encoding == "flac" else chunk.sample_count * self._format.frame_bytes
        if chunk.sample_count < 1 or len(chunk.data) != n_bytes:
            raise self._bad_shape(number, f"has {len(chunk.data)} bytes; {chunk.sample_count} samples take {n_bytes}")
        if self._format.encoding == "float32" and not _energy(chunk.data) < MAX_CHUNK_ENERGY:  # NaN is not less, either
            raise Refusal(
                f"chunk {number} holds samples that are NaN, infinite or astronomically large (full scale is 1); declare a "
                "gap in its place",
                reason="NOT_FINITE",
                sequence_number=number,
            )

    def _check_gap(self, gap: Gap) -> None:
        number = gap.sequence_number
        if gap.sample_count < 1 or gap.last_sequence_number < number:
            raise self._bad_shape(number, "is a gap of no samples, or ends before it begins")
        if gap.last_sequence_number - number >= gap.sample_count:
            raise self._bad_shape(number, "is a gap of more chunks than samples")

    def _check_position(self, item: Chunk | Gap) -> None:
        if item.start_sample + item.sample_count > MAX_SAMPLE:
            raise self._bad_shape(item.sequence_number, f"ends behind sample {MAX_SAMPLE}, where sessions end")
        if item.start_sample != self._next_sample:
            raise self._bad_shape(
                item.sequence_number, f"starts at sample {item.start_sample}, expected {self._next_sample}"
            )
        if isinstance(item, Gap) and item.sample_count > MAX_GAP_S * self._format.sample_rate_hz:
            raise Refusal(
                f"gap {item.sequence_number} is longer than {MAX_GAP_S} s; finish the session and begin a new one",
                reason="GAP_TOO_LONG",
            )

    def _bad_shape(self, number: int, problem: str) -> Refusal:
        return Refusal(f"chunk {number} {problem}", reason="CHUNK_SHAPE", sequence_number=number)


def _content(item: Chunk | Gap) -> _Content:
    """Return what has to be the same when a number comes again; why a gap was lost may be told otherwise."""
    checksum = item.crc32c if isinstance(item, Chunk) else None
    return item.last_sequence_number, item.start_sample, item.sample_count, checksum


def _energy(data: bytes) -> float:
    """Return the sum of squares of float32 samples; NaN or infinite where one of them is, or it overflows."""
    samples = np.frombuffer(data, "<f4")
    with np.errstate(all="ignore"):
        return float(np.dot(samples, samples))
