"""Whether a song shows well enough what it is to found a type: whole, undistorted, loud and not covered, from itself alone.

A catalogue grows out of songs that it does not know. Wind, handling and far birds are unlike anything known as well, so what
fails here is stored and named like any other song but founds nothing.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from songcore.arrays import FloatArray
from songcore.frontend import DB_PER_UNIT

__all__ = ["FULL_SCALE", "FullScale", "Quality", "QualityConfig", "crowding", "grade"]

Quality = Literal["good", "faint", "clipped", "overlapped", "short", "ungraded"]
"""The first thing that is wrong, in this order: short, clipped, faint, overlapped. Ungraded: nobody looked."""

FULL_SCALE = np.float32(32767 / 32768)
SOUNDING_DB = 20.0
"""Frames within this of the song's loudest count as sounding."""
NEAR_DB = 20.0
"""Bands within this of a frame's loudest sound with it."""


class QualityConfig(BaseModel):
    """What a good song is; part of the bundle. The defaults let nearly everything pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_song_s: float = Field(default=0.0, ge=0)
    """Shorter is short."""
    max_clipped_share: float = Field(default=0.002, ge=0, le=1)
    """Clipped with more of its samples at full scale than this."""
    min_snr_db: float = Field(default=-60.0, ge=-60, le=60)
    """Faint with a lower ratio of song to noise."""
    max_crowding: float = Field(default=1.0, ge=0, le=1)
    """Overlapped when more of the bands than this sound at once, on average, or when it had to be cut for its length."""


class FullScale:
    """Counts the samples at full scale of one stream, by the frames they fall in; ``start`` is the first input sample."""

    def __init__(self, rate_in: int, rate_out: int, hop: int, *, start: int = 0) -> None:
        self._rate_out, self._cell, self._hop = rate_out, rate_in * hop, hop
        self._n_in = start
        self._counts: dict[int, int] = {}

    def push(self, samples: FloatArray) -> None:
        """Take in samples (n,) float32; nearly always this only looks for the highest and the lowest."""
        if len(samples) and max(samples.max(), -samples.min()) >= FULL_SCALE:
            at = np.flatnonzero(np.abs(samples) >= FULL_SCALE) + self._n_in
            for cell, n in zip(*np.unique(at * self._rate_out // self._cell, return_counts=True), strict=True):
                self._counts[int(cell)] = self._counts.get(int(cell), 0) + int(n)
        self._n_in += len(samples)

    def share(self, onset: int, offset: int) -> float:
        """Return the part of the samples from onset to offset, at the rate of songs, that are at full scale."""
        if not self._counts:
            return 0.0
        cells = range(onset // self._hop, -(-offset // self._hop))
        n_samples = len(cells) * self._cell / self._rate_out
        return sum(self._counts.get(cell, 0) for cell in cells) / max(1.0, n_samples)

    def forget(self, frame: int) -> None:
        """Drop what lies before a frame."""
        if self._counts:
            self._counts = {cell: n for cell, n in self._counts.items() if cell >= frame}


def grade(
    frames: FloatArray,
    floor: FloatArray,
    config: QualityConfig,
    *,
    duration_s: float,
    snr_db: float,
    clipped_share: float,
    forced_cut: bool,
) -> Quality:
    """Return the quality of a song of log-mel frames (n, n_mels) over its noise floor (n_mels,)."""
    if duration_s < config.min_song_s:
        return "short"
    if clipped_share > config.max_clipped_share:
        return "clipped"
    if snr_db < config.min_snr_db:
        return "faint"
    if forced_cut or (config.max_crowding < 1 and crowding(frames, floor) > config.max_crowding):
        return "overlapped"
    return "good"


def crowding(frames: FloatArray, floor: FloatArray) -> float:
    """Return the part of the bands that sound at once, averaged over the sounding frames, in [0, 1].

    Wind, rain and blows to the microphone fill most bands, a bird's song hardly ever does. Two birds of about the same level
    are not told from one by this, nor by any simple look at the spectrum that was tried.
    """
    if not len(frames):
        return 0.0
    above_db = (frames - floor) * np.float32(DB_PER_UNIT)
    peaks = above_db.max(axis=1)
    sounding = peaks >= peaks.max() - SOUNDING_DB
    near = above_db[sounding] >= peaks[sounding, None] - NEAR_DB
    return float(near.mean())
