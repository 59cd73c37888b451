"""What a spool finds in its directory when it is opened, after any end of the program before.

Every file but the newest was synced when the next one was begun, so only the newest can be torn. It is read as a whole, cut
behind its last whole record, and what was lost behind that is written down as a loss. A file whose beginning is damaged is
read by its records, each of which says what it is.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any
from uuid import UUID

from songstation.outbox import Loss, LossReason
from songstation.spool_files import file_name
from songstation.spool_index import Segment, SpoolIndex
from songstation.spool_losses import PendingLoss, read_losses
from songstation.spool_records import HEADER_BYTES, Found, Kind, Record, pack, scan
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
    owed: list[PendingLoss] = field(default_factory=list)
    """Losses behind the end that the files have of a session."""
    n_repaired: int = 0


def recover(directory: Path, *, now_s: float, repair: bool = True) -> Recovered:
    """Return what lies in the directory, the newest file repaired if it may be; unreadable files are left aside."""
    spool = Recovered()
    paths = sorted(directory.glob("*.spool"))
    for scratch in directory.glob("*.new") if repair else ():
        scratch.unlink()
    cursor = _read_cursor(directory / "cursor")
    # First those that say what their session is: a damaged one may need it from another.
    for path in [path for path in paths if not _add(spool, path)]:
        if not _add_damaged(spool, path, cursor) and repair:
            path.rename(path.with_suffix(".damaged"))
    spool.index.segments.sort(key=lambda segment: segment.number)
    if spool.index.segments and repair:
        spool.n_repaired = _repair(directory, spool)
    _find_ends(directory, spool)
    _find_owed(directory, spool)
    spool.standings = {uuid: one for uuid, one in cursor.items() if uuid in spool.sessions}
    for uuid, standing in spool.standings.items():
        spool.index.note_committed(uuid, standing.committed, now_s, finished=standing.finished)
    return spool


def torn_tail(content: bytes, found: Sequence[Found], n_chunk: int) -> tuple[int, Record | None]:
    """Return where the last whole record ends, and the loss to write there for what is damaged behind it.

    ``found`` are the records with a whole header, at least one of them.
    A header that survived tells the loss exactly; where none did, it is estimated from the chunks before.
    """
    whole = [one for one in found if one.intact]
    # Where not one is whole, all from the first header on is damaged: it stands for a chunk before it of no samples.
    last = whole[-1].record if whole else replace(found[0].record, last_number=found[0].record.number - 1, n_samples=0)
    end = whole[-1].end if whole else found[0].offset
    is_opening = bool(whole) and all(one.record.kind is Kind.SESSION for one in whole)
    if len(content) == end or (is_opening and content.startswith(content[end:])):
        return end, None  # at most the second copy of the opening is torn
    number, sample = last.last_number + 1, last.start_sample + last.n_samples
    behind = [one.record for one in found if one.offset >= end and one.record.kind is not Kind.SESSION]
    last_number, until = number, sample
    for torn in behind:
        if torn.number >= number and torn.start_sample >= sample:
            last_number, until = torn.last_number, torn.start_sample + torn.n_samples
    if until == sample:
        sizes = [one.end - one.offset for one in whole if one.record.kind is Kind.SOUND]
        begin = 2 * (HEADER_BYTES + whole[0].n_data) if is_opening else end  # whose second copy may be damaged
        n_records = max(1, ceil((len(content) - begin) / (sizes[-1] if sizes else HEADER_BYTES + 2 * n_chunk)))
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
    """Take up a file by its opening; return False when that is damaged."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_OPENING_BYTES)
            n_bytes = os.fstat(file.fileno()).st_size
        first = next(scan(content), None)
        if first is None or first.offset or not first.intact or first.record.kind is not Kind.SESSION:
            return False
        session, number = Session.from_json(first.record.data), int(path.stem)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    _take_up(spool, number, session, first.record, n_bytes)
    return True


def _add_damaged(spool: Recovered, path: Path, cursor: Mapping[UUID, Standing]) -> bool:
    """Take up a file by the records in it that are whole; return False when they do not tell whose they are."""
    try:
        content, number = path.read_bytes(), int(path.stem)
    except (OSError, ValueError) as error:
        log.warning("%s is left aside: %s", path, error)
        return False
    found = list(scan(content))
    for one in found:
        if one.record.kind is Kind.SESSION and one.intact:
            with suppress(ValueError, KeyError, TypeError):
                spool.sessions.setdefault(one.record.session, Session.from_json(one.record.data))
    first = next((one.record for one in found if one.record.session in spool.sessions), None)
    if first is None:
        log.warning("%s is left aside: nothing in it says what it is", path)
        return False
    uuid = first.session
    before = [one for one in spool.index.of(uuid) if one.number < number]
    standing = cursor.get(uuid, Standing())
    if not before and standing.committed < first.number - 1:
        # Nothing else tells of what came first in it; the file before would, by where it ends.
        first = replace(first, number=standing.committed + 1, start_sample=standing.committed_sample)
    log.warning("%s is damaged where it begins", path)
    _take_up(spool, number, spool.sessions[uuid], first, len(content))
    return True


def _take_up(spool: Recovered, number: int, session: Session, first: Record, n_bytes: int) -> None:
    spool.sessions.setdefault(session.uuid, session)
    is_dropped = first.kind is Kind.SESSION and first.reason is not None
    begin = first.number, first.number - 1, n_bytes, first.time_us, first.start_sample, first.start_sample
    spool.index.segments.append(Segment(number, session.uuid, *begin, is_dropped=is_dropped))


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


def _find_owed(directory: Path, spool: Recovered) -> None:
    """Find the losses that were noted and did not come into a file; a session may be known by them alone."""
    for loss in read_losses(directory):
        uuid = loss.session.uuid
        number, end_sample = spool.ends.setdefault(uuid, (loss.number, loss.sample))
        spool.sessions.setdefault(uuid, loss.session)
        if (n_samples := loss.sample + loss.n_samples - end_sample) > 0:
            spool.owed.append(replace(loss, number=number, sample=end_sample, n_samples=n_samples))


def _read_cursor(path: Path) -> dict[UUID, Standing]:
    """Return how far the server is with each session; without a readable cursor the server will say it again."""
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        return {UUID(text): Standing(**one) for text, one in facts.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and left aside: %s", path, error)
        return {}
