"""A number that comes again is the same chunk or gap, or is refused: nothing is taken for what it is not."""

from collections.abc import Sequence
from itertools import count
from uuid import UUID

import numpy as np
import pytest
from google_crc32c import value as crc32c

from serving import Chunk, Request, ServerThread, Stream, changed, chunk_messages, session_name, setup
from songserve.intake import N_REMEMBERED, Gap, Intake
from songserve.intake import Chunk as Sound
from songserve.records import AudioFormat, SessionName, SessionOpening, SessionRecord
from songserve.refusal import Refusal
from songserve.v1 import ingest_pb2

RATE = 24_000
SECONDS = chunk_messages(np.zeros(8 * RATE, np.float32), [RATE])
"""Chunks 1 to 8, of a second of the same silence each."""
NUMBERS = count(1)
OPENING = SessionOpening(SessionName("north", UUID(int=1)), AudioFormat("linear16", RATE, 1, None), 0)


def gap(first: int, last: int, *, n_missing: int = 0) -> Request:
    """Return the gap in the place of chunks, so many samples shorter."""
    start, n_samples = (first - 1) * RATE, (last - first + 1) * RATE - n_missing
    return Request(
        gap=ingest_pb2.Gap(sequence_number=first, last_sequence_number=last, start_sample=start, sample_count=n_samples)
    )


def sound(number: int, n_samples: int = 1) -> Sound:
    """Return a chunk behind others of one sample each."""
    data = bytes(2 * n_samples)
    return Sound(number, number - 1, n_samples, data, crc32c(data))


def reused(intake: Intake, item: Sound | Gap) -> bool:
    """Return whether something is refused as a number that is used twice; otherwise it was had before."""
    try:
        is_new = intake.accept(item)
    except Refusal as refusal:
        return refusal.reason == "SEQUENCE_REUSED"
    assert not is_new
    return False


@pytest.mark.parametrize(
    ("had", "again", "number"),
    [
        (SECONDS[:2], gap(2, 2), 2),
        ([gap(1, 1)], SECONDS[0], 1),
        (SECONDS[:2], changed(SECONDS[1], start_sample=0), 2),
        (SECONDS[:1], gap(1, 3), 1),
        ([gap(1, 3)], gap(1, 4), 1),
        ([gap(1, 3)], gap(1, 2), 1),
        ([gap(1, 3)], gap(2, 3), 2),
        ([gap(1, 3)], SECONDS[1], 2),
        ([gap(1, 3)], gap(3, 5), 3),
        ([gap(1, 3)], gap(1, 3, n_missing=1), 1),
    ],
    ids=[
        "a gap under a chunk's number",
        "a chunk under a gap's number",
        "the same bytes at another sample",
        "a gap of which only the first number was had",
        "a gap that became longer",
        "a gap that became shorter",
        "the end of a gap",
        "a chunk inside a gap",
        "a gap over another's end",
        "a gap of other samples",
    ],
)
def test_a_number_used_twice_is_refused(
    shared_server: ServerThread, had: Sequence[Request | Chunk], again: Request | Chunk, number: int
) -> None:
    """What differs in anything ends the stream, and no part of it is taken for what was had before."""
    stream = Stream(shared_server.channel, setup(session_name(number=next(NUMBERS))))
    stream.send(*had, again)
    stream.half_close()
    assert stream.fails_with() == ("FAILED_PRECONDITION", "SEQUENCE_REUSED", {"sequence_number": str(number)})


def test_what_is_the_same_is_had_before(shared_server: ServerThread) -> None:
    """Chunks and gaps that come again as they were change nothing; the reason of a loss may be told better."""
    items: list[Request | Chunk] = [SECONDS[0], gap(2, 4), *SECONDS[4:]]
    known = gap(2, 4)
    known.gap.reason = ingest_pb2.Gap.REASON_DEVICE_LOST
    stream = Stream(shared_server.channel, setup(session_name(number=next(NUMBERS))))
    for item in (*items[:2], known, *items, *items[2:]):
        stream.send(item)
    stream.send(Request(finish=ingest_pb2.Finish(last_sequence_number=8, total_samples=8 * RATE)))
    assert list(stream)[-1].ack.finished
    stream.half_close()


def test_a_resumed_session_goes_on_after_a_loss(shared_server: ServerThread) -> None:
    """What a station had sent and then lost is declared on its next stream, also where the server had it once."""
    first = setup(session_name(number=next(NUMBERS)))
    broken = Stream(shared_server.channel, first)
    broken.send(*SECONDS)
    broken.read_until_committed(2)
    stream = Stream(shared_server.channel, first)
    expected = stream.read().setup_ack.expected_sequence_number
    assert broken.fails_with()[1] == "WRITER_FENCED"
    stream.send(gap(1, expected - 1))  # nothing is known of these now
    stream.send(gap(expected, 9), gap(expected, 9))
    stream.send(Request(finish=ingest_pb2.Finish(last_sequence_number=9, total_samples=9 * RATE)))
    assert list(stream)[-1].ack.finished
    stream.half_close()


def test_the_watermark_lies_between_what_is_known_and_what_is_not() -> None:
    """Up to it all was had before; a gap that begins there and reaches beyond it would hide what is new."""
    intake = Intake(SessionRecord(OPENING, 1, committed_sequence_number=3, committed_sample=3), max_chunk_bytes=99)
    for item in (sound(3), sound(3, 2), Gap(3, 3, 0, 1), Gap(1, 3, 7, 9)):
        assert not reused(intake, item)
    assert reused(intake, Gap(3, 4, 2, 2))
    assert intake.accept(Gap(4, 5, 3, 2))


def test_so_many_numbers_are_remembered() -> None:
    """The oldest that is remembered is compared, and one before it is had before, gaps of many numbers among them."""
    intake = Intake(SessionRecord(OPENING, 1), max_chunk_bytes=99)
    assert intake.accept(Gap(1, 4, 0, 4))
    for number in range(5, 5 + N_REMEMBERED - 1):
        assert intake.accept(sound(number))
    assert reused(intake, Gap(4, 4, 3, 1))
    assert intake.accept(sound(5 + N_REMEMBERED - 1))
    assert not reused(intake, Gap(4, 4, 3, 1))
    assert reused(intake, Gap(4, 5, 3, 2))
    assert reused(intake, sound(5, 2))
    assert not reused(intake, sound(5))
    assert intake.accept(sound(5 + N_REMEMBERED))
    assert not reused(intake, sound(5, 2))


@pytest.mark.parametrize("impossible", [Gap(2, 4, 1, 0), Gap(2, 4, 1, 2), Gap(2, 1, 1, 3)])
def test_a_gap_that_cannot_be_is_none_that_was_had(impossible: Gap) -> None:
    """It is refused as it would be the first time."""
    intake = Intake(SessionRecord(OPENING, 1), max_chunk_bytes=99)
    assert intake.accept(sound(1))
    assert intake.accept(Gap(2, 4, 1, 3))
    with pytest.raises(Refusal) as refused:
        intake.accept(impossible)
    assert refused.value.reason == "CHUNK_SHAPE"
