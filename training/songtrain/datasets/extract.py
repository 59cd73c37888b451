"""One recording in, its songs with features out, by the very code that serves.

A song that was annotated and that the segmenter finds too has the segmenter's borders: those are the borders that
serving will give it, echo and all, and an encoder that only ever saw tidier ones finds served songs strange.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from songcore.annotations import Annotation
from songcore.arrays import FloatArray
from songcore.audio import open_recording
from songcore.features import song_features
from songcore.frontend import LogMel
from songcore.noise import NoiseFloor
from songcore.resample import Resampler
from songcore.segment import Segmenter
from songcore.stream import StreamConfig
from songtrain.datasets.songs import Float16Array, RecordingSongs, SongPlace

__all__ = ["extract_songs", "recording_frames"]

BACKGROUND_FRAMES = 64
"""Length of a stretch of background, about a second."""
MAX_BACKGROUNDS = 16
"""Stretches kept of one recording: enough to know its noise, too few to fill the memory."""


MIN_OVERLAP = 0.5
"""Intersection over union from which an annotated and a found song are the same."""


@dataclass(frozen=True)
class _Span:
    """A song in frames, half-open, with the noise floor at its onset."""

    onset: int
    offset: int
    first: int
    last: int
    floor: FloatArray
    label: str


def recording_frames(path: Path, config: StreamConfig, channel: int | None) -> FloatArray:
    """Return all log-mel frames (n, n_mels) of a recording; InputError when it cannot be read to its end."""
    with open_recording(path, channel=channel) as recording:
        resampler = Resampler(recording.sample_rate_hz, config.frontend.sample_rate_hz)
        log_mel = LogMel(config.frontend)
        parts = [log_mel.push(resampler.push(block)) for block in recording.blocks()]
        parts += [log_mel.push(resampler.finish()), log_mel.finish()]
    return np.concatenate(parts)


def extract_songs(
    path: Path,
    name: str,
    annotations: Sequence[Annotation] | None,
    config: StreamConfig,
    channel: int | None = None,
    *,
    keep_borders: bool = False,
) -> RecordingSongs:
    """Return the annotated songs of a recording, or without annotations those that the segmenter finds.

    With ``keep_borders`` annotated songs are cut where they were marked: for units shorter than the segmenter's songs, and for
    clips that are one sound from end to end.
    """
    frames = recording_frames(path, config, channel)
    floors = _Floors(frames, config)
    if annotations is not None and keep_borders:
        spans = _annotated(floors, annotations, config)
    elif annotations is not None:
        spans = _as_served(_annotated(floors, annotations, config), _segmented(frames, config))
    else:
        spans = _segmented(frames, config)
    songs = [song_features(frames[s.first : s.last], s.floor, config.frontend, config.features) for s in spans]
    empty = np.empty((0, config.frontend.n_mels), np.float32)
    return RecordingSongs(
        places=tuple(SongPlace(name, s.onset, s.offset, s.label) for s in spans),
        lengths=np.asarray([len(song) for song in songs], np.int64),
        frames=np.concatenate([empty, *songs]).astype(np.float16),
        background=_background(floors, spans, config),
        duration_s=len(frames) * config.frontend.hop_s,
    )


def _segmented(frames: FloatArray, config: StreamConfig) -> list[_Span]:
    segmenter = Segmenter(config.segmenter, config.frontend)
    hop = config.frontend.hop
    return [
        _Span(s.onset, s.offset, _frame_at(s.onset, hop), _frame_at(s.offset, hop), s.floor, "")
        for s in [*segmenter.push(frames), *segmenter.finish()]
    ]


def _annotated(floors: "_Floors", annotations: Sequence[Annotation], config: StreamConfig) -> list[_Span]:
    frames, rate, hop = floors.frames, config.frontend.sample_rate_hz, config.frontend.hop
    times = [(round(a.onset_s * rate), round(a.offset_s * rate), a.label) for a in annotations]
    # An annotation behind the end of the recording has no sound to learn from.
    inside = [
        (onset, min(offset, len(frames) * hop), label) for onset, offset, label in times if onset // hop < len(frames)
    ]
    return [
        _Span(
            onset, offset, _frame_at(onset, hop), max(_frame_at(onset, hop) + 1, _frame_at(offset, hop)), floor, label
        )
        for (onset, offset, label), floor in zip(inside, floors.at([onset // hop for onset, *_ in inside]), strict=True)
    ]


def _as_served(annotated: Sequence[_Span], found: Sequence[_Span]) -> list[_Span]:
    """Return the annotated songs, each with the borders of the found one that overlaps it best, by half at least."""
    songs = list(annotated)
    if not songs or not found:
        return songs
    overlaps = np.array([[_overlap(song, served) for served in found] for song in songs])
    for i, j in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
        if overlaps[i, j] >= MIN_OVERLAP:
            songs[i] = replace(found[int(j)], label=songs[i].label)
    return songs


def _overlap(a: _Span, b: _Span) -> float:
    """Intersection over union."""
    intersection = min(a.offset, b.offset) - max(a.onset, b.onset)
    return max(0.0, intersection / (max(a.offset, b.offset) - min(a.onset, b.onset)))


def _frame_at(sample: int, hop: int) -> int:
    """Return the frame that begins at a song's border, as `SongStream` does: borders lie half a hop before frames' centres."""
    return (sample + hop // 2) // hop


class _Floors:
    """The noise floor all along a recording, followed once, when it is first asked for."""

    def __init__(self, frames: FloatArray, config: StreamConfig) -> None:
        self.frames, self._noise = frames, NoiseFloor(config.segmenter.noise, config.frontend)

    def at(self, indices: ArrayLike) -> FloatArray:
        """Return the floors (n, n_mels) at frames with these indices."""
        return self._of_blocks[np.asarray(indices, np.int64) // self._noise.block]

    @cached_property
    def _of_blocks(self) -> FloatArray:
        return self._noise.floors_at(self.frames, np.arange(0, len(self.frames), self._noise.block))


def _background(floors: _Floors, spans: Sequence[_Span], config: StreamConfig) -> Float16Array:
    """Features of stretches without songs, spread evenly over the recording; none where levels count from each song's own."""
    frames = floors.frames
    if config.features.reference == "loudest":
        return np.empty((0, frames.shape[1]), np.float16)
    free = np.ones(len(frames), bool)
    for span in spans:
        free[span.first : span.last] = False
    whole = free[: len(free) // BACKGROUND_FRAMES * BACKGROUND_FRAMES].reshape(-1, BACKGROUND_FRAMES).all(axis=1)
    chosen = np.flatnonzero(whole)
    if len(chosen) > MAX_BACKGROUNDS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_BACKGROUNDS).round().astype(np.int64)]
    starts = chosen.astype(np.int64) * BACKGROUND_FRAMES
    # As it stands: what is steady in it is taken out where it has been laid over a song.
    features = config.features.model_copy(update={"steady_share": None})
    stretches = [
        song_features(frames[start : start + BACKGROUND_FRAMES], floor, config.frontend, features)
        for start, floor in zip(starts, floors.at(starts), strict=True)
    ]
    return np.concatenate([np.empty((0, frames.shape[1]), np.float32), *stretches]).astype(np.float16)
