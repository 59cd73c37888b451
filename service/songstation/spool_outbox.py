"""An outbox whose chunks lie in the spool: the same rules, with a file read where a chunk is sent."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid5

from songstation.outbox import MAX_LOSS_S, End, Leave, Loss, LossReason, Outbox, Sound
from songstation.spool import Spool
from songstation.spool_sessions import SpooledSound

__all__ = ["SpoolOutbox"]

FEW = 64
"""Chunks that may still be sent when the next file is read."""
MOST = 1024
"""Chunks that are held to be sent; more are read from the files when it is their turn."""


class SpoolOutbox(Outbox):
    """What one session of the spool still owes the server.

    A session that is being written is given its chunks by `keep`, as long as the server keeps up; one of before, and one
    that the server is late with, reads its files, a file at a time. A rest that the server would not take under the
    session's own name has numbers and samples of its own, beginning anew.
    """

    def __init__(self, spool: Spool, session: UUID, *, on_lost: Callable[[int, LossReason], None]) -> None:
        rate = spool.sessions[session].sample_rate_hz
        super().__init__(max_bytes=2**62, max_loss_samples=MAX_LOSS_S * rate)
        self._spool, self._session, self._on_lost = spool, session, on_lost
        self._is_rewound = False  # and not renamed since
        standing = spool.standing(session)
        self._restart(standing.committed + 1, standing.committed_sample)

    @property
    def name(self) -> str:
        """Return the UUID that the server knows the session by."""
        return self._spool.standing(self._session).name or str(self._session)

    @property
    def samples_before(self) -> int:
        """Return the samples of the session that went to the server under another name."""
        return self._spool.standing(self._session).sample_before

    @property
    def first_available(self) -> tuple[int, int]:
        """Number and start sample of the oldest item that the spool still has, committed or not."""
        standing = self._spool.standing(self._session)
        segments = self._spool.index.of(self._session)
        if not segments or segments[0].first_number <= standing.number_before:
            return 1, 0
        return segments[0].first_number - standing.number_before, segments[0].first_sample - standing.sample_before

    def keep(self, items: list[SpooledSound | Loss]) -> None:
        """Take what was written to the session's file, unless it was read there before, or will be."""
        for item in map(self._renumbered, items):
            if item.sequence_number < self._next_number:
                continue
            if item.sequence_number > self._next_number or self._next_number - self._cursor >= MOST:
                self._is_late = True
                return
            self._append(item)
            self.n_captured += item.n_samples

    def feed(self) -> bool:
        """Read the next file, or the session's end, when it is time; return whether there is something new."""
        # Asked first: what is written in between is then read the next time.
        is_writing, may_grow = self._spool.is_writing(self._session), self._spool.may_grow(self._session)
        if self._ended or self._next_number - self._cursor > FEW or (is_writing and not self._is_late):
            return False
        n_before = self._next_number
        if not self._read_file():
            self._is_late = False
            if not may_grow:
                self.end()
        return self._ended or self._next_number > n_before

    def opened(self, *, expected: int, committed_sample: int, finished: bool = False, **answer: Any) -> None:
        """Begin sending where the server says: what it had before and wants again is read again from the spool.

        After a power cut the server may have more than the disk; then nothing is left to send of an ended session.
        """
        has_it = expected == self._next_number or any(item.sequence_number == expected for item in self._items)
        is_writing = self._spool.is_writing(self._session)
        standing = self._spool.standing(self._session)
        was_restored = expected + standing.number_before <= standing.committed
        if was_restored:
            # From a backup: then it may not know the ends of other sessions either.
            self._spool.doubt_finished()
        if not has_it or (finished and not is_writing):
            self._restart(expected + standing.number_before, committed_sample + standing.sample_before)
        if finished and not is_writing and not self._items:
            self.end()
        super().opened(expected=expected, committed_sample=committed_sample, finished=finished, **answer)
        self._note_committed(expected - 1)
        if was_restored:
            # After a crash nothing would tell it again, once the server has caught up with what the disk says of this session.
            self._spool.save_standings()

    def acknowledged(self, *, received: int, committed: int, **answer: Any) -> None:
        """Release what is committed, in the spool too."""
        super().acknowledged(received=received, committed=committed, **answer)
        self._note_committed(committed)

    def next(self) -> Sound | Loss | End | Leave | None:
        """Return what to send now, a chunk with its data from the file; where that is damaged, a loss in its place."""
        item = super().next()
        if not isinstance(item, SpooledSound):
            return item
        standing = self._spool.standing(self._session)
        stored = replace(item, sequence_number=item.sequence_number + standing.number_before)
        data = self._spool.read(stored, self._session)
        if isinstance(data, LossReason):
            number = item.sequence_number
            loss = Loss(number, item.start_sample, item.n_samples, data, number)
            self._items[self._index(number)] = loss
            self.held_bytes -= item.n_bytes
            # What the spool gave up, it has counted.
            if data is not LossReason.SPOOL_FULL:
                self._on_lost(item.n_samples, data)
            return loss
        return Sound(item.sequence_number, item.start_sample, item.n_samples, data)

    def begin_new_session(self) -> int:
        """Prepare to go on under another name, numbers and samples beginning anew; return how many samples later that is."""
        first = self._items[0] if self._items else None
        number = first.sequence_number if first else self._next_number
        sample = first.start_sample if first else self._next_sample
        self.n_committed = sample
        self._note_committed(number - 1)
        return sample

    def rewind(self) -> None:
        """Take up the oldest that the spool still has, committed or not: the server has lost that, and more."""
        standing = self._spool.standing(self._session)
        number, sample = self.first_available
        self._restart(number + standing.number_before, sample + standing.sample_before)
        self._is_rewound = True

    def renamed(self) -> str | None:
        """Return the UUID under which the rest goes on, once that is on the disk; follows `begin_new_session`.

        None where the disk does not take it; then it is to be asked again. Sent under a name that a crash makes forgotten, the
        rest would come again under the next, and count twice. The same rest of a session has the same UUID each time.
        """
        before = self._spool.standing(self._session)
        after = before.renamed(str(uuid5(UUID(self.name), str(before.committed + 1))))
        self._spool.set_standing(self._session, after)
        if not self._spool.save_standings():
            self._spool.set_standing(self._session, before)
            return None
        self._restart(after.committed + 1, after.committed_sample)
        self._open = self._end_sent = False
        if self._is_rewound:
            # The server was restored from a backup, and may not know the ends of other sessions either.
            self._is_rewound = False
            self._spool.doubt_finished()
            self._spool.save_standings()
        return after.name

    def _restart(self, number: int, sample: int) -> None:
        """Begin at a number and sample of the spool with what its files have from there on."""
        standing = self._spool.standing(self._session)
        self._items, self.held_bytes, self._ended = deque(), 0, False
        self._next_number, self._next_sample = number - standing.number_before, sample - standing.sample_before
        self._cursor = self._next_number
        self.n_captured = self.n_committed = self._next_sample
        self._is_late = True
        self._read_file()

    def _read_file(self) -> bool:
        """Take what the next file has; return False at the session's end."""
        standing = self._spool.standing(self._session)
        number, sample = self._next_number + standing.number_before, self._next_sample + standing.sample_before
        last_number, end_sample = self._spool.end_of(self._session)
        if number > last_number:
            return False
        items = self._spool.items_from(self._session, number)
        first, begin = (items[0].sequence_number, items[0].start_sample) if items else (last_number + 1, end_sample)
        if first < number:
            end = begin + items[0].n_samples
            items[0] = Loss(number, sample, end - sample, LossReason.SPOOL_FULL, items[0].last_number)
        elif first > number:
            items.insert(0, Loss(number, sample, begin - sample, LossReason.SPOOL_EXPIRED, first - 1))
            self._on_lost(begin - sample, LossReason.SPOOL_EXPIRED)
        self.keep(items)
        return True

    def _renumbered(self, item: SpooledSound | Loss) -> SpooledSound | Loss:
        standing = self._spool.standing(self._session)
        number, start = item.sequence_number - standing.number_before, item.start_sample - standing.sample_before
        if isinstance(item, Loss):
            last = item.last_number - standing.number_before
            return replace(item, sequence_number=number, start_sample=start, last_number=last)
        return replace(item, sequence_number=number, start_sample=start)

    def _note_committed(self, committed: int) -> None:
        standing = self._spool.standing(self._session)
        moved = standing.advanced(committed + standing.number_before, self.n_committed + standing.sample_before)
        self._spool.set_standing(self._session, replace(moved, finished=self.finished))
