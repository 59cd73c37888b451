"""What was found in each recording, kept on disk as soon as it is known, so that a run can be taken up again.

One JSON file per recording, written whole or not at all. It counts as done while the recording's size and time of
change, the bundle and the channel are still the same; anything else is classified again.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from songcore.errors import ConfigError
from songcore.novelty import Novelty
from songcore.quality import Quality
from songserve.archive.recordings import FoundRecording

__all__ = ["FoundSong", "Journal", "Problem", "RecordingResult", "atomic_file", "atomic_path", "create_folder"]


class FoundSong(BaseModel):
    """A song with its name, times in samples at the bundle's rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    onset: int
    offset: int
    type_id: str
    kind: Literal["song", "noise"]
    similarity: float
    p_value: float
    novelty: Novelty
    forced_cut: bool
    snr_db: float
    quality: Quality

    @property
    def novel(self) -> bool:
        """Whether it is like nothing the bundle knows."""
        return self.novelty == "novel"


class Problem(BaseModel):
    """Why a recording could not be read, or not to its end; ``reason`` is the error's stable name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    message: str


class RecordingResult(BaseModel):
    """Everything known about one classified recording."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recording: str
    size_bytes: int
    modified_ns: int
    bundle: str
    channel: int | None
    sample_rate_hz: int
    """Of the recording."""
    bundle_rate_hz: int
    """Of the songs' samples."""
    n_channels: int
    n_samples: int
    """Samples per channel that were read."""
    start: datetime | None
    """Of the first sample, as the recorder states it; without a time zone where it does not tell one."""
    songs: tuple[FoundSong, ...]
    problem: Problem | None = None
    """Set when the recording broke off; the songs before that are kept."""

    @property
    def duration_s(self) -> float:
        """Seconds that were listened to."""
        return self.n_samples / self.sample_rate_hz


class Journal:
    """The results kept under the output folder ``out``, for one bundle and one choice of channel."""

    def __init__(self, out: Path, *, bundle: str, channel: int | None) -> None:
        self.folder = out / ".songstream"
        self.bundle, self.channel = bundle, channel

    def path(self, recording: FoundRecording) -> Path:
        """Return where the recording's result is or would be."""
        key = hashlib.sha256(recording.name.encode()).hexdigest()[:32]
        return self.folder / key[:2] / f"{key}.json"

    def load(self, recording: FoundRecording) -> RecordingResult | None:
        """Return the result if it still holds, None if there is none, it is damaged, or anything changed since."""
        try:
            result = RecordingResult.model_validate_json(self.path(recording).read_bytes())
        except (OSError, ValidationError):
            return None
        kept = result.recording, result.size_bytes, result.modified_ns, result.bundle, result.channel
        now = recording.name, recording.size_bytes, recording.modified_ns, self.bundle, self.channel
        return result if kept == now else None

    def save(self, recording: FoundRecording, result: RecordingResult) -> None:
        """Keep the result; raises ConfigError OUTPUT_NOT_WRITABLE."""
        path = self.path(recording)
        create_folder(path.parent)
        with atomic_file(path) as file:
            file.write(result.model_dump_json())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the output folder, which is created; raises ConfigError OUTPUT_IN_USE when another run holds it."""
        create_folder(self.folder)
        try:
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise _not_writable(self.folder, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"another run is writing to {self.folder.parent}; wait for it or choose another --out",
                    reason="OUTPUT_IN_USE",
                ) from error
            yield


def create_folder(path: Path) -> None:
    """Create the folder and its parents where missing; raises ConfigError OUTPUT_NOT_WRITABLE."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a new, empty file beside ``path`` that takes its place, on disk, when the block ends well, else is removed.

    Raises ConfigError OUTPUT_NOT_WRITABLE when it cannot be written: a full disk, no permission.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}-", dir=path.parent)
        temporary = Path(name)
        try:
            yield temporary
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.chmod(0o644)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise _not_writable(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """Give an open UTF-8 text file on the terms of `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def _not_writable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be written ({error.strerror or error}); free space or choose another --out, then run again: "
        "what is finished is kept",
        reason="OUTPUT_NOT_WRITABLE",
    )
