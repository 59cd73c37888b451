"""What a session still owes the server: which chunks to keep, which to send next, where to begin again.

A pure state machine: no I/O, no clock. Captured sound goes in at one end, numbers from the server's answers at the other.
The law it keeps: every captured sample is committed, held, or declared lost, and nothing is ever two of these.
"""

from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum

from songcore.errors import SongError

__all__ = ["MAX_LOSS_S", "End", "Leave", "Loss", "LossReason", "Outbox", "SessionBrokenError", "Sound"]

MAX_LOSS_S = 3600
"""The longest gap that the protocol takes as one."""


class LossReason(StrEnum):
    """Why samples were lost before they could be sent."""

    DEVICE_OVERRUN = "DEVICE_OVERRUN"
    DEVICE_LOST = "DEVICE_LOST"
    SPOOL_FULL = "SPOOL_FULL"
    SPOOL_CORRUPT = "SPOOL_CORRUPT"
    SPOOL_EXPIRED = "SPOOL_EXPIRED"


class SessionBrokenError(SongError):
    """Server and station do not agree on this session and cannot; what is held goes into a new one."""

    default_reason = "SESSION_BROKEN"


@dataclass(frozen=True, slots=True)
class Sound:
    """A chunk of samples."""

    sequence_number: int
    start_sample: int
    n_samples: int
    data: bytes

    @property
    def last_number(self) -> int:
        """The same number: a chunk takes one."""
        return self.sequence_number

    @property
    def n_bytes(self) -> int:
        """What it takes where it is kept."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Loss:
    """Samples that are declared lost, in the place of one or more chunks."""

    sequence_number: int
    start_sample: int
    n_samples: int
    reason: LossReason
    last_number: int
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """Nothing follows in this session."""

    last_number: int
    n_samples: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing follows on this stream; the session stays open."""


class Outbox:
    """The chunks of one session between capture and commit, at most ``max_bytes`` of them.

    A loss is declared in pieces of at most ``max_loss_samples``, the longest gap a server takes. One that ``joins`` takes up a
    session where the server is with it: nothing may be offered before the first `opened`, which sets ``n_captured``.
    """

    def __init__(self, *, max_bytes: int, max_loss_samples: int, joins: bool = False) -> None:
        self.max_bytes, self.max_loss_samples, self.joins = max_bytes, max_loss_samples, joins
        self.n_joined: int | None = None
        """Samples that the server had when the session was taken up; None before, and for one that does not join."""
        self.had_all = False
        """The server had finished the session when it was taken up."""
        self.leaving = False
        """Nothing more will be captured now, and the session is to stay open."""
        self.left = False
        """Everything captured was sent, and the stream is to end without an end of the session."""
        self.held_bytes = 0
        self.n_captured = 0
        """Samples offered and taken, and samples lost, in this session."""
        self.n_committed = 0
        """Samples up to the server's commit watermark, declared losses included."""
        self.n_lost = 0
        """Samples declared lost."""
        self.finished = False
        """The server has committed the whole session."""
        self._items: deque[Sound | Loss] = deque()
        self._next_number = 1
        self._next_sample = 0
        self._losing: tuple[LossReason, int] | None = None
        self._ended = False
        self._open = self._holding = self._end_sent = False
        self._cursor = 1  # the next number to send
        self._received = 0  # the last number the server has in memory
        self._window = self._window_bytes = 0  # numbers, and bytes, that may be sent beyond it
        self._in_flight: deque[tuple[int, int]] = deque()  # number and bytes of each that the server may not have yet
        self._in_flight_bytes = 0

    @property
    def n_held(self) -> int:
        """Samples kept until they are committed, losses not yet committed included."""
        return self.n_captured - self.n_committed

    @property
    def first_available(self) -> tuple[int, int]:
        """Number and start sample of the oldest item held, or of the next there will be."""
        if self._items:
            return self._items[0].sequence_number, self._items[0].start_sample
        return self._next_number, self._next_sample

    @property
    def answer_due(self) -> bool:
        """Whether the server owes an answer: to the setup, to chunks it has not taken in, or to the end."""
        return not self._open or self._cursor - 1 > self._received or self._end_sent

    def offer(self, data: bytes, n_samples: int) -> bool:
        """Take the next samples, or return False when there is no room for them: wait, or `lose` them."""
        if self.held_bytes + len(data) > self.max_bytes:
            return False
        self._declare()
        self._append(Sound(self._next_number, self._next_sample, n_samples, data))
        self.n_captured += n_samples
        return True

    def lose(self, n_samples: int, reason: LossReason) -> None:
        """Note that the next samples are lost; losses in a row for one reason become one gap."""
        if self._losing and self._losing[0] is not reason:
            self._declare()
        self._losing = reason, (self._losing[1] if self._losing else 0) + n_samples
        self.n_captured += n_samples
        self.n_lost += n_samples

    def end(self) -> None:
        """Note that nothing more will be captured."""
        self._declare()
        self._ended = True

    def leave(self) -> None:
        """Note that nothing more will be captured now, and that somebody will go on with the session another time."""
        if not self._ended:
            self.end()
            self.leaving = True

    def opened(
        self, *, expected: int, committed_sample: int, window: int, window_bytes: int = 0, finished: bool = False
    ) -> None:
        """Begin sending where the server says, whatever was sent before; ``window_bytes`` 0 for any number of bytes.

        What the server lost and the station no longer has becomes a gap, but not where the session was joined: whoever plays
        it has the sound. Raises SessionBrokenError then, and when the server knows more than was ever sent, or has finished a
        session that has not ended.
        """
        if self.joins and self.n_joined is None:
            self._next_number, self._next_sample = expected, committed_sample
            self.n_captured = self.n_joined = committed_sample
            self.had_all = finished
            self._ended, self.leaving = self._ended or finished, self.leaving and not finished
        if expected > self._next_number or (finished and not self._all_before(expected)):
            raise SessionBrokenError(
                f"the server expects chunk {expected}, the next to be captured is {self._next_number}"
            )
        self._drop_before(expected)
        first = self._items[0].sequence_number if self._items else self._next_number
        first_sample = self._items[0].start_sample if self._items else self._next_sample
        if (
            first < expected
            or (committed_sample < first_sample) != (first > expected)
            or committed_sample > first_sample
            or (self.joins and first > expected)
        ):
            raise SessionBrokenError(
                f"the server expects chunk {expected} at sample {committed_sample}, not {first_sample}"
            )
        self.n_committed = committed_sample
        if first > expected:
            self._declare_expired(expected, first - 1, committed_sample, first_sample)
        self._cursor, self._received = expected, expected - 1
        self._window, self._window_bytes = window, window_bytes
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._open, self._holding, self._end_sent = True, False, False

    def acknowledged(
        self, *, received: int, committed: int, window: int = 0, window_bytes: int = 0, finished: bool = False
    ) -> None:
        """Release what is committed and move the window, which has a new size unless that is 0.

        Raises SessionBrokenError for numbers never sent.
        """
        if max(received, committed) >= self._cursor:
            raise SessionBrokenError(f"the server acknowledged chunk {max(received, committed)}, which was not sent")
        self._received = max(self._received, received, committed)
        self._window, self._window_bytes = window or self._window, window_bytes or self._window_bytes
        while self._in_flight and self._in_flight[0][0] <= self._received:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        self._drop_before(committed + 1)
        self.finished = self.finished or (finished and self._end_sent)

    def hold(self) -> None:
        """Send nothing more on this stream: the server is going away."""
        self._holding = True

    def closed(self) -> None:
        """Note that the stream is gone; everything uncommitted is to be sent again."""
        self._open = self._end_sent = self.left = False

    def next(self) -> Sound | Loss | End | Leave | None:
        """Return what to send now, each once per stream, or None while there is nothing or the window is full."""
        if not self._open or self._holding:
            return None
        if self._cursor < self._next_number:
            item = self._items[self._index(self._cursor)]
            if self._in_flight and not self._fits(item.n_bytes):
                return None
            self._cursor = item.last_number + 1
            self._in_flight.append((item.last_number, item.n_bytes))
            self._in_flight_bytes += item.n_bytes
            return item
        if self._ended and not self._end_sent:
            self._end_sent = True
            if self.leaving:
                self.left = True
                return Leave()
            return End(self._next_number - 1, self._next_sample)
        return None

    def give_up(self, number: int) -> None:
        """Declare a chunk lost that the server will not take: its bytes have changed since they were captured."""
        index = self._index(number)
        item = self._items[index]
        if isinstance(item, Sound):
            loss = Loss(number, item.start_sample, item.n_samples, LossReason.SPOOL_CORRUPT, number)
            self._items[index] = loss
            self.held_bytes -= item.n_bytes
            self.n_lost += item.n_samples

    def rewind(self) -> None:
        """Take up the oldest that is still here, as the server has lost what it had: what is held is all there is."""

    def begin_new_session(self) -> int:
        """Begin again at number 1 and sample 0 with what is held; return how many samples later that is."""
        shift = self._items[0].start_sample if self._items else self._next_sample
        items, self._items = self._items, deque()
        self._next_number, self._next_sample, self.held_bytes = 1, 0, 0
        for item in items:
            number = self._next_number
            if isinstance(item, Loss):
                self._append(replace(item, sequence_number=number, start_sample=self._next_sample, last_number=number))
            else:
                self._append(replace(item, sequence_number=number, start_sample=self._next_sample))
        self.n_captured -= shift
        self.n_committed = 0
        self._open = self._end_sent = False
        return shift

    def _fits(self, n_bytes: int) -> bool:
        """Whether another item lies within what the server lets us send ahead."""
        if self._cursor > self._received + self._window:
            return False
        return not self._window_bytes or self._in_flight_bytes + n_bytes <= self._window_bytes

    def _append(self, item: Sound | Loss) -> None:
        self._items.append(item)
        self.held_bytes += item.n_bytes
        self._next_number = item.last_number + 1
        self._next_sample += item.n_samples

    def _declare(self) -> None:
        """Turn the loss that is going on into gaps."""
        if self._losing is None:
            return
        reason, left = self._losing
        self._losing = None
        while left:
            n_samples = min(left, self.max_loss_samples)
            number = self._next_number
            self._append(Loss(number, self._next_sample, n_samples, reason, number))
            left -= n_samples

    def _declare_expired(self, first: int, last: int, start: int, end: int) -> None:
        """Put a gap in the place of chunks that the server had committed, lost, and wants again."""
        self._items.appendleft(Loss(first, start, end - start, LossReason.SPOOL_EXPIRED, last))
        self.n_lost += end - start

    def _all_before(self, expected: int) -> bool:
        return self._ended and expected == self._next_number

    def _drop_before(self, number: int) -> None:
        while self._items and self._items[0].last_number < number:
            item = self._items.popleft()
            self.held_bytes -= item.n_bytes
            self.n_committed = item.start_sample + item.n_samples

    def _index(self, number: int) -> int:
        """Return where the item of a number is; only gaps in the place of several chunks make it differ from a count."""
        index = number - self._items[0].sequence_number
        if index < len(self._items) and self._items[index].sequence_number == number:
            return index
        return next(i for i, item in enumerate(self._items) if item.sequence_number <= number <= item.last_number)
