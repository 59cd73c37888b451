"""Remembers the latest sound of a stream, as it came in, and cuts songs out of it. Pure: arrays in, arrays out.

Held is the sound that a song not yet decided may lie in, and the pre-roll before it: a second or two while nothing sings.
Of 16-bit mono, the common case, not even a copy is made: the bytes of the chunks themselves are held.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from songcore.arrays import FloatArray
from songcore.stream import Song
from songserve.intake import Chunk
from songserve.records import AudioFormat
from songserve.session import Heard
from songserve.sound import samples_of

__all__ = ["ClipSound", "ClipSounds", "ClipTape"]

PcmArray = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class ClipSound:
    """A song with the sound around it."""

    start_sample: int
    """Counted from the session's start at the sender's rate."""
    samples: PcmArray
    """(n,) int16, mono."""
    sample_rate_hz: int
    features: FloatArray
    """(n_frames, n_mels) float32, what the encoder saw of the song."""


ClipSounds = Mapping[tuple[int, int], ClipSound]
"""Sounds by the song's onset and offset."""


class ClipTape:
    """Follows one stream.

    A clip has ``pre_roll_s`` before the song and ``post_roll_s`` after it, less where the sound begins, where a gap lies, or
    where more has not come in when the song is decided. Not ``recording``, it holds nothing and gives nothing.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        *,
        pre_roll_s: float,
        post_roll_s: float,
        recording: bool = True,
    ) -> None:
        self._format, self._recording = audio_format, recording
        self._pre_roll, self._post_roll = (round(s * audio_format.sample_rate_hz) for s in (pre_roll_s, post_roll_s))
        self._pieces: deque[tuple[int, PcmArray]] = deque()

    @property
    def n_held(self) -> int:
        """Samples in memory."""
        return sum(len(samples) for _, samples in self._pieces)

    def follow(self, heard: Heard) -> ClipSounds:
        """Take in what was listened to and return the sounds of the songs that ended."""
        if not self._recording:
            return {}
        for item in heard.step.work.items:
            if isinstance(item, Chunk):
                self._pieces.append((item.start_sample, _pcm(item.data, self._format)))
        sounds = {
            (song.onset, song.offset): self._cut(song, model.sample_rate_hz)
            for song, model in zip(heard.songs, heard.models, strict=True)
        }
        while self._pieces and _end(self._pieces[0]) <= heard.needed_sample - self._pre_roll:
            self._pieces.popleft()
        return {song: sound for song, sound in sounds.items() if len(sound.samples)}

    def _cut(self, song: Song, song_rate_hz: int) -> ClipSound:
        ratio = self._format.sample_rate_hz / song_rate_hz
        onset, offset = floor(song.onset * ratio), ceil(song.offset * ratio)
        begin, end = onset - self._pre_roll, offset + self._post_roll
        parts: list[PcmArray] = []
        start = following = 0
        for piece in self._pieces:
            first, samples = piece
            if _end(piece) <= begin or first >= end:
                continue
            if not parts or first != following:
                if parts and following > onset:
                    break  # a gap after the song
                parts, start = [], max(begin, first)  # what lies before a gap belongs to another sound
            parts.append(samples[max(0, begin - first) : end - first])
            following = _end(piece)
        sound = np.concatenate(parts) if parts else np.empty(0, np.int16)
        return ClipSound(start, sound, self._format.sample_rate_hz, song.features)


def _end(piece: tuple[int, PcmArray]) -> int:
    return piece[0] + len(piece[1])


def _pcm(data: bytes, audio_format: AudioFormat) -> PcmArray:
    if audio_format.encoding == "linear16" and audio_format.n_channels == 1:
        return np.frombuffer(data, "<i2")
    samples = samples_of(data, audio_format)
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
