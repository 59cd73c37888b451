"""The outbox against a model of a server that forgets, repeats, restarts and is restored from backups."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from songstation.outbox import End, Leave, Loss, LossReason, Outbox, SessionBrokenError, Sound

MAX_LOSS = 50
WINDOW = 3


class ModelServer:
    """The protocol's server side, as its rules say and no cleverer: every position is either samples or silence."""

    def __init__(self) -> None:
        self.received, self.sound = 0, b""
        self.finished = False
        self.commits: list[tuple[int, bytes]] = [(0, b"")]

    @property
    def committed(self) -> tuple[int, bytes]:
        """Return the last chunk on disk and the sound up to it."""
        return self.commits[-1]

    def take(self, item: Sound | Loss | End | Leave) -> None:
        """Take one item in, as strictly as the protocol."""
        assert not isinstance(item, Leave)
        if isinstance(item, End):
            assert (item.last_number, item.n_samples) == (self.received, len(self.sound))
            self.finished = True
            self.commit()
            return
        if item.last_number <= self.received:
            return
        assert item.sequence_number == self.received + 1
        assert item.start_sample == len(self.sound)
        assert item.n_samples > 0
        if isinstance(item, Loss):
            self.sound += bytes(item.n_samples)
        else:
            assert len(item.data) == item.n_samples
            self.sound += item.data
        self.received = item.last_number

    def commit(self) -> None:
        """Put what was received on disk."""
        self.commits.append((self.received, self.sound))

    def forget_uncommitted(self) -> None:
        """Restart."""
        self.received, self.sound = self.committed


class OutboxMachine(RuleBasedStateMachine):
    """One byte stands for one sample; losses must arrive as zeros, everything else as captured."""

    @initialize()
    def start(self) -> None:
        """Begin a session with a small memory."""
        self.outbox = Outbox(max_bytes=60, max_loss_samples=MAX_LOSS)
        self.server = ModelServer()
        self.captured = b""
        self.n_lost, self.was_restored = 0, False
        self.connected = self.ended = False

    @precondition(lambda self: not self.ended)
    @rule(n=st.integers(1, 25))
    def capture(self, n: int) -> None:
        """Sound arrives; without room it is lost, as at a microphone."""
        data = bytes(1 + (len(self.captured) + i) % 255 for i in range(n))
        if self.outbox.offer(data, n):
            self.captured += data
        else:
            assert self.outbox.held_bytes + n > 60
            self.outbox.lose(n, LossReason.SPOOL_FULL)
            self._lost(n)

    @precondition(lambda self: not self.ended)
    @rule(n=st.integers(1, 130))
    def overrun(self, n: int) -> None:
        """Let the device lose samples."""
        self.outbox.lose(n, LossReason.DEVICE_OVERRUN)
        self._lost(n)

    def _lost(self, n: int) -> None:
        self.captured += bytes(n)
        self.n_lost += n

    @rule()
    def end(self) -> None:
        """Nothing more is captured."""
        self.outbox.end()
        self.ended = True

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self) -> None:
        """Open a stream; the server has only what was on disk."""
        self.server.forget_uncommitted()
        number, sound = self.server.committed
        self.outbox.opened(
            expected=number + 1, committed_sample=len(sound), window=WINDOW, finished=self.server.finished
        )
        self.connected = True

    @precondition(lambda self: self.connected)
    @rule(most=st.integers(1, 10), commits=st.booleans(), answers=st.booleans())
    def exchange(self, most: int, commits: bool, answers: bool) -> None:
        """Items go out, and perhaps a commit and an answer come of it."""
        for _ in range(most):
            item = self.outbox.next()
            if item is None:
                break
            self.server.take(item)
        if commits:
            self.server.commit()
        if answers:
            self.outbox.acknowledged(
                received=self.server.received, committed=self.server.committed[0], finished=self.server.finished
            )

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self) -> None:
        """Break the stream."""
        self.outbox.closed()
        self.connected = False

    @precondition(lambda self: not self.connected and not self.ended and len(self.server.commits) > 3)
    @rule(back=st.integers(1, 3))
    def restore_backup(self, back: int) -> None:
        """Take the server back to an older commit."""
        self.was_restored = True
        del self.server.commits[max(1, len(self.server.commits) - back) :]

    @invariant()
    def every_sample_is_accounted_for(self) -> None:
        """Check that captured is committed plus held, in bounded memory."""
        outbox = self.outbox
        assert outbox.n_captured == len(self.captured) == outbox.n_committed + outbox.n_held
        assert 0 <= outbox.n_committed <= len(self.captured)
        assert outbox.held_bytes <= outbox.max_bytes

    @invariant()
    def the_server_heard_what_was_captured(self) -> None:
        """Check that the server has nothing but captured sound and declared losses."""
        for heard, captured in zip(self.server.sound, self.captured, strict=False):
            assert heard in {captured, 0}
        assert self.server.sound.count(0) <= self.outbox.n_lost
        # Only a server restored from a backup costs sound that was captured well.
        assert self.outbox.n_lost == self.n_lost or (self.was_restored and self.outbox.n_lost > self.n_lost)

    def teardown(self) -> None:
        """Whatever has happened, a calm connection brings the session to its end."""
        if not hasattr(self, "outbox"):
            return
        self.end()
        if self.connected:
            self.disconnect()
        self.connect()
        for _ in range(1000):
            self.exchange(most=10, commits=True, answers=True)
            if self.outbox.finished:
                break
        assert self.outbox.finished
        assert self.outbox.n_committed == len(self.captured) == len(self.server.sound)
        assert self.outbox.held_bytes == 0
        self.every_sample_is_accounted_for()
        self.the_server_heard_what_was_captured()


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=150, stateful_step_count=40)


def filled(n_chunks: int = 4) -> Outbox:
    """Return an outbox with chunks of ten samples each, connected to a fresh server."""
    outbox = Outbox(max_bytes=1000, max_loss_samples=100)
    for number in range(n_chunks):
        assert outbox.offer(bytes([number + 1] * 10), 10)
    outbox.opened(expected=1, committed_sample=0, window=100)
    return outbox


def drain(outbox: Outbox) -> list[Sound | Loss | End | Leave]:
    """Return everything that may be sent now."""
    items = []
    while (item := outbox.next()) is not None:
        items.append(item)
    return items


def test_nothing_is_sent_before_the_server_says_where() -> None:
    """Without the answer to the setup there is nothing to send, and an answer is due."""
    outbox = Outbox(max_bytes=100, max_loss_samples=10)
    outbox.offer(b"1", 1)
    assert outbox.next() is None
    assert outbox.answer_due


def test_the_window_bounds_what_is_in_flight() -> None:
    """No more chunks are sent beyond the last received one than the server allows."""
    outbox = filled(6)
    outbox.opened(expected=1, committed_sample=0, window=2)
    assert [item.sequence_number for item in drain(outbox) if isinstance(item, Sound)] == [1, 2]
    outbox.acknowledged(received=1, committed=0)
    assert [item.sequence_number for item in drain(outbox) if isinstance(item, Sound)] == [3]
    assert outbox.held_bytes == 60


def test_a_resent_chunk_is_the_same_chunk() -> None:
    """After a break the server's number decides where sending begins again, with identical chunks."""
    outbox = filled()
    first = drain(outbox)
    outbox.acknowledged(received=4, committed=2)
    outbox.closed()
    outbox.opened(expected=3, committed_sample=20, window=100)
    assert drain(outbox) == first[2:]


def test_a_long_loss_is_declared_in_pieces_and_reasons_are_kept_apart() -> None:
    """Losses become gaps of at most the longest that is taken, one for each reason, in their place."""
    outbox = filled(1)
    outbox.lose(150, LossReason.SPOOL_FULL)
    outbox.lose(100, LossReason.SPOOL_FULL)
    outbox.lose(5, LossReason.DEVICE_OVERRUN)
    outbox.offer(b"9", 1)
    gaps = [item for item in drain(outbox) if isinstance(item, Loss)]
    assert [(gap.start_sample, gap.n_samples, gap.reason.value) for gap in gaps] == [
        (10, 100, "SPOOL_FULL"),
        (110, 100, "SPOOL_FULL"),
        (210, 50, "SPOOL_FULL"),
        (260, 5, "DEVICE_OVERRUN"),
    ]


def test_what_the_server_lost_and_nobody_has_is_a_gap() -> None:
    """A server that comes back with less than it had committed gets one gap in the place of what was released."""
    outbox = filled()
    drain(outbox)
    outbox.acknowledged(received=4, committed=3)
    outbox.closed()
    outbox.opened(expected=2, committed_sample=10, window=100)
    gap, chunk = drain(outbox)
    assert gap == Loss(2, 10, 20, LossReason.SPOOL_EXPIRED, last_number=3)
    assert chunk == Sound(4, 30, 10, bytes([4] * 10))
    assert (outbox.n_committed, outbox.n_lost) == (10, 20)


def test_a_chunk_that_is_refused_for_good_becomes_a_gap() -> None:
    """A chunk given up keeps its number and its place, as a loss."""
    outbox = filled()
    outbox.give_up(2)
    assert drain(outbox)[1] == Loss(2, 10, 10, LossReason.SPOOL_CORRUPT, last_number=2)
    assert (outbox.held_bytes, outbox.n_lost) == (30, 10)


def test_a_going_server_gets_no_more_and_the_next_one_gets_all() -> None:
    """After go_away nothing is sent on the stream; the next stream has everything uncommitted."""
    outbox = filled()
    outbox.next()
    outbox.hold()
    assert outbox.next() is None
    outbox.closed()
    outbox.opened(expected=1, committed_sample=0, window=100)
    assert len(drain(outbox)) == 4


def test_a_new_session_begins_with_what_is_held() -> None:
    """What the old session had not committed is numbered from 1, at sample 0, and the time between is returned."""
    outbox = filled()
    drain(outbox)
    outbox.acknowledged(received=4, committed=1)
    outbox.lose(7, LossReason.DEVICE_LOST)
    assert outbox.begin_new_session() == 10
    outbox.end()
    outbox.opened(expected=1, committed_sample=0, window=100)
    items = drain(outbox)
    assert [(item.sequence_number, item.start_sample) for item in items if isinstance(item, Sound | Loss)] == [
        (1, 0),
        (2, 10),
        (3, 20),
        (4, 30),
    ]
    assert items[-1] == End(4, 37)
    assert (outbox.n_captured, outbox.n_held) == (37, 37)


@pytest.mark.parametrize(
    ("expected", "committed_sample", "finished"),
    [(6, 50, False), (5, 30, False), (2, 30, False), (1, 5, False), (3, 20, True)],
)
def test_a_server_that_knows_another_session_breaks_it(expected: int, committed_sample: int, finished: bool) -> None:
    """An answer that fits nothing that was sent raises SessionBrokenError instead of losing sound."""
    outbox = filled()
    with pytest.raises(SessionBrokenError):
        outbox.opened(expected=expected, committed_sample=committed_sample, window=9, finished=finished)


def test_an_ack_of_what_was_not_sent_breaks_the_session() -> None:
    """An acknowledgement ahead of the sender raises SessionBrokenError, and nothing is released."""
    outbox = filled()
    outbox.next()
    with pytest.raises(SessionBrokenError):
        outbox.acknowledged(received=2, committed=2)
    assert outbox.held_bytes == 40


def test_no_more_is_sent_ahead_than_the_credit_in_chunks_and_bytes() -> None:
    """Sending stops at either limit, goes on as acks move them, and one chunk may always be sent."""
    outbox = Outbox(max_bytes=1000, max_loss_samples=MAX_LOSS)
    for _ in range(8):
        assert outbox.offer(bytes(20), 10)
    outbox.opened(expected=1, committed_sample=0, window=3, window_bytes=45)
    assert [outbox.next() is not None for _ in range(3)] == [True, True, False]
    outbox.acknowledged(received=2, committed=0, window=3, window_bytes=200)
    assert [outbox.next() is not None for _ in range(4)] == [True, True, True, False]
    outbox.acknowledged(received=5, committed=0, window=1, window_bytes=5)
    assert [outbox.next() is not None for _ in range(2)] == [True, False]


def test_the_oldest_item_here_is_named_at_the_setup() -> None:
    """What the server committed is no longer available, and of an empty outbox the next item is."""
    outbox = Outbox(max_bytes=1000, max_loss_samples=MAX_LOSS)
    assert outbox.first_available == (1, 0)
    for _ in range(3):
        assert outbox.offer(bytes(20), 10)
    outbox.opened(expected=1, committed_sample=0, window=3)
    while outbox.next():
        pass
    outbox.acknowledged(received=3, committed=2)
    assert outbox.first_available == (3, 20)
    outbox.acknowledged(received=3, committed=3)
    assert outbox.first_available == (4, 30)
