"""Which recordings an archive holds."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from songcore.audio import AUDIO_SUFFIXES, recordings_below
from songcore.errors import InputError

__all__ = ["FoundRecording", "find_recordings"]


@dataclass(frozen=True, slots=True)
class FoundRecording:
    """A recording on disk; size and time of change tell whether it is still the one that was classified before."""

    name: str
    """Path below the folder that was asked for, with forward slashes; what every table calls it."""
    path: Path
    size_bytes: int
    modified_ns: int


def find_recordings(paths: Sequence[Path]) -> list[FoundRecording]:
    """Return the recordings among files and, recursively, folders, each once, ordered by name.

    A folder contributes what `recordings_below` finds; a file is taken whatever it is called. Names are relative to the
    folder, or to what several paths have in common. Raises InputError NOT_FOUND for a path that does not exist,
    NO_RECORDINGS when there is nothing to do.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; expected a recording or a folder of them", reason="NOT_FOUND")
    root = _common_root(paths)
    found: dict[Path, FoundRecording] = {}
    for file in (file for path in paths for file in _files(path)):
        status = file.stat()
        found.setdefault(file, FoundRecording(_name(file, root), file, status.st_size, status.st_mtime_ns))
    if not found:
        raise InputError(
            f"no recordings in {', '.join(str(path) for path in paths)}; looked for {', '.join(sorted(AUDIO_SUFFIXES))}",
            reason="NO_RECORDINGS",
        )
    return sorted(found.values(), key=lambda recording: recording.name)


def _common_root(paths: Iterable[Path]) -> Path:
    return Path(os.path.commonpath([_absolute(path if path.is_dir() else path.parent) for path in paths]))


def _absolute(path: Path) -> Path:
    # Not resolve(): a link keeps the name people gave it.
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps '..'


def _files(path: Path) -> list[Path]:
    path = _absolute(path)
    return recordings_below(path) if path.is_dir() else [path]


def _name(file: Path, root: Path) -> str:
    """Return the name for tables, which are UTF-8: bytes of another encoding become question marks."""
    return os.fsencode(file.relative_to(root).as_posix()).decode("utf-8", "replace")
