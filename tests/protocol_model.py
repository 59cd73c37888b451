"""A pure model of the whole path from capture to store: real outbox, real intake and session, fakes of listening and store.

Sounds are short integers; a *song* of the fake listening is a run of samples that are not zero, closed by two zeros. So what a
session should find can be written down, and a run of the machine takes milliseconds.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Self, cast
from uuid import UUID

import numpy as np
from google_crc32c import value as crc32c

from fake_models import FakeModel
from songcore.arrays import FloatArray
from songcore.assign import Assignment
from songcore.stream import Checkpoint, Song, SongStream
from songserve.intake import Chunk, Finish, Gap
from songserve.records import AudioFormat, Commit, SessionName, SessionOpening, SessionRecord
from songserve.refusal import Refusal
from songserve.session import Session, SessionLimits
from songstation.outbox import End, Loss, LossReason, Outbox, Sound

RATE = 8
OPENING = SessionOpening(SessionName("north", UUID(int=1)), AudioFormat("linear16", RATE, 1, None), 0)
NAME = Assignment("T0001", "song", 1.0, 0.0, 1.0, novelty="known")
NO_FEATURES: FloatArray = np.zeros((1, 1), np.float32)
N_CLOSING = 2


class FakeStream:
    """Listens as `SongStream` does: songs once they are over, and checkpoints before the song that is open."""

    def __init__(self, position: int = 0) -> None:
        self._position = position  # of the next sample
        self._onset: int | None = None
        self._n_quiet = 0

    @classmethod
    def make(cls, rate_in: int, state: bytes | None) -> SongStream:
        """Return a stream, new or from a checkpoint."""
        assert rate_in == RATE
        return cast("SongStream", cls(int(state.decode()) if state else 0))

    def push(self, samples: FloatArray) -> list[Song]:
        """Take samples and return the songs that ended."""
        songs = []
        for sample in samples:
            self._position += 1
            if sample:
                self._onset = self._position - 1 if self._onset is None else self._onset
                self._n_quiet = 0
            elif self._onset is not None:
                self._n_quiet += 1
                if self._n_quiet == N_CLOSING:
                    songs += self.finish()
        return songs

    def finish(self) -> list[Song]:
        """Return the open song."""
        if self._onset is None:
            return []
        song = Song(self._onset, self._position - self._n_quiet, forced_cut=False, snr_db=0, features=NO_FEATURES)
        self._onset, self._n_quiet = None, 0
        return [song]

    def checkpoint(self) -> Checkpoint:
        """Return where every song not yet returned would be found again."""
        return Checkpoint(self.open_since, str(self.open_since).encode())

    @property
    def open_since(self) -> int:
        """First sample that a song not yet returned may begin at."""
        return self._position if self._onset is None else self._onset


def songs_of(sound: list[int | None]) -> set[tuple[int, int]]:
    """Return onset and offset of the songs of a session; None is a lost sample, which ends a song."""
    songs, position, onset, n_quiet = set(), 0, None, 0
    for is_lost, run in groupby(sound, lambda sample: sample is None):
        for sample in run:
            position += 1
            if not is_lost and sample:
                onset, n_quiet = (position - 1 if onset is None else onset), 0
            elif onset is not None:
                n_quiet += not is_lost
                if is_lost or n_quiet == N_CLOSING:
                    songs.add((onset, position - (1 if is_lost else 0) - n_quiet))
                    onset, n_quiet = None, 0
    if onset is not None:
        songs.add((onset, position - n_quiet))
    return songs


@dataclass
class FakeStore:
    """Transactions that reach the disk or do not; the memory of a killed server is gone, this stays."""

    record: SessionRecord | None = None
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    n_inserted: int = 0
    heard_s: float = 0.0

    def open(self) -> SessionRecord:
        """Take the session over."""
        until = max((end for _, end in self.rows.values()), default=0)
        record = self.record or SessionRecord(OPENING, writer_epoch=0)
        self.record = replace(record, writer_epoch=record.writer_epoch + 1)
        return replace(self.record, songs_until_ms=until * 1000 // RATE)

    def commit(self, commit: Commit) -> None:
        """Store a step whole, or refuse it whole."""
        assert self.record is not None
        if commit.record.writer_epoch != self.record.writer_epoch:
            raise Refusal("fenced", reason="WRITER_FENCED")
        self.record = commit.record
        for song in commit.songs:
            if song.uid not in self.rows:
                self.rows[song.uid] = (song.onset, song.offset)
                self.n_inserted += 1
        self.heard_s += sum(commit.recorded_s.values())


@dataclass(frozen=True)
class Ack:
    """What the server answers with."""

    received: int
    committed: int
    finished: bool
    opened_at: int | None = None
    """Committed sample, of the answer to a setup."""


class Server:
    """One stream of a server process: the real session over the fake store. ``acks_early`` breaks the rule of acks."""

    def __init__(self, store: FakeStore, *, acks_early: bool = False) -> None:
        self._store, self._acks_early = store, acks_early
        record = store.open()
        limits = SessionLimits(max_chunk_bytes=2**16, commit_interval_s=1.0, max_chunks_per_commit=3)
        self.session = Session(record, FakeModel(FakeStream.make, sample_rate_hz=RATE), limits=limits)
        self.answers = deque(
            [
                Ack(
                    record.committed_sequence_number,
                    record.committed_sequence_number,
                    record.finished,
                    record.committed_sample,
                )
            ]
        )

    def take(self, item: Sound | Loss | End) -> None:
        """Take one message in."""
        if isinstance(item, End):
            self.session.intake.finish(Finish(item.last_number, item.n_samples))
        elif isinstance(item, Loss):
            gap = Gap(item.sequence_number, item.last_number, item.start_sample, item.n_samples)
            self.session.intake.accept(gap)
        else:
            data = item.data
            chunk = Chunk(item.sequence_number, item.start_sample, item.n_samples, data, crc32c(data))
            self.session.intake.accept(chunk)

    def work(self, *, dies_before_commit: bool = False, dies_before_ack: bool = False) -> None:
        """Go one turn; a server that dies in it has committed or not, and has acknowledged nothing."""
        step = self.session.next_step()
        if step is None:
            return
        heard = self.session.listen(step)
        commit = self.session.decide(heard, [NAME] * len(heard.songs))
        if self._acks_early:
            last = commit.record.committed_sequence_number if commit else self.session.record.committed_sequence_number
            self.answers.append(Ack(self.session.received_sequence_number, last, finished=False))
        if dies_before_commit:
            return
        if commit:
            self._store.commit(commit)
            self.session.settle(commit)
        record = self.session.record
        if not dies_before_ack:
            answer = Ack(self.session.received_sequence_number, record.committed_sequence_number, record.finished)
            self.answers.append(answer)


class World:
    """A station, a link and a server, each of which may break at any moment."""

    def __init__(self, *, acks_early: bool = False) -> None:
        self.outbox = Outbox(max_bytes=120, max_loss_samples=RATE * 3600)
        self.store = FakeStore()
        self.sound: list[int | None] = []
        """All that was captured; None where it was lost before it could be kept."""
        self.server: Server | None = None
        self.lingering: Server | None = None
        """A stream that the station has left, and the server has not ended yet."""
        self._acks_early = acks_early
        self._to_server: deque[Sound | Loss | End] = deque()
        self.acknowledged = 0

    @classmethod
    def broken(cls) -> Self:
        """Return a world whose server acknowledges before it commits."""
        return cls(acks_early=True)

    def capture(self, samples: list[int]) -> None:
        """Sound arrives at the station; without room it is lost, and declared."""
        data = np.asarray(samples, "<i2").tobytes()
        if self.outbox.offer(data, len(samples)):
            self.sound += samples
        else:
            self.lose(len(samples))

    def lose(self, n: int) -> None:
        """Let the device lose samples."""
        self.outbox.lose(n, LossReason.DEVICE_OVERRUN)
        self.sound += [None] * n

    def connect(self) -> None:
        """Open a stream; one that is there is left and fenced off."""
        self.drop()
        self.server = Server(self.store, acks_early=self._acks_early)
        self.outbox.closed()

    def drop(self) -> None:
        """Break the connection: all that was on the way is gone, in both directions; the server does not know yet."""
        self.lingering, self.server = self.server, None
        self._to_server.clear()
        self.outbox.closed()

    def linger(self) -> None:
        """Let the stream that was left go a turn: it commits what it has, unless a newer one has taken over."""
        if self.lingering:
            try:
                self.lingering.work()
            except Refusal as refusal:
                self.lingering = None
                if refusal.reason != "WRITER_FENCED":
                    raise

    def kill(self) -> None:
        """Kill the server, with every stream."""
        self.drop()
        self.lingering = None

    def send(self) -> None:
        """Put the station's next message on the way."""
        item = self.outbox.next()
        if isinstance(item, Sound | Loss | End):  # a station's session is left by nobody
            self._to_server.append(item)

    def deliver(self) -> None:
        """Let the server take the oldest message on the way."""
        if self.server and self._to_server:
            self.server.take(self._to_server.popleft())

    def answer(self) -> None:
        """Let the station take the oldest answer on the way."""
        if self.server is None or not self.server.answers:
            return
        ack = self.server.answers.popleft()
        if ack.opened_at is not None:
            self.outbox.opened(
                expected=ack.committed + 1,
                committed_sample=ack.opened_at,
                window=4,
                window_bytes=40,
                finished=ack.finished,
            )
        else:
            self.outbox.acknowledged(received=ack.received, committed=ack.committed, finished=ack.finished)
        self.acknowledged = max(self.acknowledged, ack.committed)

    def settle(self) -> None:
        """Let the weather be fine from now on: everything is sent, heard and committed."""
        self.outbox.end()
        for _ in range(3):
            self.connect()
            for _ in range(10_000):
                self.answer()
                self.send()
                self.deliver()
                if self.server:
                    self.server.work()
                if self.outbox.finished:
                    return
        raise AssertionError("the session did not come to its end in fine weather")

    def check(self) -> None:
        """Raise AssertionError when a promise is broken: nothing lost, nothing doubled, acknowledged is stored."""
        record = self.store.record
        committed = record.committed_sequence_number if record else 0
        assert self.acknowledged <= committed, f"{self.acknowledged} was acknowledged, {committed} is on the disk"
        outbox, committed_sample = self.outbox, record.committed_sample if record else 0
        assert outbox.n_captured == len(self.sound) == outbox.n_committed + outbox.n_held
        assert outbox.n_committed <= committed_sample <= len(self.sound)
        heard = self.sound[:committed_sample]
        n_recorded = sum(sample is not None for sample in heard)
        gaps = len(heard) - n_recorded
        assert round(self.store.heard_s * RATE) + gaps == committed_sample
        rows = list(self.store.rows.values())
        assert len(rows) == len(set(rows)) == self.store.n_inserted
        # What is stored was sung; what was sung and ended in what is committed is stored.
        assert set(rows) <= songs_of(self.sound)
        closed = {song for song in songs_of(heard) if song[1] + N_CLOSING <= committed_sample}
        assert closed <= set(rows)
