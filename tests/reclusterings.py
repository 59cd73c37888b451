"""Jobs that recluster a store of made-up songs, one type of which no bundle knows."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bundles import N_TYPES, soundscape, stream_config
from seasons import store_url
from songcore.arrays import FloatArray
from songcore.stream import SongStream
from songtrain.recluster.job import ReclusterJob
from songtrain.recluster.run_folder import RunState
from songtrain.recluster.settings import ReclusterSettings

__all__ = ["NEW", "candidate", "job", "sung"]

NEW = N_TYPES - 1
"""The type that the test bundle does not know."""
NOW = datetime(2026, 6, 1, 2, 30, tzinfo=UTC)


def sung(numbers: list[int], seed: int) -> list[FloatArray]:
    """Return the features of songs of these types."""
    if not numbers:
        return []
    stream = SongStream(stream_config(), 24_000)
    samples, _ = soundscape(numbers, seed)
    songs = [*stream.push(samples), *stream.finish()]
    assert len(songs) == len(numbers)
    return [one.features for one in songs]


def job(folder: Path, bundle: Path, run: str = "night-1", **fields: Any) -> ReclusterJob:
    """Return a job of a data directory's store."""
    values: dict[str, Any] = {
        "store": store_url(folder),
        "bundle": bundle,
        "models": folder / "models",
        "work": folder / "reclusterings",
        "run": run,
        "mode": "quick",
        "settings": ReclusterSettings(),
        "created_by": "a test",
        "now": lambda: NOW,
    }
    return ReclusterJob(**{**values, **fields})


def candidate(folder: Path, state: RunState) -> Path:
    """Return where the proposed bundle is."""
    assert state.candidate is not None
    return folder / "models" / state.candidate
