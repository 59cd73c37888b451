"""A store with its queries and clips, and rows to put into it."""

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid5

import numpy as np
import pytest

from songserve.clips import ClipSound
from songserve.clips_shelf import ClipShelf
from songserve.database import DataDirectory
from songserve.queries import SongQueries
from songserve.records import AudioFormat, Commit, SessionName, SessionOpening, SessionRecord, StoredClip, StoredSong
from songserve.refusal import Refusal
from songserve.store import Store

__all__ = ["HOUR_MS", "PCM", "RATE", "START_MS", "Opened", "Shelf", "commit", "opening", "reason", "song"]

RATE = 48_000
FEATURES = np.linspace(0, 4.5, 64 * 96, dtype=np.float32).reshape(96, 64)
PCM = np.random.default_rng(0).integers(-32768, 32768, 20 * RATE).astype("<i2")

HOUR_MS = 3_600_000
START_MS = 490_000 * HOUR_MS


class Opened:
    """A data directory with its store and queries."""

    def __init__(self, path: Path, *, database_url: str | None = None, min_free_bytes: int = 0) -> None:
        self.directory = DataDirectory(path, database_url=database_url)
        self.n_transactions = 0
        self._closed = False
        self.store = Store(
            self.directory, group_window_s=0.01, min_free_bytes=min_free_bytes, observe=lambda *_: self._count()
        )
        self.queries = SongQueries(self.directory.readers)

    def _count(self) -> None:
        self.n_transactions += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self.store.close()
        self.directory.close()


def opening(number: int = 1, station: str = "north") -> SessionOpening:
    """Return the opening of a session."""
    return SessionOpening(SessionName(station, UUID(int=number)), AudioFormat("linear16", 48_000, 1, None), START_MS)


def song(record: SessionRecord, start_s: float, type_id: str = "T0001", **fields: Any) -> StoredSong:
    """Return a song of a session."""
    name = record.opening.name
    start_ms = START_MS + round(start_s * 1000)
    values: dict[str, Any] = {
        "uid": str(uuid5(name.uuid, str(start_s))),
        "station": name.station,
        "session": str(name.uuid),
        "start_ms": start_ms,
        "end_ms": start_ms + 1000,
        "onset": round(start_s * 24_000),
        "offset": round(start_s * 24_000) + 24_000,
        "sample_rate_hz": 24_000,
        "type_id": type_id,
        "kind": "song",
        "similarity": 0.5,
        "novelty_score": 0.1,
        "p_value": 0.4,
        "novelty": "known",
        "quality": "good",
        "forced_cut": False,
        "snr_db": 12.0,
        "bundle": "digest",
    }
    return StoredSong(**{**values, **fields})


def commit(record: SessionRecord, number: int, *songs: StoredSong, **fields: Any) -> Commit:
    """Return a commit up to chunk ``number``, of a second each."""
    moved = replace(
        record, committed_sequence_number=number, committed_sample=number * 48_000, state=b"state", **fields
    )
    return Commit(moved, songs, {START_MS: 1.0})


def reason(future: "Future[Any]") -> str:
    """Return the reason of a failed write."""
    with pytest.raises(Refusal) as refused:
        future.result(10)
    return refused.value.reason


class Shelf:
    """A shelf of one store, with what it was told."""

    def __init__(self, opened: Opened, **options: Any) -> None:
        self.opened, self.outcomes, self.room = opened, list[str](), True
        settings: dict[str, Any] = {"choice": "songs", "has_room": lambda: self.room, **options}
        folder = opened.directory.path / "clips"
        self.shelf = ClipShelf(folder, opened.directory.shelf, observe=self.outcomes.append, **settings)
        self.record = opened.store.open_session(opening()).result(10)
        self.number = 0

    def store(self, *songs: StoredSong) -> list[StoredClip]:
        """Store songs with clips of half a second."""
        sound = ClipSound(700, PCM[: RATE // 2], RATE, FEATURES)
        clips = self.shelf.write([(one, sound) for one in songs])
        self.number += 1
        step: Commit = commit(self.record, self.number, *songs)
        self.opened.store.commit(replace(step, clips=tuple(clip for clip in clips if clip))).result(10)
        return [clip for clip in clips if clip]

    def files(self) -> list[str]:
        """Return the uids of clips with their features, and names of anything else."""
        names = {path.name for path in self.opened.directory.path.glob("clips/*/*/*")}
        whole = {name[:-5] for name in names if name.endswith(".flac") and f"{name[:-5]}.npz" in names}
        return sorted(whole | {name for name in names if name.rsplit(".", 1)[0] not in whole})

    def clean(self) -> int:
        """Clean as a start does."""
        store, _ = self.opened.queries.position()
        return self.shelf.clean(store, self.opened.queries.clip_shelves)
