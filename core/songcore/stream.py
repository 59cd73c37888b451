"""One stream of audio in, songs with their features out: resample, log-mel, segment, slice.

Offline is ``push(everything)`` then ``finish()``: the same code, the same bits. A stream can be left at a `Checkpoint` and
taken up again in another process, which then needs the audio from ``checkpoint.input_sample`` on; the songs are those
of an uninterrupted run.
"""

import struct
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Self

import numpy as np

from songcore.arrays import FloatArray
from songcore.errors import InputError
from songcore.features import FeatureConfig, song_features
from songcore.frontend import FrontendConfig, LogMel
from songcore.quality import FullScale, Quality, QualityConfig, grade
from songcore.resample import Resampler
from songcore.segment import Segment, Segmenter, SegmenterConfig

__all__ = ["Checkpoint", "Song", "SongStream", "StreamConfig"]

_HEADER = struct.Struct("<16sqqq")
"""Fingerprint of the parameters, input rate, first frame that is needed again, segmenter's next frame."""


@dataclass(frozen=True)
class StreamConfig:
    """Everything that decides which songs a stream holds; all of it comes from the bundle."""

    frontend: FrontendConfig
    segmenter: SegmenterConfig
    features: FeatureConfig
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Grades songs and moves none of them."""

    def fingerprint(self) -> bytes:
        """Return 16 bytes that differ whenever a parameter does that moves songs or changes their features."""
        text = "\n".join(part.model_dump_json() for part in (self.frontend, self.segmenter, self.features))
        return blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Song:
    """A song: samples are half-open, at the bundle's rate, counted from the stream's first sample."""

    onset: int
    offset: int
    forced_cut: bool
    snr_db: float
    features: FloatArray
    """(n_frames, n_mels) float32, the encoder's input."""
    quality: Quality = "ungraded"


@dataclass(frozen=True)
class Checkpoint:
    """Where a stream can be taken up again."""

    input_sample: int
    """Absolute index, at the input rate, of the first sample that must be pushed again."""
    state: bytes
    """Opaque; 5 to 20 kB, up to 65 kB within a song of the longest kind."""


class SongStream:
    """Push mono samples at ``rate_in`` Hz, get songs."""

    def __init__(self, config: StreamConfig, rate_in: int) -> None:
        self.config = config
        self._resampler = Resampler(rate_in, config.frontend.sample_rate_hz)
        self._log_mel = LogMel(config.frontend)
        self._segmenter = Segmenter(config.segmenter, config.frontend)
        self._frames = np.empty((0, config.frontend.n_mels), np.float32)
        self._first_frame = 0  # absolute index of _frames[0]
        self._n_skip = 0  # resampled samples before the first that the log-mel needs
        self._full_scale = self._full_scale_from(0)
        self._fingerprint = config.fingerprint()
        # First frame that is needed again, and the state that goes on from there.
        self._snapshot = (0, self._state(0))

    @classmethod
    def resume(cls, config: StreamConfig, rate_in: int, state: bytes) -> Self:
        """Take up a stream at a checkpoint's state; push the samples from its ``input_sample`` on.

        Raises InputError CHECKPOINT_FOREIGN when the state was made with other parameters or at another rate.
        """
        stream = cls(config, rate_in)
        if len(state) < _HEADER.size or _HEADER.unpack_from(state)[:2] != (stream._fingerprint, rate_in):
            raise InputError(
                "the checkpoint was made with other model parameters than this bundle's, or at another sample rate",
                reason="CHECKPOINT_FOREIGN",
            )
        _, _, frame, next_frame = _HEADER.unpack_from(state)
        stream._log_mel = LogMel(config.frontend, start_frame=frame)
        stream._resampler, stream._n_skip = stream._resampler_for(frame)
        stream._full_scale = stream._full_scale_from(stream._resampler.input_start)
        stream._first_frame = frame
        stream._segmenter.restore(np.frombuffer(state, np.float64, offset=_HEADER.size), next_frame)
        stream._snapshot = (frame, state)
        return stream

    def push(self, samples: FloatArray) -> list[Song]:
        """Take samples (n,) float32 in [-1, 1] at the input rate and return the songs that ended."""
        self._full_scale.push(samples)
        resampled = self._resampler.push(samples)
        if self._n_skip:
            n = min(self._n_skip, len(resampled))
            resampled, self._n_skip = resampled[n:], self._n_skip - n
        return self._segment(self._log_mel.push(resampled))

    def finish(self) -> list[Song]:
        """Return the last songs; the stream ends here."""
        resampled = self._resampler.finish()[self._n_skip :]
        songs = self._segment(np.concatenate([self._log_mel.push(resampled), self._log_mel.finish()]))
        songs += self._songs(self._segmenter.finish(), graded=True)
        end = self._log_mel.n_in
        return [song for song in (_clip(song, end) for song in songs) if song.offset > song.onset]

    def checkpoint(self) -> Checkpoint:
        """Return the latest point from which every song not yet returned would be found again."""
        needed = self._segmenter.needed_from
        # A state that needs no less of the past would gain nothing.
        if needed > self._snapshot[0]:
            self._snapshot = (needed, self._state(needed))
        frame, state = self._snapshot
        return Checkpoint(self._resampler_for(frame)[0].input_start, state)

    def open_song(self) -> Song | None:
        """Return the song that is being sung, as far as it has been heard; nothing of the stream is changed by asking.

        Its onset stays; once it is over, and nobody knows that yet, it is the song that `push` will return,
        but for its grade.
        """
        segment = self._segmenter.open_segment()
        return self._songs([segment], graded=False)[0] if segment else None

    @property
    def open_since(self) -> int:
        """First sample, at the bundle's rate, that a song not yet returned may still begin at."""
        return self._segmenter.needed_from * self.config.frontend.hop

    def _resampler_for(self, frame: int) -> tuple[Resampler, int]:
        """Return a resampler that starts before ``frame``, and how many of its samples to skip."""
        first = self._log_mel.input_start_of(frame)
        rate_in, rate_out = self._resampler.rate_in, self._resampler.rate_out
        resampler = Resampler(rate_in, rate_out, start_block=self._resampler.block_before(first))
        return resampler, first - resampler.output_start

    def _segment(self, frames: FloatArray) -> list[Song]:
        self._frames = np.concatenate([self._frames, frames]) if len(self._frames) else frames
        # After a restart within a song, the segmenter knows its first frames already; they are here for the features.
        known = max(0, self._segmenter.next_frame - (self._log_mel.next_frame - len(frames)))
        songs = self._songs(self._segmenter.push(frames[known:]), graded=True) if known < len(frames) else []
        keep = self._segmenter.needed_from
        self._frames, self._first_frame = self._frames[keep - self._first_frame :].copy(), keep
        self._full_scale.forget(keep - 1)
        return songs

    def _state(self, frame: int) -> bytes:
        header = _HEADER.pack(self._fingerprint, self._resampler.rate_in, frame, self._segmenter.next_frame)
        return header + self._segmenter.state().tobytes()

    def _songs(self, segments: list[Segment], *, graded: bool) -> list[Song]:
        songs = []
        for segment in segments:
            first, last = (self._frame_at(sample) - self._first_frame for sample in (segment.onset, segment.offset))
            frames = self._frames[first:last]
            features = song_features(frames, segment.floor, self.config.frontend, self.config.features)
            quality = self._grade(segment, frames) if graded else "ungraded"
            songs.append(Song(segment.onset, segment.offset, segment.forced_cut, segment.snr_db, features, quality))
        return songs

    def _grade(self, segment: Segment, frames: FloatArray) -> Quality:
        return grade(
            frames,
            segment.floor,
            self.config.quality,
            duration_s=(segment.offset - segment.onset) / self.config.frontend.sample_rate_hz,
            snr_db=segment.snr_db,
            clipped_share=self._full_scale.share(segment.onset, segment.offset),
            forced_cut=segment.forced_cut,
        )

    def _full_scale_from(self, input_sample: int) -> FullScale:
        frontend = self.config.frontend
        return FullScale(self._resampler.rate_in, frontend.sample_rate_hz, frontend.hop, start=input_sample)

    def _frame_at(self, sample: int) -> int:
        """Return the frame that begins at a segment's border; borders lie half a hop before the frames' centres."""
        hop = self.config.frontend.hop
        return (sample + hop // 2) // hop


def _clip(song: Song, end: int) -> Song:
    """Return the song without what lies behind the end of the recording; a last frame reaches past it."""
    if song.offset <= end:
        return song
    return replace(song, offset=end)
