"""Songs of recordings, as features, with other recordings mixed in at a given signal-to-noise ratio.

Song and noise are mixed as sound, before the front end, so that noise floor and features follow as they would have in
the field. The power of a song is that of its recording between the song's annotated borders, in the band where birds
sing. Borders are the annotated ones at every ratio: a segmenter would lose songs in the noise, and others would be compared.
All songs of a mix sit in the same place: one recording of noise, for every song another stretch of it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfiltfilt

from songcore.annotations import Annotation
from songcore.arrays import FloatArray
from songcore.audio import open_recording
from songcore.features import song_features
from songcore.frontend import LogMel
from songcore.noise import NoiseFloor
from songcore.resample import Resampler
from songcore.stream import StreamConfig

__all__ = ["BAND_HZ", "NoisySongs", "read_sound"]

BAND_HZ = (1000.0, 11_000.0)
BEFORE_S, AFTER_S = 12.0, 1.0
"""Sound around a song that is mixed with it: the noise floor is learned from it."""


def read_sound(path: Path, rate_hz: int) -> FloatArray:
    """Return a whole recording (n,) float32 at ``rate_hz``."""
    with open_recording(path) as recording:
        resampler = Resampler(recording.sample_rate_hz, rate_hz)
        parts = [resampler.push(block) for block in recording.blocks()]
    return np.concatenate([*parts, resampler.finish()])


class NoisySongs:
    """Songs with their surroundings, ready to be mixed again and again."""

    def __init__(
        self, annotations: Sequence[Annotation], folder: Path, noise: Sequence[FloatArray], config: StreamConfig
    ) -> None:
        self._config, self._rate = config, config.frontend.sample_rate_hz
        self._noise = [(sound, self._in_band(sound)) for sound in noise]
        names = sorted({a.recording for a in annotations})
        sounds = {n: read_sound(next(p for p in folder.rglob(Path(n).name)), self._rate) for n in names}
        self._songs = [self._cut(sounds[a.recording], a) for a in annotations]

    def features(self, snr_db: float, mix: int) -> list[FloatArray]:
        """Return every song's features (n_frames, n_mels) in the mix of that number."""
        return [self._describe(*song) for song in self.mixed(snr_db, mix)]

    def mixed(self, snr_db: float, mix: int) -> Iterator[tuple[FloatArray, int, int]]:
        """Yield every song with its surroundings and noise, and where in that it begins and ends, in samples."""
        # The same stretches of noise at every ratio.
        rng = np.random.default_rng(mix)
        whole, in_band = self._noise[mix % len(self._noise)]
        for sound, onset, offset in self._songs:
            begin = int(rng.integers(max(1, len(whole) - len(sound))))
            own = self._in_band(sound)[onset:offset]
            under = in_band[begin + onset : begin + offset]
            gain = np.sqrt(np.mean(own**2) / np.mean(under**2)) * 10 ** (-snr_db / 20)
            yield sound + np.float32(gain) * whole[begin : begin + len(sound)], onset, offset

    def _cut(self, sound: FloatArray, song: Annotation) -> tuple[FloatArray, int, int]:
        """Return the song with its surroundings, and where in it the song lies."""
        onset, offset = round(song.onset_s * self._rate), min(round(song.offset_s * self._rate), len(sound))
        begin = max(0, onset - round(BEFORE_S * self._rate))
        return sound[begin : offset + round(AFTER_S * self._rate)], onset - begin, offset - begin

    def _in_band(self, sound: FloatArray) -> FloatArray:
        return np.asarray(sosfiltfilt(butter(6, BAND_HZ, "bandpass", fs=self._rate, output="sos"), sound), np.float32)

    def _describe(self, sound: FloatArray, onset: int, offset: int) -> FloatArray:
        frontend, hop = self._config.frontend, self._config.frontend.hop
        log_mel = LogMel(frontend)
        frames = np.concatenate([log_mel.push(sound), log_mel.finish()])
        first, last = ((at + hop // 2) // hop for at in (onset, offset))
        floor = NoiseFloor(self._config.segmenter.noise, frontend).floors_at(frames, np.asarray([first], np.int64))[0]
        return song_features(frames[first:last], floor, frontend, self._config.features)
