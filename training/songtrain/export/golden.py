"""Short pieces of the training recordings that a bundle proves itself on whenever it is loaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from songcore.arrays import FloatArray
from songcore.errors import InputError
from songcore.stream import SongStream, StreamConfig
from songtrain.datasets.songs import SongPlace
from songtrain.datasets.sound import resampled

__all__ = ["golden_recordings"]

N_GOLDEN = 3
BEFORE_S, AFTER_S = 2.0, 1.5
"""Sound kept around a song: enough for the noise floor to be known before it and for its end to be decided."""


def golden_recordings(
    places: Iterable[SongPlace], paths: Mapping[str, Path], stream: StreamConfig, channel: int | None
) -> list[FloatArray]:
    """Return up to three pieces (n,) float32 at the bundle's rate, in each of which the segmenter hears a song.

    Raises InputError NO_GOLDEN when it hears none in any of the places.
    """
    pieces: list[FloatArray] = []
    used: set[str] = set()
    for place in places:
        if place.recording in used:
            continue
        piece = _cut(paths[place.recording], place, stream, channel)
        if _has_song(piece, stream):
            pieces.append(piece)
            used.add(place.recording)
        if len(pieces) == N_GOLDEN:
            break
    if not pieces:
        raise InputError(
            "the segmenter hears no song in any recording that was learned from, so the bundle would never hear one either; "
            "check data.segmenter and the annotations' times",
            reason="NO_GOLDEN",
        )
    return pieces


def _cut(path: Path, place: SongPlace, stream: StreamConfig, channel: int | None) -> FloatArray:
    rate = stream.frontend.sample_rate_hz
    begin, end = max(0, place.onset - round(BEFORE_S * rate)), place.offset + round(AFTER_S * rate)
    parts, at = [np.empty(0, np.float32)], 0
    for block in resampled(path, rate, channel):
        # What lies before is not kept: a recorder's file may be a day long.
        if at + len(block) > begin:
            parts.append(block[max(0, begin - at) : end - at])
        at += len(block)
        if at >= end:
            break
    return np.concatenate(parts)


def _has_song(piece: FloatArray, stream: StreamConfig) -> bool:
    songs = SongStream(stream, stream.frontend.sample_rate_hz)
    # As 16-bit samples, which is how they are kept.
    quantised = np.clip(np.round(piece * 32768), -32768, 32767).astype(np.float32) / np.float32(32768)
    return bool(songs.push(quantised) + songs.finish())
