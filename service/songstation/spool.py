"""The spool: captured sound on disk until the server has committed it, and for a while after.

One thread writes: `begin`, `append`, `lose`, `flush`, `end`, `has_room`, `tend`. The others may be called by a second one,
which learns what the server has committed.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from uuid import UUID

from songcore.durable import replace_file
from songstation.outbox import Loss, LossReason
from songstation.spool_files import (
    SegmentFile,
    file_name,
    free_bytes,
    lock_directory,
    opening_bytes,
    read_record,
    rewrite_as_loss,
)
from songstation.spool_index import Policy, Segment, SpoolLimits
from songstation.spool_losses import LossFile, PendingLoss
from songstation.spool_records import Kind, Record, pack
from songstation.spool_recovery import recover, segment_items
from songstation.spool_sessions import Session, SpooledSound, Standing, Totals

__all__ = ["Spool"]

SEGMENT_BYTES = 4 * 2**20
SEGMENT_S = 60.0
_LOSS_BYTES = 2048
"""Room kept for what declares a loss."""

log = logging.getLogger(__name__)


class Spool:
    """The files of a directory, and the session that is being written.

    Raises ConfigError SPOOL_IN_USE when another program has it, SPOOL_UNUSABLE when it cannot be written.
    """

    def __init__(self, directory: Path, limits: SpoolLimits, *, now_s: Callable[[], float]) -> None:
        self.directory, self.limits, self._now_s = directory, limits, now_s
        self._lock = lock_directory(directory)
        recovered = recover(directory, now_s=now_s())
        self.index, self.sessions = recovered.index, recovered.sessions
        self.n_repaired = recovered.n_repaired
        """Files whose torn end was replaced by a loss."""
        self._ends, self._standings = recovered.ends, recovered.standings
        self._owed = recovered.owed
        """Losses of sessions that are over, which their files do not have yet."""
        self._saving, self._saved = Lock(), b""
        self._n_files = max((int(path.stem) for path in directory.glob("*.*") if path.stem.isdecimal()), default=0)
        self._current: Session | None = None
        self._file: SegmentFile | None = None
        self._segment: Segment | None = None
        self._began_s = self._synced_s = now_s()
        self._losing: tuple[int, LossReason, int] | None = None  # samples, reason, time of the first
        self._loss_file = LossFile(directory)
        self.n_dropped = 0
        """Samples that the policy gave up after they had been written, since the spool was opened."""
        self.on_sync: Callable[[float], None] = lambda _: None
        """Gets the seconds that each fsync took."""
        self._write_owed()

    def begin(self, session: Session) -> None:
        """End the session that is being written, if any, and begin this one."""
        self.end()
        self.sessions[session.uuid], self._ends[session.uuid] = session, (0, 0)
        self._current = session

    def append(self, data: bytes, n_samples: int, time_us: int) -> list[SpooledSound | Loss]:
        """Write a chunk of the session, or lose it where the spool is full; return what is in the files now."""
        room = self._make_room(len(data) + _LOSS_BYTES, self.limits.policy)
        written = self._write_loss() if room else []
        if self._losing or not room:
            self.lose(n_samples, LossReason.SPOOL_FULL, time_us)
            return written
        uuid = self._writing().uuid
        number, sample = self._ends[uuid]
        place = self._write(Record(Kind.SOUND, uuid, number + 1, number + 1, sample, n_samples, time_us, None, data))
        if place is None:
            self.lose(n_samples, LossReason.SPOOL_FULL, time_us)
            return written
        return [*written, SpooledSound(number + 1, sample, n_samples, b"", *place, len(data))]

    def has_room(self, n_bytes: int) -> bool:
        """Return whether so much sound can be kept without losing any; committed sound makes way for it."""
        return self._make_room(n_bytes + _LOSS_BYTES, Policy.STOP_NEW)

    def lose(self, n_samples: int, reason: LossReason, time_us: int) -> list[SpooledSound | Loss]:
        """Note that the session's next samples are lost; losses in a row become one; return what is in the files now."""
        written = self._write_loss() if self._losing and self._losing[1] is not reason else []
        # A loss that a full disk does not take becomes part of the next.
        n_before, before, first_us = self._losing or (0, reason, time_us)
        self._losing = n_before + n_samples, before, first_us
        return written

    def flush(self) -> list[SpooledSound | Loss]:
        """Write the loss that is going on, if any, and sync; return what is in the files now."""
        written = self._write_loss()
        self._sync()
        return written

    def end(self) -> list[SpooledSound | Loss]:
        """End the session that is being written, if any; return what is in the files now."""
        written = self.flush() if self._current else []
        self._close_file()
        if self._losing:
            # The disk does not take it now. Gone on with as if the session were still being written, until it does.
            self._owed.append(self._pending_loss())
        self._losing = self._current = None
        self._save_losses()
        return written

    def read(self, sound: SpooledSound, session: UUID) -> bytes | LossReason:
        """Return the data of a chunk, or why it is lost."""
        path = self.directory / file_name(sound.segment)
        data = read_record(path, sound.offset, session, sound.sequence_number)
        if data is not None:
            return data
        segment = next((one for one in self.index.segments if one.number == sound.segment), None)
        return LossReason.SPOOL_CORRUPT if segment and not segment.is_dropped else LossReason.SPOOL_FULL

    def items_from(self, session: UUID, number: int) -> list[SpooledSound | Loss]:
        """Return the chunks and losses from a number on to the end of the file that has it; none behind the last."""
        # A record behind it may be half written.
        last_number, _ = self.end_of(session)
        for segment in self.index.of(session):
            if segment.last_number >= number and not segment.is_empty:
                items = segment_items(self.directory, segment)
                return [one for one in items if number <= one.last_number <= last_number]
        return []

    def end_of(self, session: UUID) -> tuple[int, int]:
        """Return a session's last number, and its samples; zeros when it is not here any more."""
        return self._ends.get(session, (0, 0))

    def standing(self, session: UUID) -> Standing:
        """Return how far the server is with a session."""
        return self._standings.get(session, Standing())

    def set_standing(self, session: UUID, standing: Standing) -> None:
        """Note how far the server is; `tend` puts it on the disk, or `save_standings`."""
        self._standings[session] = standing

    def save_standings(self) -> bool:
        """Put how far the server is with each session on the disk, where it is not; return whether it is there."""
        with self._saving:
            content = json.dumps({str(uuid): one.to_dict() for uuid, one in list(self._standings.items())}).encode()
            if content == self._saved:
                return True
            try:
                replace_file(self.directory / "cursor", content)
            except OSError as error:
                log.warning("the cursor cannot be written: %s", error)
                return False
            self._saved = content
            return True

    def doubt_finished(self) -> None:
        """Let every session that is still on the disk be offered to the server once more."""
        self._standings = {uuid: replace(one, finished=False) for uuid, one in list(self._standings.items())}

    def is_writing(self, session: UUID) -> bool:
        """Return whether a session goes on."""
        return self._current is not None and self._current.uuid == session

    def may_grow(self, session: UUID) -> bool:
        """Return whether more will come: the session is being written, or a loss at its end still has to be."""
        return self.is_writing(session) or any(one.session.uuid == session for one in list(self._owed))

    def unfinished(self) -> list[UUID]:
        """Return the sessions that are not being written and not finished by the server, oldest first."""
        return [
            uuid for uuid in self.index.sessions() if not self.is_writing(uuid) and not self.standing(uuid).finished
        ]

    def totals(self, session: UUID) -> Totals:
        """Return where a session's samples are."""
        losing = self._losing[0] if self._losing and self.is_writing(session) else 0
        owed = sum(one.n_samples for one in list(self._owed) if one.session.uuid == session)
        return Totals(self._ends[session][1] + losing + owed, self.standing(session).committed_sample)

    @property
    def pending_loss(self) -> int:
        """Return the session's samples that are lost and not yet declared in a file."""
        return self._losing[0] if self._losing else 0

    @property
    def room_bytes(self) -> int:
        """Return how much more fits, what is committed being deleted, before something is lost."""
        held, limits = self.index.held_bytes, self.limits
        on_disk = self.free_bytes + self.index.n_bytes - held - limits.min_free_bytes
        return max(0, min(limits.max_bytes - held, on_disk))

    @property
    def free_bytes(self) -> int:
        """Return what the disk has left for this user."""
        return free_bytes(self.directory)

    def tend(self) -> None:
        """Sync when it is time, write down what is lost and how far the server is, and delete what was committed long ago."""
        is_due = self._now_s() - self._synced_s >= self.limits.sync_s
        if is_due:
            self._sync()
        self._note_committed()
        self._write_owed()
        self._save_losses(sync=is_due)
        for segment in self.index.expired(now_s=self._now_s(), grace_s=self.limits.grace_s):
            if segment is not self._segment:
                self._delete(segment)
        kept = {*self.index.sessions(), *((self._current.uuid,) if self._current else ())}
        kept |= {one.session.uuid for one in self._owed}
        for uuid in self.sessions.keys() - kept:
            self._standings.pop(uuid, None)
            del self.sessions[uuid], self._ends[uuid]
        # Left unwritten it costs work only: the server knows better what it has. What it does not know, `renamed` waits for.
        self.save_standings()

    def close(self) -> None:
        """End the session, and let another program have the spool."""
        self.end()
        self.tend()
        self._loss_file.close()
        os.close(self._lock)

    def _writing(self) -> Session:
        if self._current is None:
            raise RuntimeError("no session was begun")
        return self._current

    def _pending_loss(self) -> PendingLoss:
        """Return the loss that is going on."""
        if self._losing is None:
            raise RuntimeError("nothing is being lost")
        session, (n_samples, reason, time_us) = self._writing(), self._losing
        return PendingLoss(session, *self._ends[session.uuid], n_samples, reason, time_us)

    def _write_loss(self) -> list[SpooledSound | Loss]:
        """Write the loss that is going on; what cannot be written goes on being lost."""
        written: list[SpooledSound | Loss] = []
        if not self._losing:
            return written
        n_left, reason, time_us = self._losing
        for record in self._pending_loss().records():
            if self._write(record) is None:
                break
            n_left -= record.n_samples
            written.append(Loss(record.number, record.start_sample, record.n_samples, reason, record.number))
        self._losing = (n_left, reason, time_us) if n_left else None
        return written

    def _write_owed(self) -> None:
        """Give the losses of sessions that are over files of their own, as far as the disk takes them."""
        while self._owed:
            self._make_room(_LOSS_BYTES, Policy.STOP_NEW)  # else beyond the limits: they are for sound
            self._close_file()  # only the newest file may be one that is still written
            loss = self._owed[0]
            uuid, records = loss.session.uuid, list(loss.records())
            content = opening_bytes(loss.session, records[0].number, loss.sample, loss.time_us)
            content += b"".join(map(pack, records))
            try:
                SegmentFile(self.directory, self._n_files + 1, content).close()
            except OSError:
                return
            self._n_files += 1
            end = records[-1].number, loss.sample + loss.n_samples
            segment = Segment(
                self._n_files, uuid, records[0].number, end[0], len(content), loss.time_us, loss.sample, end[1]
            )
            self.index.segments.append(segment)
            self._ends[uuid] = end
            # Last, as from then on the other thread takes the session for whole.
            del self._owed[0]

    def _save_losses(self, *, sync: bool = True) -> None:
        """Note what no file has yet, for whoever opens the spool after a kill or a power cut."""
        self._loss_file.save([*self._owed, *([self._pending_loss()] if self._losing else [])], sync=sync)

    def _make_room(self, n_bytes: int, policy: Policy) -> bool:
        """Delete committed files, then what the policy gives up, until so much fits; return whether it does."""
        if self._fits(n_bytes):
            return True
        self._note_committed()
        writing = () if self._segment is None else (self._segment.number,)
        while not self._fits(n_bytes):
            if (segment := self.index.first_to_delete(writing)) is not None:
                self._delete(segment)
            elif (segment := self.index.first_to_drop(policy, writing)) is not None:
                self._drop(segment)
            else:
                return False
        return True

    def _note_committed(self) -> None:
        for uuid, standing in list(self._standings.items()):
            self.index.note_committed(uuid, standing.committed, self._now_s(), finished=standing.finished)

    def _fits(self, n_bytes: int) -> bool:
        if self.index.n_bytes + n_bytes > self.limits.max_bytes:
            return False
        return not self.limits.min_free_bytes or self.free_bytes - n_bytes >= self.limits.min_free_bytes

    def _delete(self, segment: Segment) -> None:
        (self.directory / file_name(segment.number)).unlink(missing_ok=True)
        self.index.remove(segment)

    def _drop(self, segment: Segment) -> None:
        """Replace the sound of a file by a loss."""
        items = segment_items(self.directory, segment)
        committed = self.standing(segment.session).committed
        segment.is_dropped = True
        path, session = self.directory / file_name(segment.number), self.sessions[segment.session]
        segment.n_bytes = rewrite_as_loss(path, session, items, segment.oldest_us)
        self.n_dropped += sum(
            one.n_samples for one in items if isinstance(one, SpooledSound) and one.sequence_number > committed
        )

    def _write(self, record: Record) -> tuple[int, int] | None:
        """Append a record; return its file and place, or None when the disk does not take it: then nothing is written."""
        content = pack(record)
        try:
            segment, file = self._open_segment(record)
            place = file.append(content)
        except OSError as error:
            if not self._losing:  # told once, not for every chunk of a day
                log.warning("the spool cannot be written, what is heard is lost: %s", error)
            return None
        end = record.start_sample + record.n_samples
        segment.n_bytes, segment.last_number, segment.end_sample = file.n_bytes, record.last_number, end
        self._ends[record.session] = record.last_number, end
        if file.n_unsynced >= self.limits.sync_bytes or self._now_s() - self._synced_s >= self.limits.sync_s:
            self._sync()
        return segment.number, place

    def _open_segment(self, record: Record) -> tuple[Segment, SegmentFile]:
        """Return the file to append to, a new one when the last has its size or age; raises OSError."""
        is_full = self._file is not None and (
            self._file.n_bytes >= SEGMENT_BYTES or self._now_s() - self._began_s >= SEGMENT_S
        )
        if is_full:
            self._close_file()
        if self._file is None or self._segment is None:
            number, sample = record.number, record.start_sample
            opening = opening_bytes(self._writing(), number, sample, record.time_us)
            self._file = SegmentFile(self.directory, self._n_files + 1, opening)
            self._n_files += 1
            self._began_s = self._now_s()
            self._segment = Segment(
                self._n_files, record.session, number, number - 1, len(opening), record.time_us, sample, sample
            )
            self.index.segments.append(self._segment)
        return self._segment, self._file

    def _close_file(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                _tell(error)
        self._file = self._segment = None

    def _sync(self) -> None:
        began_s = self._now_s()
        self._synced_s = began_s
        if self._file is None or not self._file.n_unsynced:
            return
        try:
            self._file.sync()
        except OSError as error:
            # Linux tells this once and then forgets what it could not write: later records belong into another file.
            _tell(error)
            self._close_file()
        self.on_sync(self._now_s() - began_s)


def _tell(error: OSError) -> None:
    log.error("what was written last may be lost in a power cut: %s", error)
