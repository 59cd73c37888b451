"""One session as a pure state machine: chunks in, songs to name and commits out. No I/O, no clock, no threads.

The caller drives it in a circle, one step at a time::

    intake.accept(chunk) ...            sequence rules; raises Refusal
    step = session.next_step()          what came in since the last step
    heard = session.listen(step)        the signal processing; may run in another thread
    commit = session.decide(heard, ...) the songs' names come from outside; None when there is nothing to store yet
    session.settle(commit)              after the store has it
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import uuid5

import numpy as np

from songcore.arrays import FloatArray
from songcore.assign import Assignment
from songcore.errors import InputError
from songcore.stream import Checkpoint, Song, SongStream
from songserve.intake import Chunk, Intake, Work
from songserve.records import AudioFormat, Commit, SessionRecord, StoredSong
from songserve.sound import Level, decoded, decoded_format, level_of, samples_of

__all__ = ["Heard", "Session", "SessionLimits", "Step", "StreamMaker"]

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class SessionLimits:
    """How much may come in before something must go out."""

    max_chunk_bytes: int = 512 * 1024
    commit_interval_s: float = 2.0
    """Seconds of audio after which the watermark is moved even if no song ended."""
    max_chunks_per_commit: int = 16


@dataclass(frozen=True)
class Step:
    """One turn of the circle."""

    work: Work
    due: bool
    """A checkpoint is wanted even if no song ends."""


@dataclass(frozen=True)
class Heard:
    """What listening to a step gave."""

    step: Step
    songs: tuple[Song, ...]
    """Counted from the session's start."""
    origin_sample: int
    """Input sample at which the stream that made the checkpoint begins."""
    checkpoint: Checkpoint | None
    """Counted from the origin; None when not due, or at the end."""
    needed_sample: int
    """First input sample that a song not yet returned may begin at."""
    open_song: Song | None = None
    """The song that is being sung, as far as it has been heard; None also when guesses are not wanted."""
    levels: tuple[Level, ...] = ()


class StreamMaker(Protocol):
    """Makes the bundle's streams."""

    def __call__(self, rate_in: int, state: bytes | None) -> SongStream:
        """Return a new stream, or one from a checkpoint; raises InputError CHECKPOINT_FOREIGN for another bundle's."""
        ...


@dataclass(frozen=True)
class _Extent:
    """A chunk that was listened to and is not committed yet."""

    last_sequence_number: int
    start_sample: int
    end_sample: int
    recorded: bool


class Session:
    """Order, listen, commit: everything that decides about one session.

    ``bundle`` is the digest for the songs' rows; ``segmenter_version`` names the parameters that decide where songs
    are, and goes into the songs' ids.
    """

    def __init__(
        self,
        record: SessionRecord,
        make_stream: StreamMaker,
        *,
        bundle: str,
        segmenter_version: str,
        limits: SessionLimits,
        guessing: bool = False,
    ) -> None:
        self._bundle, self._segmenter_version, self._limits = bundle, segmenter_version, limits
        self._guessing = guessing
        self.format: AudioFormat = record.opening.audio_format
        self.sound_format: AudioFormat = decoded_format(self.format)
        """Of the chunks in `Heard`: FLAC is decoded there."""
        self._make_stream = make_stream
        self.record, self._stream = _resume(record, make_stream)
        self.bundle_changed = self.record.state is None and record.state is not None
        """Another bundle had listened before."""
        self._origin_sample = self.record.origin_sample
        self.intake = Intake(self.record, max_chunk_bytes=limits.max_chunk_bytes)
        self._skip = self.record.input_sample - self.record.committed_sample
        self._rate_out = self.song_rate_hz = self._stream.config.frontend.sample_rate_hz
        self.received_sequence_number = record.committed_sequence_number
        """Of the last chunk that was listened to."""
        self._samples_since, self._chunks_since = 0, 0
        self._extents: deque[_Extent] = deque()

    def next_step(self, *, due: bool = False, most_samples: int | None = None) -> Step | None:
        """Return what there is to do, or None; ``due`` asks for a checkpoint in any case."""
        work = self.intake.take(most_samples=most_samples) or (Work() if due else None)
        if work is None:
            return None
        self._samples_since += work.n_samples
        self._chunks_since += len(work.items)
        due = due or self._samples_since >= self._limits.commit_interval_s * self.format.sample_rate_hz
        return Step(work, due or self._chunks_since >= self._limits.max_chunks_per_commit)

    def listen(self, step: Step) -> Heard:
        """Run the work through the stream. Touches nothing but the stream, so another thread may do it.

        Raises Refusal CHUNK_CORRUPT for FLAC that cannot be decoded; the session is of no use after that.
        A gap ends the song that is open, and behind it listening begins anew: silence put in its place would make the
        return of the background sound like a song.
        """
        step = self._decoded(step)
        songs: list[Song] = []
        chunks: list[FloatArray] = []
        levels: list[Level] = []
        for item in step.work.items:
            if isinstance(item, Chunk):
                samples = samples_of(item.data, self.sound_format)
                levels.append(level_of(samples, item.start_sample))
                chunks.append(self._drop_skipped(samples))
                continue
            songs += self._push(chunks) + self._placed(self._stream.finish())
            chunks = []
            self._origin_sample = item.start_sample + item.sample_count
            self._skip = 0  # a resumed stream wanted the end of what is lost now
            self._stream = self._make_stream(self.format.sample_rate_hz, None)
        songs += self._push(chunks)
        checkpoint = None
        if step.work.finish:
            songs += self._placed(self._stream.finish())
        elif songs or step.due:
            checkpoint = self._stream.checkpoint()
        open_since = self._origin_sample + self._stream.open_since * self.format.sample_rate_hz // self._rate_out
        guess = self._stream.open_song() if self._guessing and not step.work.finish else None
        open_song = self._placed([guess])[0] if guess else None
        return Heard(step, tuple(songs), self._origin_sample, checkpoint, open_since, open_song, tuple(levels))

    def decide(self, heard: Heard, names: Sequence[Assignment]) -> Commit | None:
        """Return what to store now that the songs have names, one each, or None when nothing would change."""
        work = heard.step.work
        for item in work.items:
            self.received_sequence_number = item.last_sequence_number
            end = item.start_sample + item.sample_count
            self._extents.append(_Extent(item.last_sequence_number, item.start_sample, end, isinstance(item, Chunk)))
        if heard.checkpoint is None and not work.finish:
            return None
        self._samples_since = self._chunks_since = 0
        moved = self._moved_record(heard)
        released = []
        while self._extents and (work.finish or self._extents[0].end_sample <= moved.input_sample):
            released.append(self._extents.popleft())
        if released:
            last = released[-1]
            moved = replace(
                moved, committed_sequence_number=last.last_sequence_number, committed_sample=last.end_sample
            )
        rows = (self._row(song, name) for song, name in zip(heard.songs, names, strict=True))
        # What an earlier bundle heard stays as it heard it.
        songs = tuple(row for row in rows if row.start_ms - self._start_ms >= self.record.heard_until_ms)
        if not songs and not released and not work.finish:
            return None
        return Commit(moved, songs, self._recorded_s(released))

    def settle(self, commit: Commit) -> None:
        """Take note that the store has the commit."""
        self.record = commit.record

    @property
    def _start_ms(self) -> int:
        return self.record.opening.capture_start_ms

    def _moved_record(self, heard: Heard) -> SessionRecord:
        if heard.checkpoint is None:
            end = self._extents[-1].end_sample if self._extents else self.record.committed_sample
            return replace(self.record, input_sample=end, state=None, finished=True)
        return replace(
            self.record,
            origin_sample=heard.origin_sample,
            input_sample=heard.origin_sample + heard.checkpoint.input_sample,
            state=heard.checkpoint.state,
        )

    def _push(self, chunks: list[FloatArray]) -> list[Song]:
        if not chunks:
            return []
        return self._placed(self._stream.push(chunks[0] if len(chunks) == 1 else np.concatenate(chunks)))

    def _placed(self, songs: list[Song]) -> list[Song]:
        """Return songs counted from the session's start rather than from the stream's."""
        shift = round(self._origin_sample * self._rate_out / self.format.sample_rate_hz)
        return (
            [replace(song, onset=song.onset + shift, offset=song.offset + shift) for song in songs] if shift else songs
        )

    def _decoded(self, step: Step) -> Step:
        if self.format.encoding != "flac":
            return step
        items = tuple(
            replace(item, data=decoded(item.sequence_number, item.data, item.sample_count, self.format.n_channels))
            if isinstance(item, Chunk)
            else item
            for item in step.work.items
        )
        return replace(step, work=replace(step.work, items=items))

    def _drop_skipped(self, samples: FloatArray) -> FloatArray:
        """Return samples without those before the first that the stream needs; a chunk sent again may begin earlier."""
        n = min(self._skip, len(samples))
        self._skip -= n
        return samples[n:]

    def _row(self, song: Song, name: Assignment) -> StoredSong:
        onset, offset = song.onset, song.offset
        session = self.record.opening.name
        return StoredSong(
            uid=str(uuid5(session.uuid, f"{self._segmenter_version}:{onset}:{offset}")),
            station=session.station,
            session=str(session.uuid),
            start_ms=self._start_ms + round(onset * 1000 / self._rate_out),
            end_ms=self._start_ms + round(offset * 1000 / self._rate_out),
            onset=onset,
            offset=offset,
            sample_rate_hz=self._rate_out,
            type_id=name.type_id,
            kind=name.kind,
            similarity=name.similarity,
            novelty_score=name.novelty_score,
            p_value=name.p_value,
            is_novel=name.is_novel,
            forced_cut=song.forced_cut,
            snr_db=song.snr_db,
            bundle=self._bundle,
        )

    def _recorded_s(self, extents: list[_Extent]) -> dict[int, float]:
        """Seconds of the extents by the hour they were recorded in; gaps are not effort."""
        seconds: dict[int, float] = {}
        rate = self.format.sample_rate_hz
        for extent in extents:
            if not extent.recorded:
                continue
            begin = self._start_ms + extent.start_sample * 1000 / rate
            end = self._start_ms + extent.end_sample * 1000 / rate
            while begin < end:
                hour = int(begin // HOUR_MS) * HOUR_MS
                until = min(end, hour + HOUR_MS)
                seconds[hour] = seconds.get(hour, 0.0) + (until - begin) / 1000
                begin = until
        return seconds


def _resume(record: SessionRecord, make_stream: StreamMaker) -> tuple[SessionRecord, SongStream]:
    """Take up the stream where the record says, or begin a new one there when another bundle made the state."""
    rate = record.opening.audio_format.sample_rate_hz
    if record.state is None:
        return record, make_stream(rate, None)
    try:
        return record, make_stream(rate, record.state)
    except InputError as error:
        if error.reason != "CHECKPOINT_FOREIGN":
            raise
    # The sound before the checkpoint was heard in full; songs after it that are stored must not be found twice.
    fresh = replace(record, origin_sample=record.input_sample, heard_until_ms=record.songs_until_ms, state=None)
    return fresh, make_stream(rate, None)
