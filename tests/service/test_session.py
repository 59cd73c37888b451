"""The session as a pure state machine: any chunking and any crash give the songs of one uninterrupted run."""

from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import numpy as np
import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import soundscape
from fake_models import FakeModel
from songcore.assign import Assignment
from songcore.bundle import Bundle
from songcore.stream import SongStream
from songserve.intake import Chunk, Finish, Gap
from songserve.records import AudioFormat, Commit, SessionName, SessionOpening, SessionRecord, StoredSong
from songserve.refusal import Refusal
from songserve.session import Session, SessionLimits
from songserve.sound import samples_of

RATE = 48_000
OPENING = SessionOpening(SessionName("north", UUID(int=1)), AudioFormat("linear16", RATE, 1, None), 1_780_000_000_000)
NAME = Assignment("T0001", "song", 0.9, 0.1, 0.5, novelty="known")
SAMPLES = np.round(soundscape([0, 1, 2], 3, rate_hz=RATE, gap_s=0.9)[0] * 32767).astype("<i2")


class Memory:
    """What a store remembers of one session, and a way to drive the session."""

    def __init__(self, bundle: Bundle, *, version: str = "v1") -> None:
        self.bundle = bundle
        self.model = FakeModel(self.make_stream, songs_version=version)
        self.record = SessionRecord(OPENING, writer_epoch=1)
        self.rows: dict[str, StoredSong] = {}
        self.recorded_s = 0.0

    def make_stream(self, rate_in: int, state: bytes | None) -> SongStream:
        """Return the bundle's stream."""
        return self.bundle.new_stream(rate_in) if state is None else self.bundle.resume_stream(rate_in, state)

    def session(self) -> Session:
        """Return the session as it resumes from what is stored."""
        until = max((row.end_ms for row in self.rows.values()), default=OPENING.capture_start_ms)
        record = replace(self.record, songs_until_ms=until - OPENING.capture_start_ms)
        limits = SessionLimits(max_chunk_bytes=2**22, commit_interval_s=0.5)
        return Session(record, self.model, limits=limits)

    def step(self, session: Session) -> None:
        """Go one turn and store its commit."""
        step = session.next_step()
        if step:
            heard = session.listen(step)
            commit = session.decide(heard, [NAME] * len(heard.songs))
            if commit:
                self.store(commit)
                session.settle(commit)

    def store(self, commit: Commit) -> None:
        """Store a commit as the database does: what is there already stays."""
        self.record = commit.record
        for row in commit.songs:
            self.rows.setdefault(row.uid, row)
        self.recorded_s += sum(commit.recorded_s.values())


def chunks_of(sizes: list[int]) -> list[Chunk]:
    """Return the samples as chunks of these sizes, and one for the rest."""
    edges = [0, *np.cumsum(sizes).tolist(), len(SAMPLES)]
    edges = sorted({min(edge, len(SAMPLES)) for edge in edges})
    pieces = [(begin, SAMPLES[begin:end].tobytes()) for begin, end in pairwise(edges)]
    return [Chunk(i + 1, begin, len(data) // 2, data, crc32c(data)) for i, (begin, data) in enumerate(pieces)]


def play(memory: Memory, chunks: list[Chunk], crashes: set[int]) -> None:
    """Send every chunk from where the session expects it; after each number in ``crashes`` lose what is not stored."""
    session = memory.session()
    while (number := session.intake.expected_sequence_number) <= len(chunks):
        session.intake.accept(chunks[number - 1])
        memory.step(session)
        if number in crashes:
            crashes = crashes - {number}
            session = memory.session()
    session.intake.finish(Finish(len(chunks), len(SAMPLES)))
    memory.step(session)


@pytest.fixture(scope="module")
def uninterrupted(bundle: Bundle) -> Memory:
    """Return what is stored after one run in one chunk."""
    memory = Memory(bundle)
    play(memory, chunks_of([]), set())
    return memory


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 60_000), max_size=30),
    crashes=st.sets(st.integers(1, 30), max_size=6),
)
def test_chunks_and_crashes_change_nothing(
    bundle: Bundle, uninterrupted: Memory, sizes: list[int], crashes: set[int]
) -> None:
    """Rows and recorded seconds equal those of the uninterrupted run, bit for bit."""
    memory = Memory(bundle)
    play(memory, chunks_of(sizes), crashes)
    assert len(memory.rows) == 3
    assert memory.rows == uninterrupted.rows
    assert memory.recorded_s == pytest.approx(len(SAMPLES) / RATE)
    assert memory.record.finished
    assert memory.record.committed_sample == len(SAMPLES)


def test_another_bundle_goes_on_where_the_last_one_was(bundle: Bundle, uninterrupted: Memory) -> None:
    """A session taken over by a bundle with another segmenter neither loses nor repeats a song."""
    parts = bundle.stream_config
    changed = replace(parts, segmenter=parts.segmenter.model_copy(update={"post_roll_s": 0.12}))

    class Changed(Memory):
        def make_stream(self, rate_in: int, state: bytes | None) -> SongStream:
            return SongStream(changed, rate_in) if state is None else SongStream.resume(changed, rate_in, state)

    chunks = chunks_of([RATE // 2] * 40)
    for crash in range(1, len(chunks), 3):
        before = Memory(bundle)
        session = before.session()
        for chunk in chunks[:crash]:
            session.intake.accept(chunk)
            before.step(session)
        after = Changed(bundle, version="v2")
        after.record, after.rows = before.record, before.rows
        play(after, chunks, {crash + 2})
        found = sorted(row.onset for row in after.rows.values())
        wanted = sorted(row.onset for row in uninterrupted.rows.values())
        assert len(found) == len(wanted)
        # The noise floor is learnt anew, which moves an edge by a few frames.
        assert np.abs(np.subtract(found, wanted)).max() < 0.2 * 24_000


def take_over(bundle: Bundle, chunks: list[Chunk], at: int, crash: int, *models: FakeModel) -> Memory:
    """Return what is stored when the models take over one after another from a chunk on, and a crash follows."""
    memory = Memory(bundle)
    session = memory.session()
    waiting = list(models)
    while (number := session.intake.expected_sequence_number) <= len(chunks):
        if number >= at and waiting:
            assert session.follow(waiting.pop(0))
        session.intake.accept(chunks[number - 1])
        memory.step(session)
        if number == crash:
            memory.model, crash = models[-1], 0
            session = memory.session()
    session.intake.finish(Finish(len(chunks), len(SAMPLES)))
    memory.step(session)
    assert memory.record.finished
    return memory


def other_ears(bundle: Bundle, digest: str = "other") -> FakeModel:
    """Return a model whose segmenter differs a little, and with it all that a stream remembers."""
    parts = bundle.stream_config
    changed = replace(parts, segmenter=parts.segmenter.model_copy(update={"post_roll_s": 0.12}))

    def make(rate_in: int, state: bytes | None) -> SongStream:
        return SongStream(changed, rate_in) if state is None else SongStream.resume(changed, rate_in, state)

    return FakeModel(make, digest=digest, songs_version="v2")


def test_a_bundle_that_hears_the_same_takes_over_unnoticed(bundle: Bundle, uninterrupted: Memory) -> None:
    """From any chunk on, with or without a crash: the rows are those of one bundle, but for the digest, which changes once."""
    chunks = chunks_of([RATE // 2] * 40)
    for at in range(1, len(chunks), 2):
        after = FakeModel(Memory(bundle).model.make, digest="other")
        memory = take_over(bundle, chunks, at, at + 2 if at % 4 == 1 else 0, after)
        assert {uid: replace(row, bundle="digest") for uid, row in memory.rows.items()} == uninterrupted.rows
        digests = [row.bundle for row in sorted(memory.rows.values(), key=lambda row: row.onset)]
        assert digests == sorted(digests)
        assert set(digests) <= {"digest", "other"}


@pytest.mark.parametrize("crash_after", [0, 1, 3, 6])
def test_a_bundle_that_hears_otherwise_takes_over_between_songs(
    bundle: Bundle, uninterrupted: Memory, crash_after: int
) -> None:
    """From any chunk on, in a song or not, also when the server dies soon after: each song once, by one of the two."""
    chunks = chunks_of([RATE // 2] * 40)
    wanted = sorted((row.onset, row.offset) for row in uninterrupted.rows.values())
    by_other = 0
    for at in range(1, len(chunks)):
        memory = take_over(bundle, chunks, at, at + crash_after if crash_after else 0, other_ears(bundle))
        rows = sorted(memory.rows.values(), key=lambda row: row.onset)
        found = [(row.onset, row.offset) for row in rows]
        assert len(found) == len(wanted), (at, found, wanted)
        assert np.abs(np.subtract(found, wanted)).max() < 0.25 * 24_000, (at, found, wanted)
        digests = [row.bundle for row in rows]
        assert digests == sorted(digests)
        by_other += digests.count("other")
    assert 0 < by_other < len(chunks) * len(wanted)


def test_bundles_that_change_faster_than_they_take_over_lose_nothing(bundle: Bundle, uninterrupted: Memory) -> None:
    """Another front end, back again, and another one twice, a chunk apart: each song once."""
    chunks = chunks_of([RATE // 2] * 40)
    same = FakeModel(Memory(bundle).model.make, digest="same")
    wanted = sorted(row.onset for row in uninterrupted.rows.values())
    for at in range(1, len(chunks) - 4, 2):
        storm = (other_ears(bundle), same, other_ears(bundle, "b"), other_ears(bundle, "c"))
        memory = take_over(bundle, chunks, at, 0, *storm)
        found = sorted(row.onset for row in memory.rows.values())
        assert len(found) == len(wanted)
        assert np.abs(np.subtract(found, wanted)).max() < 0.25 * 24_000


def test_a_gap_frees_everything_before_it(bundle: Bundle) -> None:
    """A gap, even in the middle of a song, lets the watermark pass once something follows it."""
    memory = Memory(bundle)
    session = memory.session()
    (whole,) = chunks_of([])
    cut = RATE * 2
    first = Chunk(1, 0, cut, whole.data[: 2 * cut], crc32c(whole.data[: 2 * cut]))
    session.intake.accept(first)
    session.intake.accept(Gap(2, 5, cut, 3600 * RATE))
    memory.step(session)
    assert memory.record.committed_sequence_number == 5
    assert memory.record.committed_sample == cut + 3600 * RATE
    assert memory.recorded_s == pytest.approx(2)
    assert session.intake.expected_sequence_number == 6


def test_a_gap_in_place_of_the_next_chunk_shifts_nothing(bundle: Bundle) -> None:
    """A station that comes back without its uncommitted chunk has the songs behind the gap where they were sung."""
    chunks = chunks_of([RATE * 7 // 10] * 40)
    checked = 0
    for crash in range(2, len(chunks) - 2, 2):
        memory = Memory(bundle)
        session = memory.session()
        for chunk in chunks[:crash]:
            session.intake.accept(chunk)
            memory.step(session)
        lost = chunks[memory.record.committed_sequence_number]
        checked += memory.record.input_sample > lost.start_sample
        shifted = []
        for first in (memory.session(), None):
            other = Memory(bundle)
            resumed = first or other.session()
            if first is None:  # never heard anything before the gap
                resumed.intake.accept(Gap(1, lost.sequence_number, 0, lost.start_sample + lost.sample_count))
            else:
                other.record = memory.record
                resumed.intake.accept(
                    Gap(lost.sequence_number, lost.sequence_number, lost.start_sample, lost.sample_count)
                )
            for chunk in chunks[lost.sequence_number :]:
                resumed.intake.accept(chunk)
            resumed.intake.finish(Finish(len(chunks), len(SAMPLES)))
            other.step(resumed)
            end = (lost.start_sample + lost.sample_count) / RATE * 24_000
            shifted.append(sorted((row.onset, row.offset) for row in other.rows.values() if row.onset >= end))
        assert shifted[0] == shifted[1]
    assert checked > 0


def test_effort_is_split_at_the_hour(bundle: Bundle) -> None:
    """Seconds on both sides of a full hour are counted in their own hours."""
    opening = replace(OPENING, capture_start_ms=3_600_000 * 10 - 2_000)
    limits = SessionLimits()
    memory = Memory(bundle)
    session = Session(SessionRecord(opening, writer_epoch=1), memory.model, limits=limits)
    data = bytes(2 * 5 * RATE)
    session.intake.accept(Chunk(1, 0, 5 * RATE, data, crc32c(data)))
    session.intake.finish(Finish(1, 5 * RATE))
    step = session.next_step()
    assert step
    commit = session.decide(session.listen(step), [])
    assert commit
    assert commit.recorded_s == {3_600_000 * 9: pytest.approx(2), 3_600_000 * 10: pytest.approx(3)}


def test_a_channel_is_chosen_or_all_are_averaged() -> None:
    """Interleaved bytes become the mean of all channels, or the one that was asked for."""
    data = np.array([[100, 300], [-200, 0]], "<i2").tobytes()
    mean = samples_of(data, AudioFormat("linear16", RATE, 2, None))
    second = samples_of(data, AudioFormat("linear16", RATE, 2, 2))
    np.testing.assert_array_equal(mean * 32768, [200, -100])
    np.testing.assert_array_equal(second * 32768, [300, 0])


@pytest.mark.parametrize(
    "name", ["", "stations/a", "stations/A/sessions/x", "stations/-a/sessions/0", "x/a/sessions/0"]
)
def test_a_session_name_must_be_one(name: str) -> None:
    """Other forms are refused with the caller's reason."""
    with pytest.raises(Refusal) as refused:
        SessionName.parse(name, reason="SETUP_INVALID")
    assert refused.value.reason == "SETUP_INVALID"
