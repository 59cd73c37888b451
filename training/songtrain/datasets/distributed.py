"""Recordings to features by Ray Data, one task per few files, cached and resumable; a bad file is reported and skipped."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.data
from ray.exceptions import RayError, RayTaskError

from songcore.errors import ConfigError, SongError
from songcore.stream import StreamConfig
from songtrain.datasets.cache import cache_key, load_cached, pack, store_cached, unpack
from songtrain.datasets.extract import extract_songs
from songtrain.datasets.folder import RecordingFile
from songtrain.datasets.songs import RecordingSongs, SongSet, join_recordings

__all__ = ["FeatureRun", "Skipped", "extract_features"]

MAX_BLOCKS = 64


@dataclass(frozen=True)
class Skipped:
    """A recording that could not be used, and why."""

    recording: str
    reason: str
    message: str


@dataclass(frozen=True)
class FeatureRun:
    """All songs of a data set, and what was left out."""

    songs: SongSet
    skipped: tuple[Skipped, ...]
    n_cached: int
    """Recordings whose features were on disk already."""
    n_behind: int = 0
    """Annotations that begin behind the end of their recording."""

    @property
    def left_out(self) -> str:
        """What was left out and why, in words; empty when it is nothing."""
        words = []
        if self.skipped:
            first = self.skipped[0]
            words.append(
                f"{len(self.skipped)} recordings were skipped, the first of them {first.recording}: {first.message}"
            )
        if self.n_behind:
            words.append(f"{self.n_behind} annotations begin behind the end of their recordings; times are seconds")
        return "; ".join(words)


def extract_features(
    recordings: Sequence[RecordingFile],
    stream: StreamConfig,
    cache: Path,
    *,
    channel: int | None = None,
    on_recording: Callable[[], None] = lambda: None,
) -> FeatureRun:
    """Return the songs of all recordings, in their order; needs a Ray connection.

    Raises ConfigError when the cache cannot be written, or a task is lost again and again.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    extract = partial(_extract_row, stream=stream, cache=cache.absolute(), channel=channel)
    # Each task gets its own recordings' annotations and no others: reading thousands takes longer than a recording.
    items = [{"index": index, "file": file} for index, file in enumerate(recordings)]
    rows = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS)).map(extract)
    found: dict[int, RecordingSongs] = {}
    skipped: dict[int, Skipped] = {}
    n_cached = 0
    for row in _told(rows.iter_rows()):
        index, name = int(row["index"]), recordings[int(row["index"])].name
        if row["reason"] == "WORK_UNWRITABLE":
            raise ConfigError(str(row["message"]), reason=str(row["reason"]))
        if row["reason"]:
            skipped[index] = Skipped(name, str(row["reason"]), str(row["message"]))
        else:
            found[index] = unpack(row["content"], name)
            n_cached += int(row["was_cached"])
        on_recording()
    songs = join_recordings((found[index] for index in sorted(found)), stream.frontend.n_mels)
    # Of every other annotation there is a song.
    n_behind = sum(
        len(annotations) - len(found[index].places)
        for index, file in enumerate(recordings)
        if index in found and (annotations := file.annotations) is not None
    )
    return FeatureRun(songs, tuple(skipped[index] for index in sorted(skipped)), n_cached, n_behind)


def _told(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows; of tasks that Ray gives up, as of a recording that is too long for the memory, say what to do."""
    try:
        yield from rows
    except RayTaskError:  # raised by what the task does: a fault of songstream, whose place is told
        raise
    except RayError as error:
        raise ConfigError(
            f"a task was lost again and again ({' '.join(str(error).split())[:200]}); look after the nodes' memory, then give "
            "the same command again: what is finished is kept",
            reason="WORKERS_LOST",
        ) from error


def _extract_row(row: dict[str, Any], *, stream: StreamConfig, cache: Path, channel: int | None) -> dict[str, Any]:
    file: RecordingFile = row["file"]
    result = {"index": row["index"], "content": b"", "was_cached": False, "reason": "", "message": ""}
    try:
        key = cache_key(file.path, file.annotations, stream, channel, keep_borders=file.keep_borders)
        content = load_cached(cache, key)
        result["was_cached"] = content is not None
        if content is None:
            songs = extract_songs(
                file.path, file.name, file.annotations, stream, channel, keep_borders=file.keep_borders
            )
            content = pack(songs)
            store_cached(cache, key, content)
        return result | {"content": content}
    except SongError as error:
        return result | {"reason": error.reason, "message": str(error)}
    except OSError as error:
        return result | {"reason": "NOT_READABLE", "message": f"{file.path} cannot be read ({error.strerror})"}
