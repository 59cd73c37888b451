"""The spool: what was written is there after any end, what cannot be there is declared, and nothing is both."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from songcore.errors import ConfigError
from songstation.outbox import Loss, LossReason
from songstation.spool import Spool
from songstation.spool_export import listed
from songstation.spool_files import SegmentFile, file_name, rewrite_as_loss
from songstation.spool_index import Policy, Segment, SpoolIndex, SpoolLimits
from songstation.spool_losses import LossFile, PendingLoss, read_losses
from songstation.spool_records import HEADER_BYTES, Found, Kind, Record, pack, scan
from songstation.spool_sessions import Session, SpooledSound, Standing

ONE, TWO = UUID(int=1), UUID(int=2)
START = datetime(2024, 5, 1, 3, 30, tzinfo=UTC)
N_CHUNK = 50


class Clock:
    """A clock that stands still until it is put forward."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.s


def session(uuid: UUID = ONE) -> Session:
    """Return a session at 1 kHz."""
    return Session(uuid, "north", 1_000, START, N_CHUNK)


def chunk(number: int, n_samples: int = N_CHUNK) -> bytes:
    """Return the data of a chunk, another for each number."""
    return bytes((number * 7 + i) % 251 for i in range(2 * n_samples))


def opened(directory: Path, clock: Callable[[], float] | None = None, **limits: Any) -> Spool:
    """Return the spool of a directory."""
    return Spool(directory, SpoolLimits(**{"max_bytes": 10**9, **limits}), now_s=clock or Clock())


def written(directory: Path, n_chunks: int, uuid: UUID = ONE) -> None:
    """Write a session of so many chunks."""
    spool = opened(directory)
    spool.begin(session(uuid))
    for number in range(1, n_chunks + 1):
        spool.append(chunk(number), N_CHUNK, 0)
    spool.close()


def contents(spool: Spool, uuid: UUID = ONE) -> list[bytes | Loss]:
    """Return the session's data and losses in order, having checked that numbers and samples follow each other."""
    number, sample = 1, 0
    told: list[bytes | Loss] = []
    while items := spool.items_from(uuid, number):
        for item in items:
            assert (item.sequence_number, item.start_sample) == (number, sample)
            number, sample = item.last_number + 1, sample + item.n_samples
            data = spool.read(item, uuid) if isinstance(item, SpooledSound) else item
            assert not isinstance(data, LossReason)
            told.append(data)
    assert spool.end_of(uuid) == (number - 1, sample)
    return told


def newest(directory: Path) -> Path:
    """Return the file that was begun last."""
    return max(directory.glob("*.spool"))


@given(st.lists(st.binary(max_size=300), max_size=8), st.binary(max_size=50))
def test_records_are_read_as_they_were_written(datas: list[bytes], junk: bytes) -> None:
    """Records come back whole and in order, whatever lies in front of them and behind."""
    records = [Record(Kind.SOUND, ONE, n, n, n * 10, 10, -n, None, data) for n, data in enumerate(datas, 1)]
    found = list(scan(junk + b"".join(map(pack, records)) + junk))
    assert [one.record for one in found if one.intact] == records


def test_room_is_what_the_limits_leave(tmp_path: Path) -> None:
    """What waits and the room for more make up the spool, as far as the disk has so much."""
    spool = opened(tmp_path / "limited", max_bytes=10_000)
    assert (spool.index.held_bytes, spool.room_bytes) == (0, 10_000)
    spool.begin(session())
    spool.append(chunk(1), N_CHUNK, 0)
    assert spool.index.held_bytes >= 2 * N_CHUNK
    assert spool.index.held_bytes + spool.room_bytes == 10_000
    spool.close()
    full = opened(tmp_path / "full", min_free_bytes=2**60)
    assert full.room_bytes == 0
    full.close()


def test_what_is_synced_is_given_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file and its name, what is due by time or size, a flush and an end: each has the system write to the disk."""
    given: dict[str, int] = {}

    def noting(system_call: Callable[[int], None]) -> Callable[[int], None]:
        def call(handle: int) -> None:
            system_call(handle)
            given[str(Path(f"/proc/self/fd/{handle}").readlink())] = os.fstat(handle).st_size

        return call

    monkeypatch.setattr(os, "fdatasync", noting(os.fdatasync))
    monkeypatch.setattr(os, "fsync", noting(os.fsync))

    def n_at_risk() -> int:
        path = newest(tmp_path)
        return path.stat().st_size - given.get(str(path), 0)

    clock = Clock()
    spool = opened(tmp_path, clock, sync_s=1, sync_bytes=5_000)
    spool.begin(session())
    spool.append(chunk(1), N_CHUNK, 0)
    assert 0 < n_at_risk() < newest(tmp_path).stat().st_size
    assert str(tmp_path) in given
    clock.s += 1
    spool.tend()
    assert n_at_risk() == 0
    spool.append(chunk(2), N_CHUNK, 0)
    assert n_at_risk() > 0
    spool.append(chunk(3, 3_000), 3_000, 0)
    assert n_at_risk() == 0
    for number, sync in ((4, spool.flush), (5, spool.end)):
        spool.append(chunk(number), N_CHUNK, 0)
        assert n_at_risk() > 0
        sync()
        assert n_at_risk() == 0
    spool.close()


def test_what_is_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """Chunks and losses of two sessions come back in order, byte for byte, losses in a row as one."""
    spool = opened(tmp_path)
    spool.begin(session())
    spool.append(chunk(1), N_CHUNK, 0)
    assert spool.lose(7, LossReason.DEVICE_OVERRUN, 0) == []
    spool.lose(3, LossReason.DEVICE_OVERRUN, 0)
    gap, sound = spool.append(chunk(3), N_CHUNK, 0)
    assert (gap.sequence_number, gap.n_samples, sound.sequence_number) == (2, 10, 3)
    spool.begin(session(TWO))
    spool.append(chunk(9), N_CHUNK, 0)
    spool.close()
    again = opened(tmp_path)
    assert contents(again) == [chunk(1), Loss(2, N_CHUNK, 10, LossReason.DEVICE_OVERRUN, 2), chunk(3)]
    assert contents(again, TWO) == [chunk(9)]
    assert (again.unfinished(), again.sessions[TWO]) == ([ONE, TWO], session(TWO))
    assert again.n_repaired == 0


def test_a_loss_longer_than_an_hour_is_several(tmp_path: Path) -> None:
    """No gap is longer than a server takes."""
    spool = opened(tmp_path)
    spool.begin(session())
    spool.lose(9_000_000, LossReason.DEVICE_LOST, 0)
    assert [item.n_samples for item in spool.flush()] == [3_600_000, 3_600_000, 1_800_000]


def test_a_record_torn_at_any_byte_is_declared(tmp_path: Path) -> None:
    """Cut anywhere in its last record, a spool keeps the records before, and declares that one lost: not more, not less."""
    written(tmp_path, 3)
    whole = newest(tmp_path).read_bytes()
    begin = [one.offset for one in scan(whole)][-1]
    for end in range(begin + 1, len(whole)):
        newest(tmp_path).write_bytes(whole[:end])
        spool = opened(tmp_path)
        lost = Loss(3, 2 * N_CHUNK, N_CHUNK, LossReason.SPOOL_CORRUPT, 3)
        assert contents(spool) == [chunk(1), chunk(2), lost], end
        assert spool.n_repaired == 1
        spool.close()
        # What was declared stays declared.
        again = opened(tmp_path)
        assert (contents(again), again.n_repaired) == ([chunk(1), chunk(2), lost], 0)
        again.close()
    newest(tmp_path).write_bytes(whole[:begin])
    spool = opened(tmp_path)
    assert (contents(spool), spool.n_repaired) == ([chunk(1), chunk(2)], 0)


@settings(max_examples=60)
@given(st.integers(1, 12), st.data())
def test_any_damage_loses_only_what_it_hits(n_chunks: int, data: st.DataObject) -> None:
    """Bits flipped, and the end cut off: each chunk is there as it was or declared, and all that was not hit is there.

    What the file is stands in it twice: one of the two is left whole.
    """
    with TemporaryDirectory() as name:
        directory = Path(name)
        written(directory, n_chunks)
        path = newest(directory)
        content = bytearray(path.read_bytes())
        opening, again, *records = scan(bytes(content))
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
            content[place] ^= data.draw(st.integers(1, 255))
        n_cut = data.draw(st.integers(0, len(content) - again.end))
        path.write_bytes(content[: len(content) - n_cut])
        assume(any(content[one.offset : one.end] == pack(one.record) for one in (opening, again)))
        undamaged = _undamaged(records, path.read_bytes())
        spool = opened(directory)
        told = contents(spool)
        assert [one for one in told if isinstance(one, bytes)] == [chunk(n) for n in undamaged]
        if undamaged:
            # The numbers of the chunks behind a damaged one prove what was lost.
            assert sum(N_CHUNK if isinstance(one, bytes) else one.n_samples for one in told) >= undamaged[-1] * N_CHUNK
        assert spool.end_of(ONE)[1] <= n_chunks * N_CHUNK
        spool.close()


def _undamaged(records: list[Found], content: bytes) -> list[int]:
    return [
        one.record.number
        for one in records
        if content[one.offset : one.end] == pack(one.record) and len(content) >= one.end
    ]


def test_a_missing_file_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file in the middle is gone, or nothing in it can be read, the gap has its exact length; the rest is there."""
    monkeypatch.setattr("songstation.spool.SEGMENT_BYTES", 800)
    written(tmp_path, 12)
    files = sorted(tmp_path.glob("*.spool"))
    assert len(files) >= 4
    files[1].unlink()
    files[2].write_bytes(bytes(files[2].stat().st_size))
    spool = opened(tmp_path)
    told = contents(spool)
    losses = [one for one in told if isinstance(one, Loss)]
    assert {loss.reason for loss in losses} == {LossReason.SPOOL_CORRUPT}
    n_kept = sum(isinstance(one, bytes) for one in told)
    assert n_kept + sum(loss.n_samples for loss in losses) // N_CHUNK == 12
    assert [path.stem for path in tmp_path.glob("*.damaged")] == [files[2].stem]


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_file_whose_beginning_is_damaged_is_read_by_its_records(
    which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it begins with: another file tells what the session is, the rest of the file where it lies in it."""
    monkeypatch.setattr("songstation.spool.SEGMENT_BYTES", 1200)
    written(tmp_path, 12)
    path = sorted(tmp_path.glob("*.spool"))[which]
    content = path.read_bytes()
    first = next(one for one in scan(content) if one.record.kind is Kind.SOUND)
    path.write_bytes(bytes(first.offset) + content[first.offset :])
    spool = opened(tmp_path)
    assert contents(spool) == [chunk(n) for n in range(1, 13)]
    os.close(spool._lock)
    # Nor is what is lost with its first chunk forgotten, be it the session's very first.
    path.write_bytes(bytes(first.end) + content[first.end :])
    spool = opened(tmp_path)
    number = first.record.number
    lost = Loss(number, (number - 1) * N_CHUNK, N_CHUNK, LossReason.SPOOL_CORRUPT, number)
    assert contents(spool) == [lost if n == number else chunk(n) for n in range(1, 13)]


@pytest.mark.parametrize("n_left", [HEADER_BYTES, HEADER_BYTES + N_CHUNK])
def test_a_file_of_which_but_a_header_is_left_opens(n_left: int, tmp_path: Path) -> None:
    """It says what was lost with it, to its exact length; so does the next time the spool is opened."""
    written(tmp_path, 2)
    spool = opened(tmp_path)
    spool.sessions[ONE], spool._ends[ONE] = session(), (2, 2 * N_CHUNK)
    spool._current = session()
    spool.append(chunk(3), N_CHUNK, 0)
    spool.close()
    path = newest(tmp_path)
    content = path.read_bytes()
    sound = next(one for one in scan(content) if one.record.kind is Kind.SOUND)
    path.write_bytes(bytes(sound.offset) + content[sound.offset : sound.offset + n_left])
    for _ in range(2):
        spool = opened(tmp_path)
        assert contents(spool) == [chunk(1), chunk(2), Loss(3, 2 * N_CHUNK, N_CHUNK, LossReason.SPOOL_CORRUPT, 3)]
        os.close(spool._lock)


def test_a_flipped_bit_in_the_only_file_s_beginning_costs_nothing(tmp_path: Path) -> None:
    """What the file is stands in it twice."""
    written(tmp_path, 3)
    for place in (10, 100):
        content = bytearray(newest(tmp_path).read_bytes())
        content[place] ^= 1
        newest(tmp_path).write_bytes(content)
        spool = opened(tmp_path)
        assert (contents(spool), spool.sessions[ONE]) == ([chunk(1), chunk(2), chunk(3)], session())
        os.close(spool._lock)


def test_a_chunk_that_rots_on_the_disk_is_told_when_read(tmp_path: Path) -> None:
    """A bit that flips after the spool was opened makes reading return the reason, never other sound."""
    spool = opened(tmp_path)
    spool.begin(session())
    (sound,) = spool.append(chunk(1), N_CHUNK, 0)
    assert isinstance(sound, SpooledSound)
    assert spool.read(sound, ONE) == chunk(1)
    content = bytearray(newest(tmp_path).read_bytes())
    content[-1] ^= 4
    newest(tmp_path).write_bytes(content)
    assert spool.read(sound, ONE) is LossReason.SPOOL_CORRUPT


def test_committed_files_go_after_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is deleted when the server has had all of it for so long, and not before; never the one being written."""
    monkeypatch.setattr("songstation.spool.SEGMENT_BYTES", 300)
    clock = Clock()
    spool = opened(tmp_path, clock, grace_s=900)
    spool.begin(session())
    for number in range(1, 7):
        spool.append(chunk(number), N_CHUNK, 0)
    n_files = len(spool.index.segments)
    assert n_files >= 3
    spool.set_standing(ONE, Standing(5, 5 * N_CHUNK))
    spool.tend()
    clock.s += 899
    spool.tend()
    assert len(list(tmp_path.glob("*.spool"))) == n_files
    clock.s += 1
    spool.tend()
    left = list(tmp_path.glob("*.spool"))
    assert 0 < len(left) < n_files
    assert all(one.last_number > 5 for one in spool.index.segments)
    # A server that was put back wants them: those that are there are there.
    assert spool.items_from(ONE, 6)
    spool.close()
    assert opened(tmp_path).standing(ONE).committed == 5


def cut_behind_an_opening(directory: Path, n_chunks: int) -> int:
    """Write so many chunks and have the power fail as the next file is begun; return the number of that file."""
    spool = opened(directory)
    spool.begin(session())
    for number in range(1, n_chunks + 1):
        spool.append(chunk(number), N_CHUNK, 7)
    spool._close_file()
    spool.append(chunk(n_chunks + 1), N_CHUNK, 7)
    os.close(spool._lock)
    path = newest(directory)
    path.write_bytes(path.read_bytes()[: next(scan(path.read_bytes())).end])
    return int(path.stem)


@pytest.mark.parametrize("n_chunks", [0, 5])
def test_a_file_of_which_only_the_opening_is_left_goes_with_its_session(tmp_path: Path, n_chunks: int) -> None:
    """Nothing waits in it, it tells the server where the session ends, and after that and the grace it is deleted."""
    number, clock = cut_behind_an_opening(tmp_path, n_chunks), Clock()
    spool = opened(tmp_path, clock, grace_s=900)
    assert [one.number for one in spool.index.segments][-1] == number
    assert all(one.number != number for one in spool.index.waiting)
    assert (spool.unfinished(), spool.end_of(ONE)) == ([ONE], (n_chunks, n_chunks * N_CHUNK))
    # All is committed, but the server is away before it hears of the end: that has to be told however long it takes.
    spool.set_standing(ONE, Standing(n_chunks, n_chunks * N_CHUNK))
    for _ in range(2):
        spool.tend()
        clock.s += 900
    assert [one.number for one in spool.index.segments] == [number]
    assert spool.unfinished() == [ONE]
    spool.set_standing(ONE, Standing(n_chunks, n_chunks * N_CHUNK, finished=True))
    spool.tend()
    assert newest(tmp_path).exists()
    clock.s += 900
    spool.tend()
    assert list(tmp_path.glob("*.spool")) == []
    assert spool.sessions == {}


@pytest.mark.parametrize("policy", list(Policy))
def test_a_spool_with_an_empty_file_can_be_full(
    tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the policy, a file without sound is not given up, and what is given up of the others is declared."""
    cut_behind_an_opening(tmp_path, 0)
    monkeypatch.setattr("songstation.spool.SEGMENT_BYTES", 1200)
    spool = opened(tmp_path, max_bytes=9_000, policy=policy)
    spool.begin(session(TWO))
    for number in range(1, 101):
        spool.append(chunk(number), N_CHUNK, 0)
    spool.flush()
    told = contents(spool, TWO)
    losses = [one for one in told if isinstance(one, Loss)]
    assert {loss.reason for loss in losses} == {LossReason.SPOOL_FULL}
    assert (len(told) - len(losses)) * N_CHUNK + sum(loss.n_samples for loss in losses) == 100 * N_CHUNK
    assert spool.unfinished() == [ONE]
    spool.close()
    again = opened(tmp_path, policy=policy)
    assert (contents(again, TWO), again.end_of(ONE)) == (told, (0, 0))


def test_a_file_without_items_is_not_rewritten(tmp_path: Path) -> None:
    """There is nothing in it to be declared lost."""
    cut_behind_an_opening(tmp_path, 0)
    before = newest(tmp_path).read_bytes()
    assert rewrite_as_loss(newest(tmp_path), session(), [], 0) == len(before)
    assert newest(tmp_path).read_bytes() == before


@pytest.mark.parametrize("policy", list(Policy))
def test_a_full_spool_follows_its_policy(tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is given up is declared: sound and losses are all that was captured, and what is kept is what was asked for."""
    monkeypatch.setattr("songstation.spool.SEGMENT_BYTES", 4000)
    n_chunks, limit = 400, 30_000
    spool = opened(tmp_path, max_bytes=limit, policy=policy)
    spool.begin(session())
    for number in range(1, n_chunks + 1):
        spool.append(chunk(number), N_CHUNK, 0)
        assert spool.totals(ONE).captured == number * N_CHUNK
    spool.flush()
    assert spool.index.n_bytes <= limit + 1000
    told = contents(spool)
    losses = [one for one in told if isinstance(one, Loss)]
    kept = [one.sequence_number for one in _sounds(spool)]
    assert len(kept) * N_CHUNK + sum(loss.n_samples for loss in losses) == n_chunks * N_CHUNK
    assert {loss.reason for loss in losses} == {LossReason.SPOOL_FULL}
    halves = sum(number <= n_chunks // 2 for number in kept), sum(number > n_chunks // 2 for number in kept)
    assert {Policy.STOP_NEW: halves[1] == 0, Policy.DROP_OLDEST: halves[0] == 0, Policy.THIN: min(halves) > 5}[policy]
    spool.close()
    again = opened(tmp_path, policy=policy)
    assert contents(again) == told


def _sounds(spool: Spool) -> list[SpooledSound]:
    number, sounds = 1, []
    while items := spool.items_from(ONE, number):
        sounds += [item for item in items if isinstance(item, SpooledSound)]
        number = items[-1].last_number + 1
    return sounds


def test_committed_sound_makes_way_before_the_policy_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full spool deletes what the server has, grace or not, and loses nothing while that is enough."""
    monkeypatch.setattr("songstation.spool.SEGMENT_BYTES", 1200)
    spool = opened(tmp_path, max_bytes=20_000)
    spool.begin(session())
    for number in range(1, 301):
        spool.append(chunk(number), N_CHUNK, 0)
        spool.set_standing(ONE, Standing(number, number * N_CHUNK))
    assert spool.end_of(ONE) == (300, 300 * N_CHUNK)
    assert spool.n_dropped == 0


def test_a_disk_that_is_full_is_a_loss_and_then_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk takes nothing, sound is counted as lost; when it does again, one gap stands in its place."""
    spool = opened(tmp_path)
    spool.begin(session())
    spool.append(chunk(1), N_CHUNK, 0)
    write = os.write

    def half(fd: int, content: bytes) -> int:
        """Write a little, then nothing, as a disk does that fills up."""
        if len(content) < 50:
            raise OSError(errno.ENOSPC, "full")
        return write(fd, content[: len(content) // 2])

    monkeypatch.setattr("songstation.spool_files.os.write", half)
    assert spool.append(chunk(2), N_CHUNK, 0) == []
    assert spool.append(chunk(3), N_CHUNK, 0) == []
    assert spool.totals(ONE).captured == 3 * N_CHUNK
    monkeypatch.undo()
    spool.append(chunk(4), N_CHUNK, 0)
    assert contents(spool) == [chunk(1), Loss(2, N_CHUNK, 2 * N_CHUNK, LossReason.SPOOL_FULL, 2), chunk(4)]


_LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_spool import N_CHUNK, chunk, opened, session
spool = opened(Path(sys.argv[1]))
spool.begin(session())
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1200, most))
for number in range(1, 20):
    spool.append(chunk(number), N_CHUNK, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""


def killed(spool: Spool) -> None:
    """Let the spool go as a SIGKILL does."""
    spool._close_file()
    os.close(spool._lock)


@pytest.mark.parametrize("policy", Policy)
def test_what_a_full_spool_loses_is_declared_after_a_kill(policy: Policy, tmp_path: Path) -> None:
    """Hours of loss that no file has yet are noted on the disk as they go on, and declared at the next start."""
    max_bytes = 3_000 if policy is Policy.STOP_NEW else 600
    limits: dict[str, Any] = {"policy": policy, "max_bytes": max_bytes}
    spool = opened(tmp_path, **limits)
    spool.begin(session())
    for number in range(1, 4 * 3_600 * 1_000 // N_CHUNK):
        spool.append(chunk(number), N_CHUNK, 0)
        if number % 10_000 == 0:
            spool.tend()
    n_bytes = sum(path.stat().st_size for path in tmp_path.glob("*.spool"))
    assert n_bytes <= max_bytes
    captured, lost = spool.totals(ONE).captured, spool.pending_loss
    assert lost > 3 * 3_600 * 1_000
    spool.tend()
    killed(spool)
    again = opened(tmp_path, **limits)
    told = contents(again)
    assert again.end_of(ONE)[1] == again.totals(ONE).captured == captured
    assert sum(one.n_samples for one in told if isinstance(one, Loss)) == lost
    assert {one.reason for one in told if isinstance(one, Loss)} == {LossReason.SPOOL_FULL}
    assert max(one.n_samples for one in told if isinstance(one, Loss)) <= 3_600 * 1_000, "as long as the protocol takes"
    again.close()
    last = opened(tmp_path, **limits)
    assert contents(last) == told, "declared once"


def test_losses_of_sessions_that_end_on_a_full_disk_are_declared_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock step, a device that returns, a stop: none of them makes a loss forgotten, nor does a kill after it."""
    spool = opened(tmp_path)
    spool.begin(session(ONE))
    spool.append(chunk(1), N_CHUNK, 0)
    with monkeypatch.context() as disk:

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "full")

        disk.setattr(SegmentFile, "append", full)
        for _ in range(98):
            spool.append(chunk(2), N_CHUNK, 0)
        spool.begin(session(TWO))
        spool.append(chunk(1), N_CHUNK, 0)
        spool.end()
        assert [spool.totals(uuid).captured for uuid in (ONE, TWO)] == [99 * N_CHUNK, N_CHUNK]
        assert spool.may_grow(ONE), "its end is not to be told before that"
        killed(spool)
        seen = listed(tmp_path)[0]
        assert (seen.seconds, seen.lost_s) == (99 * N_CHUNK / 1_000, 98 * N_CHUNK / 1_000), "before a file has it"
        spool = opened(tmp_path)
        assert [spool.totals(uuid).captured for uuid in (ONE, TWO)] == [99 * N_CHUNK, N_CHUNK]
    spool.tend()
    full_disk = LossReason.SPOOL_FULL
    assert contents(spool, ONE) == [chunk(1), Loss(2, N_CHUNK, 98 * N_CHUNK, full_disk, 2)]
    assert contents(spool, TWO) == [Loss(1, 0, N_CHUNK, full_disk, 1)]
    assert (spool.unfinished(), spool.may_grow(ONE)) == ([ONE, TWO], False)
    assert spool.sessions[TWO] == session(TWO)
    killed(spool)
    assert contents(opened(tmp_path), ONE)[1:] == [Loss(2, N_CHUNK, 98 * N_CHUNK, full_disk, 2)]


@given(st.integers(0, 40_000), st.integers(1, 255))
@settings(max_examples=60)
def test_damage_to_what_is_noted_takes_the_note_before(place: int, flip: int) -> None:
    """Two notes lie in the file by turns; one of them is always whole, and what is no note is none."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        noted = [PendingLoss(session(), 3, 150, n, LossReason.SPOOL_FULL, 7) for n in (50, 100)]
        file = LossFile(directory)
        for one in noted:
            file.save([one], sync=True)
        file.close()
        assert read_losses(directory) == (noted[1],)
        path = directory / "losses"
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= flip
        path.write_bytes(content)
        assert read_losses(directory) in {(noted[0],), (noted[1],)}
        path.write_bytes(b"")
        assert read_losses(directory) == ()
        LossFile(directory).close()


def test_the_kernels_own_limit_is_a_loss_too(tmp_path: Path) -> None:
    """In a process whose files the kernel keeps small, records are whole or absent, and the rest is one declared loss."""
    script = _LIMITED + "spool.end()\nassert spool.end_of(session().uuid)[1] == 19 * N_CHUNK\n"
    subprocess.run([sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)], check=True)
    spool = opened(tmp_path)
    told = contents(spool)
    n_kept = len(told) - 1
    assert told[:-1] == [chunk(n) for n in range(1, n_kept + 1)]
    assert 0 < n_kept < 19
    assert isinstance(told[-1], Loss)
    assert n_kept * N_CHUNK + told[-1].n_samples == 19 * N_CHUNK


def test_little_free_disk_counts_as_full(tmp_path: Path) -> None:
    """Below the floor nothing is written."""
    spool = opened(tmp_path, min_free_bytes=2**62)
    spool.begin(session())
    assert spool.append(chunk(1), N_CHUNK, 0) == []
    assert not spool.has_room(1)


def test_one_station_writes_a_spool(tmp_path: Path) -> None:
    """A second program is told so, until the first is gone."""
    spool = opened(tmp_path)
    with pytest.raises(ConfigError, match="another station") as caught:
        opened(tmp_path)
    assert caught.value.reason == "SPOOL_IN_USE"
    spool.close()
    opened(tmp_path).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path / "file")
    assert caught.value.reason == "SPOOL_UNUSABLE"


def test_a_damaged_cursor_costs_nothing(tmp_path: Path) -> None:
    """Without a readable cursor the spool opens, and the sessions count as not committed."""
    written(tmp_path, 2)
    for content in (b"", b"{", b"[]", b'{"x": {}}', b'{"00000000-0000-0000-0000-000000000001": {"y": 1}}'):
        (tmp_path / "cursor").write_bytes(content)
        spool = opened(tmp_path)
        assert (spool.unfinished(), spool.standing(ONE)) == ([ONE], Standing())
        os.close(spool._lock)


def test_a_cursor_is_written_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing new is committed the disk is left alone; a write that fails is made up for."""
    written(tmp_path, 2)
    spool, synced = opened(tmp_path), list[int]()
    fsync = os.fsync

    def noting(handle: int) -> None:
        synced.append(handle)
        fsync(handle)

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", noting)
    spool.set_standing(ONE, Standing(1, N_CHUNK))
    spool.tend()
    assert synced
    del synced[:]
    for _ in range(5):
        spool.set_standing(ONE, Standing(1, N_CHUNK))
        spool.tend()
    assert synced == []
    monkeypatch.setattr(os, "fsync", failing)
    spool.set_standing(ONE, Standing(2, 2 * N_CHUNK))
    assert not spool.save_standings()
    monkeypatch.setattr(os, "fsync", noting)
    spool.tend()
    assert synced
    os.close(spool._lock)
    assert opened(tmp_path).standing(ONE).committed == 2


def test_syncing_follows_time_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was appended is synced after so many seconds, or so many bytes."""
    synced: list[int] = []
    sync = SegmentFile.sync

    def counted(file: SegmentFile) -> None:
        synced.append(file.n_unsynced)
        sync(file)

    clock = Clock()
    spool = opened(tmp_path, clock, sync_s=1.0, sync_bytes=500)
    spool.begin(session())
    monkeypatch.setattr(SegmentFile, "sync", counted)
    spool.append(chunk(1), N_CHUNK, 0)
    n_record = HEADER_BYTES + 2 * N_CHUNK
    del synced[:]
    spool.append(chunk(2), N_CHUNK, 0)
    assert synced == []
    clock.s += 1.0
    spool.tend()
    assert synced == [2 * n_record]
    for number in range(3, 6):
        spool.append(chunk(number), N_CHUNK, 0)
    assert synced == [2 * n_record, 3 * n_record]


def test_thinning_keeps_every_part_of_the_time() -> None:
    """The files given up are the odd ones first, then every second of the rest: neighbours stay as long as they can."""
    index = SpoolIndex([Segment(n, ONE, n, n, 100, 0) for n in range(1, 17)])
    order = []
    while segment := index.first_to_drop(Policy.THIN, [16]):
        segment.is_dropped = True
        order.append(segment.number)
    assert order == [1, 3, 5, 7, 9, 11, 13, 15, 2, 6, 10, 14, 4, 12, 8]


def test_file_names_sort_as_their_numbers() -> None:
    """The newest file is the last by name."""
    assert sorted(map(file_name, (10, 9, 123_456))) == [file_name(9), file_name(10), file_name(123_456)]
