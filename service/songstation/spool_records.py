"""What lies in the files of a spool: records, each with a header that can be trusted alone. Pure: bytes in, records out.

A record is a header of 76 bytes and its data. The header has a checksum of its own, so that a record whose data is torn still
says which samples were lost with it; and it begins with four fixed bytes, so that what follows a damaged place is found again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from struct import Struct
from uuid import UUID

from google_crc32c import value as crc32c

from songstation.outbox import LossReason

__all__ = ["HEADER_BYTES", "Found", "Kind", "Record", "pack", "scan", "unpack_header"]

MAGIC = b"\xa7SP1"
# Magic, kind, reason, zero, bytes of data, session, number, last number, first sample, samples, time in us, crc of data.
_FIELDS = Struct("<4sBBHI16sQQQQqI")
_CRC = Struct("<I")
HEADER_BYTES = _FIELDS.size + _CRC.size
_REASONS = ["", *LossReason]
"""By the byte that stands for them in a file; add at the end only."""


class Kind(IntEnum):
    """What a record is."""

    SESSION = 1
    """The first of every file: the session's description as JSON, and the number and sample at which the file begins."""
    SOUND = 2
    LOSS = 3


_KINDS = frozenset(int(kind) for kind in Kind)


@dataclass(frozen=True, slots=True)
class Record:
    """A description, a chunk, or a loss in the place of the chunks ``number`` to ``last_number``."""

    kind: Kind
    session: UUID
    number: int
    last_number: int
    start_sample: int
    n_samples: int
    time_us: int
    """Since 1970, when the first sample was captured."""
    reason: LossReason | None = None
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Found:
    """A record in a file; without its data where only headers were asked for."""

    record: Record
    offset: int
    n_data: int
    intact: bool
    """The data is there and its checksum matches, as far as it was looked at."""

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + HEADER_BYTES + self.n_data


def pack(record: Record) -> bytes:
    """Return the bytes of a record."""
    fields = _FIELDS.pack(
        MAGIC,
        record.kind,
        _REASONS.index(record.reason) if record.reason else 0,
        0,
        len(record.data),
        record.session.bytes,
        record.number,
        record.last_number,
        record.start_sample,
        record.n_samples,
        record.time_us,
        crc32c(record.data),
    )
    return fields + _CRC.pack(crc32c(fields)) + record.data


def unpack_header(header: bytes) -> tuple[Record, int, int] | None:
    """Return the record without its data, the length of the data and its checksum; None when the header is damaged."""
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        return None
    fields = header[: _FIELDS.size]
    if _CRC.unpack_from(header, _FIELDS.size)[0] != crc32c(fields):
        return None
    _, kind, reason, _, n_data, session, number, last, start, count, time_us, crc = _FIELDS.unpack(fields)
    if kind not in _KINDS or reason >= len(_REASONS):
        return None
    why = LossReason(_REASONS[reason]) if reason else None
    return Record(Kind(kind), UUID(bytes=session), number, last, start, count, time_us, why), n_data, crc


def scan(content: bytes) -> Iterator[Found]:
    """Yield every record whose header is whole, in order; what lies between them is damaged."""
    place = 0
    while (place := content.find(MAGIC, place)) >= 0:
        header = unpack_header(content[place : place + HEADER_BYTES])
        if header is None:
            place += 1
            continue
        record, n_data, crc = header
        begin = place + HEADER_BYTES
        data = content[begin : begin + n_data]
        intact = len(data) == n_data and crc32c(data) == crc
        found = Found(replace(record, data=data) if intact else record, place, n_data, intact)
        yield found
        # A length can be trusted, but data that was never written may hide records that were written over it.
        place = found.end if intact else begin
