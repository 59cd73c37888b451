"""What the encoder sees of a song: its log-mel frames above the noise floor.

Subtracting the per-band floor removes the recorder's colour and every stationary noise, and clipping there removes what
the noise itself looks like; both matter as much as training does. Silence is exactly 0, so padding a song with zeros
is padding it with silence.

The floor is learned before the song from the quietest moments, so a forest that comes and goes still stands above it. What
a band holds for a good part of the song itself is taken for such background, too, and subtracted (``steady_share``): noisy
songs become more alike than by any training, and most notes lose nothing, since few bands sound for so long. A whistle
that does is kept by ``steady_below_db``.

Sounds that never pause, such as rain or an engine, are themselves their noise floor. For those the loudest point of each
stretch is the reference instead of the floor: one level for all bands and frames.
"""

from io import BytesIO
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from songcore.arrays import FloatArray
from songcore.errors import InputError
from songcore.frontend import DB_PER_UNIT, FrontendConfig

__all__ = ["FeatureConfig", "pack_features", "song_features", "unpack_features"]

SCALE_DB = 10.0
"""Decibels in one unit of the features: a constant, so that a song's features depend on that song alone."""


class FeatureConfig(BaseModel):
    """How a song's frames become the encoder's input; part of the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: Literal["noise", "loudest"] = "noise"
    """What levels count from: up from the noise floor of each band, or down from the song's loudest point."""
    margin_db: float = Field(default=3.0, ge=0, le=40)
    """Counts as silence up to this far above the noise floor."""
    steady_share: float | None = Field(default=None, gt=0, lt=1)
    """The level that a band exceeds for this part of the song counts as noise, too; None: only the noise floor does."""
    steady_below_db: float = Field(default=25.0, ge=0, le=120)
    """But at most up to this far below the song's loudest point."""
    range_db: float = Field(default=45.0, gt=0, le=120)
    """Louder than this above the margin is clipped; fainter than this below the loudest point is silence."""
    max_song_s: float = Field(default=11.0, gt=0, le=60)
    """What follows is not looked at; 11 s covers every nightingale song."""
    bucket_frames: int = Field(default=32, ge=1, le=1024)
    """Songs are padded with silence to a multiple of this, so that batches of equal length form."""


def song_features(frames: FloatArray, floor: FloatArray, frontend: FrontendConfig, config: FeatureConfig) -> FloatArray:
    """Return (n_padded, n_mels) float32 in units of 10 dB above the noise floor or the lowest level kept, 0 for silence.

    ``frames`` (n, n_mels) are the song's own log-mel frames, ``floor`` (n_mels,) the noise floor at its onset in the
    same natural-log units. n_padded is the next multiple of ``bucket_frames``: it depends on this song alone.
    """
    frames = frames[: frontend.n_frames(config.max_song_s)]
    if config.reference == "loudest":
        above_db = (frames - frames.max(initial=-np.inf)) * np.float32(DB_PER_UNIT) + np.float32(config.range_db)
    else:
        above_db = (frames - floor) * np.float32(DB_PER_UNIT) - np.float32(config.margin_db)
        if config.steady_share is not None and len(frames):
            above_db -= _steady_db(above_db, config.steady_share, config.steady_below_db)
    features = np.clip(above_db, 0, config.range_db) / np.float32(SCALE_DB)
    n_padded = max(1, -(-len(frames) // config.bucket_frames)) * config.bucket_frames
    return np.pad(features, ((0, n_padded - len(frames)), (0, 0))).astype(np.float32, copy=False)


def pack_features(features: FloatArray) -> bytes:
    """Return features (n_frames, n_mels) as an npz file, float16: a unit is 10 dB, so that is exact to 0.03 dB."""
    file = BytesIO()
    # Compressing them to a third takes eight times as long, and the clip beside them has eight times their size.
    np.savez(file, features=features.astype("<f2"))
    return file.getvalue()


def unpack_features(content: bytes) -> FloatArray:
    """Return the features (n_frames, n_mels) float32 of what `pack_features` gave; raises InputError FEATURES_DAMAGED."""
    try:
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            features = arrays["features"]
    except (BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
        raise InputError(
            f"the features cannot be read ({error}); delete the file, the sound is in the clip beside it",
            reason="FEATURES_DAMAGED",
        ) from error
    if features.dtype != np.dtype("<f2") or features.ndim != 2:
        raise InputError(
            f"the features are {features.dtype} {features.shape}, expected float16 along frames and bands; delete the file",
            reason="FEATURES_DAMAGED",
        )
    return np.asarray(features, np.float32)


def _steady_db(above_db: FloatArray, share: float, below_db: float) -> FloatArray:
    """Return the level (n_mels,) above zero that the bands of (n_frames, n_mels) exceed in ``share`` of the frames."""
    rank = len(above_db) - 1 - int(share * len(above_db))
    level: FloatArray = np.partition(above_db, rank, axis=0)[rank]
    limit = max(0.0, float(above_db.max()) - below_db)
    return np.clip(level, 0, np.float32(limit))
