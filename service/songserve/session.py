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
from uuid import uuid5

import numpy as np

from songcore.arrays import FloatArray
from songcore.assign import Assignment
from songcore.errors import InputError
from songcore.stream import Checkpoint, Song
from songserve.extents import Extent, gap_s, recorded_s
from songserve.hearing import Found, Hearing, Model
from songserve.intake import Chunk, Intake, Work
from songserve.records import AudioFormat, Commit, SessionRecord, StoredSong
from songserve.sound import Level, decoded, decoded_format, level_of, samples_of

__all__ = ["Heard", "Session", "SessionLimits", "Step"]


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
    models: tuple[Model, ...]
    """Of each song the bundle that heard it, which alone can name it."""
    model: Model
    """The bundle that hears now."""
    origin_sample: int
    """Input sample at which the stream that made the checkpoint begins."""
    checkpoint: Checkpoint | None
    """Counted from the origin; None when not due, or at the end."""
    needed_sample: int
    """First input sample that a song not yet returned may begin at."""
    open_song: Song | None = None
    """The song that is being sung, as far as it has been heard; None also when guesses are not wanted."""
    levels: tuple[Level, ...] = ()
    heard_until_ms: int = 0
    """Songs of the checkpoint's stream that begin earlier were heard by the bundle before; since the session's start."""


class Session:
    """Order, listen, commit: everything that decides about one session."""

    def __init__(self, record: SessionRecord, model: Model, *, limits: SessionLimits, guessing: bool = False) -> None:
        self._limits, self._guessing = limits, guessing
        self.format: AudioFormat = record.opening.audio_format
        self.sound_format: AudioFormat = decoded_format(self.format)
        """Of the chunks in `Heard`: FLAC is decoded there."""
        self.record, self._hearing = _resume(record, model)
        self.bundle_changed = self.record.state is None and record.state is not None
        """Another bundle had listened before."""
        self.intake = Intake(self.record, max_chunk_bytes=limits.max_chunk_bytes)
        self._skip = self.record.input_sample - self.record.committed_sample
        self.received_sequence_number = record.committed_sequence_number
        """Of the last chunk that was listened to."""
        self._samples_since, self._chunks_since = 0, 0
        self._extents: deque[Extent] = deque()

    @property
    def model(self) -> Model:
        """The bundle that hears now."""
        return self._hearing.model

    def follow(self, model: Model) -> bool:
        """Let a bundle take over from the next step on; False when it has, or is about to. Not while a step is listened to."""
        return self._hearing.follow(model)

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
        step, hearing = self._decoded(step), self._hearing
        found: list[Found] = []
        chunks: list[FloatArray] = []
        levels: list[Level] = []
        for item in step.work.items:
            if isinstance(item, Chunk):
                samples = samples_of(item.data, self.sound_format)
                levels.append(level_of(samples, item.start_sample))
                chunks.append(self._drop_skipped(samples))
                continue
            found += self._push(chunks) + hearing.finish()
            chunks = []
            self._skip = 0  # a resumed stream wanted the end of what is lost now
            hearing.restart(item.start_sample + item.sample_count)
        found += self._push(chunks)
        origin, checkpoint = 0, None
        if step.work.finish:
            found += hearing.finish()
        elif found or step.due:
            origin, checkpoint = hearing.checkpoint()
        return Heard(
            step,
            songs=tuple(song for song, _ in found),
            models=tuple(model for _, model in found),
            model=hearing.model,
            origin_sample=origin,
            checkpoint=checkpoint,
            needed_sample=hearing.open_since,
            open_song=hearing.open_song() if self._guessing and not step.work.finish else None,
            levels=tuple(levels),
            heard_until_ms=hearing.heard_until_ms,
        )

    def decide(self, heard: Heard, names: Sequence[Assignment]) -> Commit | None:
        """Return what to store now that the songs have names, one each, or None when nothing would change."""
        work = heard.step.work
        for item in work.items:
            self.received_sequence_number = item.last_sequence_number
            self._extents.append(Extent.of(item))
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
        named = zip(heard.songs, heard.models, names, strict=True)
        rows = [(self._row(song, model, name), name) for song, model, name in named]
        # What an earlier bundle heard stays as it heard it.
        rows = [row for row in rows if row[0].start_ms - self._start_ms >= self.record.heard_until_ms]
        songs = tuple(song for song, _ in rows)
        if not songs and not released and not work.finish:
            return None
        embeddings = {song.uid: name.embedding.astype("<f4", copy=False).tobytes() for song, name in rows}
        rate_hz = self.format.sample_rate_hz
        effort = recorded_s(released, self._start_ms, rate_hz), gap_s(released, rate_hz)
        return Commit(moved, songs, *effort, embeddings=embeddings)

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
            heard_until_ms=max(self.record.heard_until_ms, heard.heard_until_ms),
            input_sample=heard.origin_sample + heard.checkpoint.input_sample,
            state=heard.checkpoint.state,
        )

    def _push(self, chunks: list[FloatArray]) -> list[Found]:
        if not chunks:
            return []
        return self._hearing.push(chunks[0] if len(chunks) == 1 else np.concatenate(chunks))

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

    def _row(self, song: Song, model: Model, name: Assignment) -> StoredSong:
        onset, offset, rate = song.onset, song.offset, model.sample_rate_hz
        session = self.record.opening.name
        return StoredSong(
            uid=str(uuid5(session.uuid, f"{model.songs_version}:{onset}:{offset}")),
            station=session.station,
            session=str(session.uuid),
            start_ms=self._start_ms + round(onset * 1000 / rate),
            end_ms=self._start_ms + round(offset * 1000 / rate),
            onset=onset,
            offset=offset,
            sample_rate_hz=rate,
            type_id=name.type_id,
            kind=name.kind,
            similarity=name.similarity,
            novelty_score=name.novelty_score,
            p_value=name.p_value,
            novelty=name.novelty,
            forced_cut=song.forced_cut,
            snr_db=song.snr_db,
            quality=song.quality,
            bundle=model.digest,
        )


def _resume(record: SessionRecord, model: Model) -> tuple[SessionRecord, Hearing]:
    """Take up listening where the record says, or begin anew there when another bundle made the state."""
    rate = record.opening.audio_format.sample_rate_hz
    stream = None
    if record.state is not None:
        try:
            stream = model.resume_stream(rate, record.state)
        except InputError as error:
            if error.reason != "CHECKPOINT_FOREIGN":
                raise
            # The sound before the checkpoint was heard in full; songs after it that are stored must not be found twice.
            record = replace(
                record, origin_sample=record.input_sample, heard_until_ms=record.songs_until_ms, state=None
            )
    stream = stream or model.new_stream(rate)
    at = {"origin_sample": record.origin_sample, "input_sample": record.input_sample}
    return record, Hearing(model, rate, stream, **at)
