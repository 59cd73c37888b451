"""The sound of songs: recordings decoded again, for whatever needs more than features above the noise floor."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from songcore.arrays import FloatArray
from songcore.audio import open_recording
from songcore.errors import InputError
from songcore.resample import Resampler
from songtrain.datasets.folder import RecordingFile
from songtrain.datasets.songs import SongPlace

__all__ = ["SoundSource", "resampled", "song_sounds", "sound_source"]


@dataclass(frozen=True)
class SoundSource:
    """Where the recordings of a song set are, and the rate that its places count samples at."""

    paths: Mapping[str, Path]
    """By the name that places call a recording by; absolute, so that a worker elsewhere finds them."""
    sample_rate_hz: int
    """Of the onsets and offsets: the front end's rate."""
    channel: int | None = None
    """Counted from 1; None for the mean of all."""


def sound_source(recordings: Iterable[RecordingFile], sample_rate_hz: int, channel: int | None = None) -> SoundSource:
    """Return the source of these recordings' sound, for places that count samples at ``sample_rate_hz``."""
    return SoundSource({file.name: file.path.absolute() for file in recordings}, sample_rate_hz, channel)


def song_sounds(source: SoundSource, places: Sequence[SongPlace], sample_rate_hz: int) -> Iterator[FloatArray]:
    """Yield the sound of every place, (n,) float32 in [-1, 1] at ``sample_rate_hz``, in their order.

    Songs that follow one another and are of one recording cost one decoding, whose sound is never held as a whole; past the
    end of a recording there is silence. Raises InputError RECORDING_MISSING for a place in no recording of the source, and
    what `open_recording` raises.
    """
    for name, group in groupby(places, key=lambda place: place.recording):
        if name not in source.paths:
            raise InputError(
                f"{name} is not among the {len(source.paths)} recordings whose sound is known; give the folder that the "
                "songs are from",
                reason="RECORDING_MISSING",
            )
        scale = sample_rate_hz / source.sample_rate_hz
        spans = [(round(place.onset * scale), round(place.offset * scale)) for place in group]
        yield from _cuts(source.paths[name], spans, sample_rate_hz, source.channel)


def _cuts(path: Path, spans: Sequence[tuple[int, int]], rate: int, channel: int | None) -> list[FloatArray]:
    """Return the half-open spans, in samples at ``rate``, of one recording."""
    sounds = [np.zeros(max(0, stop - start), np.float32) for start, stop in spans]
    end, at = max(stop for _, stop in spans), 0
    for block in resampled(path, rate, channel):
        for (start, stop), sound in zip(spans, sounds, strict=True):
            first, last = max(start, at), min(stop, at + len(block))
            if first < last:
                sound[first - start : last - start] = block[first - at : last - at]
        at += len(block)
        if at >= end:
            break
    return sounds


def resampled(path: Path, rate: int, channel: int | None) -> Iterator[FloatArray]:
    """Yield a recording as blocks (n,) float32 at ``rate``; raises what `open_recording` and its blocks raise."""
    with open_recording(path, channel=channel) as recording:
        resampler = Resampler(recording.sample_rate_hz, rate)
        for block in recording.blocks():
            yield resampler.push(block)
        yield resampler.finish()
