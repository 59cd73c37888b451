"""The rows that a command wants, those that its folder holds already, and the lock that keeps other commands away."""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from inspect import getfile
from pathlib import Path
from typing import Any

import numpy as np

from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongSet
from songtrain.lab.options import n_clusters_given
from songtrain.lab.parts import describe
from songtrain.lab.results import Key, Row, read_rows, write_rows
from songtrain.lab.systems import System

__all__ = ["Ledger", "Trial", "code_digest", "held_folder", "plan_trial", "song_digest"]


_NOT_IN_ROWS = ("archive", "commands", "export", "recluster", "report", "synth")


@dataclass(frozen=True)
class Trial:
    """A row that is wanted: the system that makes it, and everything of it but the result."""

    system: System
    blank: Row


def plan_trial(
    system: System, seed: int, songs: SongSet, digest: str, stream: StreamConfig, swept: dict[str, Any] | None = None
) -> Trial:
    """Return the trial of a system, which has what was ``swept`` already in its parameters, with a seed."""
    blank = Row(
        system.name,
        seed,
        describe(system, stream),
        digest,
        len(songs),
        parameters=swept or {},
        n_clusters_given=n_clusters_given(system),
        code=code_digest(),
    )
    return Trial(system, blank)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a name for the code of all packages that have a part in what a row says."""
    digest = blake2b(digest_size=16)
    for root in (Path(getfile(StreamConfig)).parent, Path(__file__).parents[1]):
        for path in sorted(root.rglob("*.py")):
            if path.relative_to(root).parts[0] not in _NOT_IN_ROWS:
                digest.update(path.read_bytes())
    return digest.hexdigest()


class Ledger:
    """The rows of a folder, written anew with every row that is added."""

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        self._rows = {row.key: row for row in read_rows(folder)}
        if any(row.songs != digest for row in self._rows.values()):
            raise ConfigError(
                f"{folder} holds results of other songs; choose another folder, or delete it", reason="OUTPUT_EXISTS"
            )

    def __getitem__(self, key: Key) -> Row:
        return self._rows[key]

    def knows(self, trial: Trial) -> bool:
        """Whether there is a row by the trial's very parameters, failed or not."""
        row = self._rows.get(trial.blank.key)
        return row is not None and row.description == trial.blank.description

    def has(self, trial: Trial) -> bool:
        """Whether the trial's row is there without error."""
        return self.knows(trial) and not self[trial.blank.key].error

    def missing(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials that have to be run."""
        return [trial for trial in trials if not self.has(trial)]

    def add(self, row: Row) -> None:
        """Put the row on disk with all others; ConfigError when the disk does not take it."""
        self._rows[row.key] = row
        write_rows(self._folder, self._rows.values())


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold the folder for this command; ConfigError OUTPUT_IN_USE while another does, OUTPUT_NOT_WRITABLE when it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder} ({error.strerror}); choose another folder or fix its owner",
            reason="OUTPUT_NOT_WRITABLE",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another `songstream lab` is writing to {folder}; wait for it, or choose another folder",
                reason="OUTPUT_IN_USE",
            ) from error
        yield


def song_digest(songs: SongSet) -> str:
    """Return a name for the songs that changes with their features, order and labels."""
    digest = blake2b(digest_size=16)
    digest.update(songs.lengths.tobytes() + np.ascontiguousarray(songs.frames).tobytes())
    digest.update("\n".join(songs.labels).encode())
    return digest.hexdigest()
