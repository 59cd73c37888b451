"""What a spool finds in its directory when it is opened, after any end of the program before.

Every file but the newest was synced when the next one was begun, so only the newest can be torn. It is read as a whole, cut
behind its last whole record, and what was lost behind that is written down as a loss.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any
from uuid import UUID

from songstation.outbox import Loss, LossReason
from songstation.spool_files import file_name
from songstation.spool_index import Segment, SpoolIndex
from songstation.spool_records import HEADER_BYTES, Found, Kind, Record, pack, scan, unpack_header
from songstation.spool_sessions import Session, SpooledSound, Standing, holes_filled

__all__ = ["Recovered", "recover", "segment_items", "torn_tail"]

_MAX_OPENING_BYTES = 64 * 1024

log = logging.getLogger(__name__)


@dataclass
class Recovered:
    """The spool as it stands in its directory."""

    index: SpoolIndex = field(default_factory=SpoolIndex)
    sessions: dict[UUID, Session] = field(default_factory=dict)
    standings: dict[UUID, Standing] = field(default_factory=dict)
    ends: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    """Of each session: its last number, and its samples."""
    n_repaired: int = 0


def recover(directory: Path, *, now_s: float, repair: bool = True) -> Recovered:
    """Return what lies in the directory, the newest file repaired if it may be; unreadable files are left aside."""
    spool = Recovered()
    paths = sorted(directory.glob("*.spool"))
    for scratch in directory.glob("*.new") if repair else ():
        scratch.unlink()
    for path in paths:
        if not _add(spool, path) and repair:
            path.rename(path.with_suffix(".damaged"))
    if spool.index.segments and repair:
        spool.n_repaired = _repair(directory, spool)
    _find_ends(directory, spool)
    spool.standings = _read_cursor(directory / "cursor", spool)
    for uuid, standing in spool.standings.items():
        spool.index.note_committed(uuid, standing.committed, now_s, finished=standing.finished)
    return spool


def torn_tail(content: bytes, found: Sequence[Found], n_chunk: int) -> tuple[int, Record | None]:
    """Return where the last whole record ends, and the loss to write there for what is damaged behind it.

    A header that survived tells the loss exactly; where none did, it is estimated from the chunks before.
    """
    whole = [one for one in found if one.intact]
    last = whole[-1].record
    end = whole[-1].end
    if len(content) == end:
        return end, None
    number, sample = last.last_number + 1, last.start_sample + last.n_samples
    behind = [one.record for one in found if one.offset >= end and one.record.kind is not Kind.SESSION]
    last_number, until = number, sample
    for torn in behind:
        if torn.number >= number and torn.start_sample >= sample:
            last_number, until = torn.last_number, torn.start_sample + torn.n_samples
    if until == sample:
        sizes = [one.end - one.offset for one in whole if one.record.kind is Kind.SOUND]
        n_records = max(1, ceil((len(content) - end) / (sizes[-1] if sizes else HEADER_BYTES + 2 * n_chunk)))
        last_number, until = number + n_records - 1, sample + n_records * n_chunk
    corrupt = LossReason.SPOOL_CORRUPT
    return end, Record(Kind.LOSS, last.session, number, last_number, sample, until - sample, last.time_us, corrupt)


def segment_items(directory: Path, segment: Segment) -> list[SpooledSound | Loss]:
    """Return the chunks and losses of a file, a loss for each that is damaged; raises no OSError."""
    # Read before the file, which another thread may be writing.
    last_number, end_sample = segment.last_number, segment.end_sample
    try:
        content = (directory / file_name(segment.number)).read_bytes()
    except OSError:
        content = b""
    found = list(scan(content))
    items = holes_filled(found, segment.number, segment.first_number, segment.first_sample)
    end = items[-1].start_sample + items[-1].n_samples if items else segment.first_sample
    number = items[-1].last_number + 1 if items else segment.first_number
    if number <= last_number and end < end_sample:
        items.append(Loss(number, end, end_sample - end, LossReason.SPOOL_CORRUPT, last_number))
    return items


def _add(spool: Recovered, path: Path) -> bool:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_OPENING_BYTES)
            n_bytes = os.fstat(file.fileno()).st_size
        header = unpack_header(content[:HEADER_BYTES])
        if header is None or header[0].kind is not Kind.SESSION:
            raise ValueError("its first record is damaged")  # noqa: TRY301 - one place says why a file is left aside
        opening, n_data, _ = header
        session = Session.from_json(content[HEADER_BYTES : HEADER_BYTES + n_data])
        number = int(path.stem)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is left aside: %s", path, error)
        return False
    spool.sessions.setdefault(session.uuid, session)
    spool.index.segments.append(
        Segment(
            number,
            session.uuid,
            opening.number,
            opening.number - 1,
            n_bytes,
            opening.time_us,
            opening.start_sample,
            opening.start_sample,
            is_dropped=opening.reason is not None,
        )
    )
    return True


def _repair(directory: Path, spool: Recovered) -> int:
    segment = spool.index.segments[-1]
    path = directory / file_name(segment.number)
    content = path.read_bytes()
    end, loss = torn_tail(content, list(scan(content)), spool.sessions[segment.session].n_chunk)
    if loss is None:
        return 0
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(pack(loss))
        file.flush()
        os.fsync(file.fileno())
    segment.n_bytes = end + len(pack(loss))
    log.warning("%s was torn: %d samples are declared lost", path, loss.n_samples)
    return 1


def _find_ends(directory: Path, spool: Recovered) -> None:
    """Set each file's end from the beginning of the session's next one, and the last one's from its records."""
    for uuid in spool.index.sessions():
        segments = spool.index.of(uuid)
        for segment, behind in pairwise(segments):
            segment.last_number, segment.end_sample = behind.first_number - 1, behind.first_sample
        last = segments[-1]
        items = segment_items(directory, last)
        if items:
            last.last_number = items[-1].last_number
            last.end_sample = items[-1].start_sample + items[-1].n_samples
        spool.ends[uuid] = last.last_number, last.end_sample


def _read_cursor(path: Path, spool: Recovered) -> dict[UUID, Standing]:
    """Return how far the server is with each session; without a readable cursor the server will say it again."""
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        standings = {UUID(text): Standing(**one) for text, one in facts.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and left aside: %s", path, error)
        return {}
    return {uuid: one for uuid, one in standings.items() if uuid in spool.sessions}
