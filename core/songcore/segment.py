"""The streaming energy-onset segmenter: log-mel frames in, songs out.

A frame *sounds* when three things hold.

1. It stands out of the noise: in some band the power, averaged over ``smoothing_ms``, exceeds by ``quiet_db`` what
   noise of the level of the noise floor exceeds once in ten thousand frames.
2. It has not fallen: its loudness, the power above the noise floor summed over the bands, lies within ``fall_db`` of
   the loudest just before, which is forgotten at ``recovery_db_per_s``. This ends a song where its last note ends and
   not where the echo does, and parts syllables by dips that are deep though short.
3. It belongs to the foreground: its loudness lies within ``foreground_db`` of the loudest sound of the last seconds,
   which is forgotten at ``foreground_recovery_db_per_s``. Far birds behind a near one are left out.

Sounding frames less than ``min_gap_s`` apart make one song, unless a fall of at least ``min_fall_ms`` lies between. A
song is kept when it is long enough and its loudest frame stands out by ``onset_db``; it is cut when it grows too long.

Everything is decided from sums and comparisons of frames already seen, so the chunking of a stream changes nothing.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from songcore.arrays import FloatArray, IntArray
from songcore.frontend import FrontendConfig
from songcore.noise import Background, NoiseConfig, NoiseFloor, frame_power, noise_excess

__all__ = ["Segment", "Segmenter", "SegmenterConfig"]

FALSE_ALARM = 1e-4
"""Probability that a band of pure noise is above 0 dB of detection level in one frame."""

NOISE_MARGIN = np.float32(2.0)
"""Times the noise floor that does not count as loudness: noise itself is seldom more."""


class SegmenterConfig(BaseModel):
    """What a song is, in physical units; part of the bundle, never a service setting.

    Every time has an end: what a song that is being sung holds back, in memory and at the station, is bounded by them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    noise: NoiseConfig = NoiseConfig()
    smoothing_ms: float = Field(default=48.0, ge=0, le=1000)
    quiet_db: float = Field(default=5.0, ge=0)
    """A song begins and ends where the detection level crosses this."""
    onset_db: float = Field(default=10.0, ge=0)
    """A song's detection level reaches at least this."""
    fall_db: float = Field(default=30.0, gt=0)
    recovery_db_per_s: float = Field(default=20.0, ge=0)
    min_fall_ms: float | None = Field(default=None, gt=0, le=10_000)
    """A fall this long ends the song at once; None: a fall is a gap like any other."""
    foreground_db: float = Field(default=35.0, gt=0)
    foreground_recovery_db_per_s: float = Field(default=5.0, ge=0)
    min_gap_s: float = Field(default=0.5, gt=0, le=10)
    min_song_s: float = Field(default=0.4, gt=0)
    min_evidence_db_s: float = Field(default=4.0, ge=0)
    max_song_s: float = Field(default=15.0, gt=0, le=30)
    """A longer song is cut at the quietest frame of the second half of this, and marked."""
    pre_roll_s: float = Field(default=0.1, ge=0, le=10)
    post_roll_s: float = Field(default=0.1, ge=0, le=10)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.onset_db < self.quiet_db:
            raise ValueError(f"onset_db {self.onset_db} is below quiet_db {self.quiet_db}: no song could be heard")
        if self.max_song_s < 2 * self.min_song_s:
            raise ValueError(f"max_song_s {self.max_song_s} is less than two min_song_s {self.min_song_s}")
        return self

    @property
    def decision_delay_s(self) -> float:
        """Seconds after a song's last sample that must be heard before the song is closed."""
        return self.min_gap_s + self.smoothing_ms / 1e3


@dataclass(frozen=True, eq=False)
class Segment:
    """One song: samples onset to offset (half-open, absolute, at the bundle's rate)."""

    onset: int
    offset: int
    forced_cut: bool
    """Cut because it was too long: the sound went on."""
    snr_db: float
    """Mean power above the noise floor over the noise floor's, summed over the bands."""
    floor: FloatArray
    """Noise floor at the onset, (n_mels,) float32, natural log like the frames."""


class Segmenter:
    """Cut a stream of log-mel frames into songs."""

    def __init__(self, config: SegmenterConfig, frontend: FrontendConfig) -> None:
        self.config, self.frontend = config, frontend
        self.next_frame = 0
        """Absolute index of the next frame to be pushed."""
        self._width = frontend.n_frames(config.smoothing_ms / 1e3)
        self._n_gap = frontend.n_frames(config.min_gap_s)
        self._n_fall = frontend.n_frames(config.min_fall_ms / 1e3) if config.min_fall_ms else None
        self._n_min = frontend.n_frames(config.min_song_s)
        self._n_max = frontend.n_frames(config.max_song_s)
        excess = noise_excess(frontend, self._width, FALSE_ALARM) * self._width
        self._gain = (1 / excess).astype(np.float32)
        noise = config.noise
        self._noise = NoiseFloor(noise, frontend)
        self._background = Background(noise, frontend, self._n_gap)
        self._waiting = np.empty((0, frontend.n_mels), np.float32)  # power of frames before the first floor
        self._recent = np.zeros((self._width - 1, frontend.n_mels), np.float32)  # power over floor and noise's excess
        self._peaks = [-np.inf, -np.inf]  # loudness remembered for fall and foreground, carried back to time zero
        # Of the frames that are not decided: detection level, loudness, margin above a fall, margin above background.
        self._undecided = np.empty((0, 4))
        self._floors: list[tuple[int, FloatArray]] = []  # first frame, power: of the undecided frames and the next

    @property
    def needed_from(self) -> int:
        """Earliest absolute frame that a song not yet returned may begin at; `next_frame` when nothing is open."""
        return self.next_frame - len(self._waiting) - len(self._undecided)

    def push(self, frames: FloatArray) -> list[Segment]:
        """Take log-mel frames (n, n_mels) and return the songs that they completed."""
        power = frame_power(frames)
        first = self.next_frame - len(self._waiting)
        self.next_frame += len(power)
        floors = self._noise.push(power)
        if len(self._waiting):
            power = np.concatenate([self._waiting, power])
        self._add_floors(floors)
        if not self._floors:
            self._waiting = power
            return []
        self._waiting = self._waiting[:0]
        self._measure(power, first)
        return self._decide(final=False)

    def finish(self) -> list[Segment]:
        """Return the songs that are still open; the stream ends here."""
        if len(self._waiting):
            self._floors = [(0, self._noise.finish())]
            power, self._waiting = self._waiting, self._waiting[:0]
            self._measure(power, self.next_frame - len(power))
        return self._decide(final=True)

    def open_segment(self) -> Segment | None:
        """Return what is certain of the song that is still open, or None when that would not be a song yet."""
        if not len(self._undecided):
            return None
        ends = self._runs()[1]
        found = self._close(0, int(ends[-1]), forced=False) if len(ends) else []
        return found[0] if found else None

    def state(self) -> NDArray[np.float64]:
        """Return all that decides the songs to come, as one vector; it may be taken between any two pushes."""
        sizes = [len(self._waiting), len(self._undecided), len(self._floors)]
        starts, floors = [start for start, _ in self._floors], [floor for _, floor in self._floors]
        parts = [sizes, self._peaks, self._waiting, self._recent, self._undecided, starts, *floors]
        parts += [self._noise.state(), self._background.state()]
        return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])

    def restore(self, state: NDArray[np.float64], next_frame: int) -> None:
        """Continue from a `state` taken when ``next_frame`` was the next frame to push."""
        n_mels = self.frontend.n_mels
        n_waiting, n_undecided, n_floors = (int(size) for size in state[:3])
        sizes = [3, 2, n_waiting * n_mels, self._recent.size, n_undecided * 4, n_floors, n_floors * n_mels]
        _, peaks, waiting, recent, undecided, starts, floors, rest = np.split(state, np.cumsum(sizes))
        self._peaks = peaks.tolist()
        self._waiting = waiting.astype(np.float32).reshape(-1, n_mels)
        self._recent = recent.astype(np.float32).reshape(-1, n_mels)
        self._undecided = undecided.reshape(-1, 4).copy()
        powers = floors.astype(np.float32).reshape(-1, n_mels)
        self._floors = [(int(start), power) for start, power in zip(starts, powers, strict=True)]
        self._background.restore(self._noise.restore(rest))
        self.next_frame = next_frame

    def _add_floors(self, floors: list[FloatArray]) -> None:
        """Note from which frame on each new floor holds; the very first one holds for the frames before it, too."""
        block = self._noise.block
        start = (self.next_frame // block - len(floors) + 1) * block
        for floor in floors:
            self._floors.append((start if self._floors else 0, floor))
            start += block

    def _measure(self, power: FloatArray, first: int) -> None:
        """Append the four measures of frames (n, n_mels), the first being the absolute frame ``first``."""
        n, past = len(power), len(self._recent)
        relative = np.empty((past + n, power.shape[1]), np.float32)
        relative[:past] = self._recent
        loudness: NDArray[np.float64] = np.empty(n)
        begin = 0
        for index, (_, floor) in enumerate(self._floors):
            end = min(n, self._floors[index + 1][0] - first) if index + 1 < len(self._floors) else n
            if end > begin:
                part = power[begin:end]
                np.multiply(part, self._gain / floor, out=relative[past + begin : past + end])
                loudness[begin:end] = np.maximum(part - NOISE_MARGIN * floor, 0).sum(axis=1)
                begin = end
        self._recent = relative[n:].copy()
        smooth = relative[:n].copy()
        for lag in range(1, self._width):
            smooth += relative[lag : lag + n]
        peak = self._background.push(smooth)
        measures = np.empty((n, 4))
        measures[:, 0] = 10 * np.log10(np.maximum(peak, np.float32(1e-30)))
        loudness = 10 * np.log10(loudness + 1e-30)
        measures[:, 1] = loudness
        time = np.arange(first, first + n, dtype=np.float64) * self.frontend.hop_s
        measures[:, 2] = self._margin(0, loudness, time, self.config.fall_db, self.config.recovery_db_per_s)
        foreground = self.config.foreground_db, self.config.foreground_recovery_db_per_s
        measures[:, 3] = self._margin(1, loudness, time, *foreground)
        self._undecided = np.concatenate([self._undecided, measures]) if len(self._undecided) else measures

    def _margin(
        self, kind: int, loudness: NDArray[np.float64], time: NDArray[np.float64], depth_db: float, recovery: float
    ) -> NDArray[np.float64]:
        """Return how far loudness (n,) lies above ``depth_db`` below the loudest remembered, dB."""
        forgotten = time * recovery
        peaks = loudness + forgotten
        if len(peaks):
            peaks[0] = max(peaks[0], self._peaks[kind])
            np.maximum.accumulate(peaks, out=peaks)
            self._peaks[kind] = float(peaks[-1])
        margin: NDArray[np.float64] = loudness - (peaks - forgotten - depth_db)
        return margin

    def _decide(self, *, final: bool) -> list[Segment]:
        """Return the songs that the undecided frames are sure to hold, and forget the frames decided by that."""
        level, _, fall, _ = self._undecided.T
        n = len(level)
        begins, ends, sounding = self._runs()
        running = bool(sounding[-2]) and not final
        songs: list[Segment] = []
        song: tuple[int, int] | None = None
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            if song and self._parted(song[1], begin, fall):
                songs += self._close(*song, forced=False)
                song = None
            song = (song[0] if song else begin, end)
            while song[1] - song[0] > self._n_max:
                half, limit = song[0] + self._n_max // 2, song[0] + self._n_max
                cut = half + int(np.argmin(level[half:limit]))
                songs += self._close(song[0], cut, forced=True)
                # Where a stream that forgot the frames before the cut would see the rest begin.
                song = (cut + int(np.argmax(sounding[1 + cut : 1 + end])), end)
        if song and (final or (not running and self._parted(song[1], n, fall))):
            songs += self._close(*song, forced=False)
            song = None
        self._forget(song[0] if song else n)
        return songs

    def _runs(self) -> tuple[IntArray, IntArray, NDArray[np.bool_]]:
        """Return where runs of sounding undecided frames begin and end, and which sound, with a frame on either side."""
        level, _, fall, front = self._undecided.T
        sounding = np.zeros(len(level) + 2, bool)
        sounding[1:-1] = (level > self.config.quiet_db) & (np.minimum(fall, front) >= 0)
        edges = np.flatnonzero(sounding[1:] != sounding[:-1])
        begins, ends = edges[::2], edges[1::2]
        # Smoothing keeps the level up after the end, so an end by level alone lies that much earlier; an end by loudness
        # does not. Of a run that goes on, only what every continuation would leave is certain.
        by_level = np.append(np.minimum(fall, front), 0.0)[ends] >= 0
        return begins, np.maximum(ends - (self._width - 1) * by_level, begins + 1), sounding

    def _parted(self, end: int, begin: int, fall: NDArray[np.float64]) -> bool:
        """Whether the frames between two sounding ones part two songs."""
        if begin - end >= self._n_gap:
            return True
        return self._n_fall is not None and int(np.count_nonzero(fall[end:begin] < 0)) >= self._n_fall

    def _forget(self, n: int) -> None:
        """Drop the first ``n`` undecided frames, and the floors that held only for them."""
        self._undecided = self._undecided[n:].copy()
        while len(self._floors) > 1 and self._floors[1][0] <= self.needed_from:
            del self._floors[0]

    def _close(self, begin: int, end: int, *, forced: bool) -> list[Segment]:
        """Return the undecided frames from ``begin`` to ``end`` as a song if they are one."""
        level, loudness = self._undecided[begin:end, :2].T
        above = np.maximum(level - self.config.quiet_db, 0)
        evidence_db_s = above.sum() * self.frontend.hop_s
        if end - begin < self._n_min or evidence_db_s < self.config.min_evidence_db_s:
            return []
        if level.max() < self.config.onset_db:
            return []
        first = self.needed_from
        floor = next(floor for start, floor in reversed(self._floors) if start <= first + begin)
        snr = np.mean(10 ** (loudness / 10)) / floor.sum()
        hop, half = self.frontend.hop, self.frontend.hop // 2
        onset, offset = max(0, (first + begin) * hop - half), (first + end) * hop - half
        return [Segment(onset, offset, forced, float(10 * np.log10(snr)), np.log(floor))]
