"""An outbox on a real spool against a model of a server, with crashes, torn files, restored servers and sessions left."""

import errno
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from songstation import spool as spool_module
from songstation import spool_outbox as outbox_module
from songstation.outbox import End, Leave, Loss, LossReason, SessionBrokenError, Sound
from songstation.spool import Spool
from songstation.spool_files import SegmentFile, file_name
from songstation.spool_index import SpoolLimits
from songstation.spool_outbox import SpoolOutbox
from songstation.spool_records import Kind, scan
from songstation.spool_sessions import Session, Standing

START = datetime(2024, 5, 1, 3, 30, tzinfo=UTC)
WINDOW = 4


class ModelServer:
    """What the protocol says of one session name: samples or silence at every position, in order."""

    def __init__(self) -> None:
        self.number, self.sound, self.finished = 0, b"", False
        self.commits: list[tuple[int, bytes]] = [(0, b"")]

    def take(self, item: Sound | Loss | End | Leave) -> None:
        """Take in one item, strictly."""
        assert not isinstance(item, Leave)
        if isinstance(item, End):
            assert (item.last_number, 2 * item.n_samples) == (self.number, len(self.sound))
            self.finished = True
            self.commit()
            return
        if item.last_number <= self.number:
            return
        assert (item.sequence_number, 2 * item.start_sample) == (self.number + 1, len(self.sound))
        assert item.n_samples > 0
        data = item.data if isinstance(item, Sound) else bytes(2 * item.n_samples)
        assert len(data) == 2 * item.n_samples
        self.sound += data
        self.number = item.last_number

    def commit(self) -> None:
        """Put it on the disk."""
        self.commits.append((self.number, self.sound))

    def forget(self) -> None:
        """Restart."""
        self.number, self.sound = self.commits[-1]


class SpoolMachine(RuleBasedStateMachine):
    """Captured samples are never zero: a zero at the server is declared loss."""

    @initialize()
    def begin(self) -> None:
        """Start a session on an empty spool with small files."""
        self.folder = TemporaryDirectory()
        spool_module.SEGMENT_BYTES = 1000
        outbox_module.FEW, outbox_module.MOST = 2, 5
        self.session = Session(UUID(int=1), "north", 1_000, START, 20)
        self.servers = [ModelServer()]
        self.captured = b""
        self.hurt = self.connected = self.ended = self.is_full = False
        self.names = [str(self.session.uuid)]
        spool_module.SegmentFile = self.file_class()  # type: ignore[attr-defined]  # set back at the end
        self.open()
        self.spool.begin(self.session)
        self.outbox = self.new_outbox()

    def file_class(self) -> type[SegmentFile]:
        """Return the spool's files, on a disk that can be full."""

        def has_room() -> None:
            if self.is_full:
                raise OSError(errno.ENOSPC, "full")

        class OnDisk(SegmentFile):
            """A file that nothing more goes into when the disk is full."""

            def __init__(self, directory: Path, number: int, opening: bytes) -> None:
                has_room()
                super().__init__(directory, number, opening)

            def append(self, content: bytes) -> int:
                """Append, or raise that the disk is full."""
                has_room()
                return super().append(content)

        return OnDisk

    def open(self) -> None:
        """Open the spool."""
        self.spool = Spool(Path(self.folder.name), SpoolLimits(10**9), now_s=lambda: 0.0)

    def new_outbox(self) -> SpoolOutbox:
        """Return an outbox that begins where the spool's cursor is."""
        return SpoolOutbox(self.spool, self.session.uuid, on_lost=lambda *_: None)

    @precondition(lambda self: not self.ended)
    @rule(n=st.integers(1, 40))
    def capture(self, n: int) -> None:
        """Sound arrives."""
        data = bytes(1 + (len(self.captured) + i) % 255 for i in range(2 * n))
        self.outbox.keep(self.spool.append(data, n, 0))
        self.captured += bytes(2 * n) if self.spool.pending_loss else data

    @precondition(lambda self: not self.ended)
    @rule(n=st.integers(1, 60))
    def overrun(self, n: int) -> None:
        """Let the device lose samples."""
        self.outbox.keep(self.spool.lose(n, LossReason.DEVICE_OVERRUN, 0))
        self.captured += bytes(2 * n)

    @rule(is_full=st.booleans())
    def fill(self, is_full: bool) -> None:
        """Let somebody else fill the disk, or free it."""
        self.is_full = is_full

    @precondition(lambda self: not self.ended)
    @rule()
    def end(self) -> None:
        """End the session in order."""
        self.spool.end()
        self.ended = True

    @rule(tear=st.integers(0, 60), tends=st.booleans())
    def crash(self, tear: int, tends: bool = False) -> None:
        """Kill the station, perhaps with the newest file torn, or long after its last acks; its session has ended by that."""
        uuid = self.session.uuid
        if tends:
            self.spool.tend()
        # A loss that was going on is in no file; by and by it is noted all the same.
        is_noted = uuid in self.spool.sessions and (tends or self.ended)
        n_sure = self.spool.totals(uuid).captured if is_noted else self.spool.end_of(uuid)[1]
        is_torn = False
        if not self.ended:
            newest = max(Path(self.folder.name).glob("*.spool"), default=None)
            if newest is not None and tear:
                content = newest.read_bytes()
                newest.write_bytes(content[: max(len(content) - tear, opening_end(content))])
                self.hurt = is_torn = True
            self.spool._close_file()
        os.close(self.spool._lock)
        self.open()
        self.ended, self.connected = True, False
        if uuid in self.spool.sessions:
            n_captured = self.spool.totals(uuid).captured
            if not is_torn:
                assert n_captured >= n_sure
                self.captured = self.captured[: 2 * n_captured]
            self.outbox = self.new_outbox()
            assert self.outbox.name == self.names[-1]
        else:
            self.captured, self.outbox.finished = b"", True

    @precondition(lambda self: not self.connected and not self.outbox.finished)
    @rule(restored=st.booleans())
    def connect(self, restored: bool) -> None:
        """Open a stream; the server has what was on its disk, or on that of its backup."""
        server = self.servers[-1]
        if restored and len(server.commits) > 1:
            server.commits.pop()
            server.finished = False
        server.forget()
        self.feed()
        try:
            self.outbox.opened(
                expected=server.number + 1,
                committed_sample=len(server.sound) // 2,
                window=WINDOW,
                finished=server.finished,
            )
        except SessionBrokenError:
            self.leave()
            return
        self.connected = True

    @precondition(lambda self: self.connected)
    @rule(most=st.integers(1, 12), commits=st.booleans(), answers=st.booleans())
    def exchange(self, most: int, commits: bool, answers: bool) -> None:
        """Items go out, and perhaps a commit and an answer come of it."""
        server = self.servers[-1]
        for _ in range(most):
            self.feed()
            if (item := self.outbox.next()) is None:
                break
            server.take(item)
        if commits:
            server.commit()
        if answers:
            number = server.commits[-1][0]
            self.outbox.acknowledged(received=server.number, committed=number, finished=server.finished)

    @precondition(lambda self: self.connected and not self.outbox.finished)
    @rule()
    def disconnect(self) -> None:
        """Lose the stream."""
        self.outbox.closed()
        self.connected = False

    @precondition(lambda self: not self.connected and not self.outbox.finished)
    @rule()
    def leave(self) -> None:
        """Go on under another name, as when the server does not take the session's."""
        self.outbox.closed()
        shift = self.outbox.begin_new_session()
        server = self.servers[-1]
        kept = server.commits[-1][1][: 2 * shift].ljust(2 * shift, b"\0")
        server.commits, server.sound = [(0, kept)], kept
        name = self.outbox.renamed()
        assert name not in {None, *self.names}
        self.names.append(str(name))
        self.servers.append(ModelServer())

    def feed(self) -> None:
        """Read on in the files as far as they are wanted."""
        while self.outbox.feed():
            pass

    @invariant()
    def nothing_is_lost_or_made_up(self) -> None:
        """Check that the servers have what was captured, and zeros only where it was declared lost."""
        had = b"".join(server.commits[-1][1] for server in self.servers[:-1]) + self.servers[-1].sound
        if not self.hurt:
            assert len(had) <= len(self.captured)
        for mine, theirs in zip(self.captured, had, strict=False):
            assert theirs in {mine, 0}

    def teardown(self) -> None:
        """Send the rest: then all is there, and without damage nothing was declared but what the device lost."""
        self.is_full = False
        if not self.ended:
            self.spool.end()
            self.ended = True
        self.spool.tend()
        for _ in range(200):
            if self.outbox.finished:
                break
            if not self.connected:
                self.connect(False)
            if self.connected:
                self.exchange(50, True, True)
        assert self.outbox.finished
        had = b"".join(server.commits[-1][1] for server in self.servers)
        self.nothing_is_lost_or_made_up()
        if not self.hurt:
            assert had == self.captured
        spool_module.SegmentFile = SegmentFile  # type: ignore[attr-defined]
        spool_module.SEGMENT_BYTES = 4 * 2**20
        outbox_module.FEW, outbox_module.MOST = 64, 1024
        os.close(self.spool._lock)
        self.folder.cleanup()


TestSpoolOutbox = SpoolMachine.TestCase
TestSpoolOutbox.settings = settings(max_examples=40, stateful_step_count=25)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_session_that_is_left_goes_on_under_another_name(restarts: bool) -> None:
    """What was committed stays with the old name; the rest has numbers and samples of its own, after a restart too."""
    machine = SpoolMachine()
    machine.begin()
    for _ in range(12):
        machine.capture(10)
    machine.connect(restored=False)
    machine.exchange(most=3, commits=True, answers=True)
    machine.disconnect()
    machine.leave()
    machine.capture(10)
    assert machine.outbox.name == machine.names[-1] != machine.names[0]
    assert (machine.outbox.samples_before, machine.outbox.first_available) == (30, (1, 0))
    if restarts:
        machine.crash(tear=0)
    machine.teardown()
    assert [len(server.commits[-1][1]) for server in machine.servers] == [60, 200]


def test_a_name_that_the_disk_does_not_take_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has changed then, and the next try gives the name; so does one after a crash that took the cursor."""
    machine = SpoolMachine()
    machine.begin()
    for _ in range(4):
        machine.capture(10)
    machine.connect(restored=False)
    machine.exchange(most=2, commits=True, answers=True)
    machine.disconnect()

    def failing(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    outbox, other = machine.outbox, UUID(int=9)
    machine.spool.set_standing(other, Standing(5, 50, finished=True))
    outbox.begin_new_session()
    with monkeypatch.context() as disk:
        disk.setattr("songstation.spool.replace_file", failing)
        assert outbox.renamed() is None
        outbox.rewind()
        outbox.begin_new_session()
        assert outbox.renamed() is None
    assert machine.spool.standing(other).finished, "nor is another session asked about for each try"
    outbox._restart(3, 20)
    outbox._is_rewound = False
    outbox.begin_new_session()
    assert (outbox.name, outbox.samples_before) == (str(machine.session.uuid), 0)
    name = outbox.renamed()
    assert name not in {None, str(machine.session.uuid)}
    assert (outbox.name, outbox.samples_before) == (name, 20)
    machine.names.append(str(name))
    machine.crash(tear=0)
    assert (machine.outbox.name, machine.outbox.samples_before) == (name, 20)
    # Without a cursor the server says how far it was, and refuses the session again.
    (Path(machine.folder.name) / "cursor").unlink()
    machine.names.pop()
    machine.crash(tear=0)
    machine.connect(restored=False)
    machine.disconnect()
    machine.outbox.begin_new_session()
    assert machine.outbox.renamed() == name
    os.close(machine.spool._lock)
    machine.folder.cleanup()


def with_two_files(n_first: int, n_second: int) -> tuple[SpoolMachine, Path]:
    """Return a machine whose spool was left with so many chunks in either file, and the second file."""
    machine = SpoolMachine()
    machine.begin()
    for n_chunks in (n_first, n_second):
        machine.spool._close_file()
        for _ in range(n_chunks):
            machine.capture(10)
    os.close(machine.spool._lock)
    return machine, max(Path(machine.folder.name).glob("*.spool"))


def opening_end(content: bytes) -> int:
    """Return where a file's opening ends."""
    return max(one.end for one in scan(content) if one.record.kind is Kind.SESSION)


def cut_behind_the_opening(file: Path) -> None:
    """Leave only what a file begins with."""
    file.write_bytes(file.read_bytes()[: opening_end(file.read_bytes())])


def test_what_is_deleted_up_to_a_session_s_end_is_declared() -> None:
    """Of the end only the opening of a file is left, and the server wants what lay before it: a gap of its exact length."""
    machine, newest = with_two_files(3, 1)
    cut_behind_the_opening(newest)
    machine.open()
    machine.spool.set_standing(machine.session.uuid, Standing(3, 30))
    for segment in machine.spool.index.segments[:-1]:
        machine.spool._delete(segment)
    lost: list[int] = []
    outbox = SpoolOutbox(machine.spool, machine.session.uuid, on_lost=lambda n_samples, _: lost.append(n_samples))
    assert outbox.first_available == (4, 30)
    outbox.opened(expected=2, committed_sample=10, window=4)
    while outbox.feed():
        pass
    items = [outbox.next(), outbox.next()]
    assert items == [Loss(2, 10, 20, LossReason.SPOOL_EXPIRED, 3), End(3, 30)]
    assert lost == [20]
    os.close(machine.spool._lock)
    machine.folder.cleanup()


def test_an_empty_file_between_others_hides_nothing() -> None:
    """What a disk that took no records left in the middle is passed over: all sound behind it is sent, none declared lost."""
    machine, newest = with_two_files(2, 2)
    shutil.copy(newest, newest.with_name(file_name(int(newest.stem) + 1)))
    cut_behind_the_opening(newest)
    machine.open()
    assert [one.is_empty for one in machine.spool.index.segments] == [False, True, False]
    for expected in (1, 3, 2):
        outbox = SpoolOutbox(machine.spool, machine.session.uuid, on_lost=lambda *_: None)
        outbox.opened(expected=expected, committed_sample=10 * (expected - 1), window=9)
        items: list[Any] = []
        while not items or items[-1] is not None:
            outbox.feed()
            items.append(outbox.next())
        missing = [Loss] if expected == 2 else []
        assert [type(item) for item in items[:-1]] == missing + [Sound] * (5 - max(expected, 3 if missing else 0)) + [
            End
        ]
        if expected == 3:  # then a server that was put back wants what went with the first file
            machine.spool._delete(machine.spool.index.segments[0])
    assert items[0] == Loss(2, 10, 10, LossReason.SPOOL_EXPIRED, 2)
    os.close(machine.spool._lock)
    machine.folder.cleanup()


def test_a_restored_server_is_offered_finished_sessions_too() -> None:
    """A server that comes back with less of one session may have lost the end of another; all on the disk are open again."""
    machine = SpoolMachine()
    machine.begin()
    for _ in range(4):
        machine.capture(10)
    other = UUID(int=9)
    machine.spool.set_standing(other, Standing(5, 50, finished=True))
    machine.connect(restored=False)
    machine.exchange(most=4, commits=True, answers=True)
    machine.disconnect()
    assert machine.spool.standing(other).finished
    machine.spool.save_standings()
    machine.connect(restored=True)
    assert not machine.spool.standing(other).finished
    # Nor does a crash make it forgotten, though the server has all of this session again by then.
    cursor = json.loads((Path(machine.folder.name) / "cursor").read_bytes())
    assert not cursor[str(other)]["finished"]
    assert cursor[str(machine.session.uuid)]["committed"] < 4
    machine.teardown()


def test_what_a_slow_link_leaves_behind_is_held_on_the_disk_only() -> None:
    """A session that goes on while the server is late takes no more memory; what is in the files is sent in its turn."""
    machine = SpoolMachine()
    machine.begin()
    machine.connect(restored=False)
    held = []
    for _ in range(200):
        machine.capture(5)
        machine.exchange(most=1, commits=True, answers=True)
        machine.capture(5)
        held.append(len(machine.outbox._items))
    assert machine.servers[-1].number < 250
    assert max(held) <= outbox_module.MOST + WINDOW
    # Still being written, it catches up, and what is captured then goes out at once.
    while machine.servers[-1].number < 400:
        machine.exchange(most=50, commits=True, answers=True)
    machine.capture(5)
    machine.exchange(most=50, commits=True, answers=True)
    assert machine.servers[-1].sound == machine.captured
    machine.teardown()
