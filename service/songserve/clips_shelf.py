"""Clips as files: one FLAC per song, in a folder per hour. A file is on the disk before the row that names it.

So a row always has its file; a crash in between leaves a file without a row, which the next start deletes. When a clip is
deleted the row goes first, for the same reason.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

import soundfile

from songserve.clips import ClipSound
from songserve.records import ClipChoice, StoredClip, StoredSong

__all__ = ["ClipShelf", "WritingOutcome"]

log = logging.getLogger(__name__)

WritingOutcome = Literal["written", "kept", "disk_low", "failed"]
QUERY_SIZE = 500
_START_SAMPLE = "start_sample="
COMPRESSION = 0.0
"""Of FLAC, from 0 to 1: 0 takes half the time of the usual 0.5, for some 2 % more bytes of field recordings."""


class ClipShelf:
    """The folder of one data directory's clips.

    ``shelf`` is its name in the database, ``has_room`` tells whether there is room for more; ``observe`` is told of every
    clip.
    """

    def __init__(
        self,
        folder: Path,
        shelf: str,
        *,
        choice: ClipChoice,
        has_room: Callable[[], bool],
        observe: Callable[[WritingOutcome], None],
    ) -> None:
        self._folder, self.shelf, self._choice = folder, shelf, choice
        self._has_room, self._observe = has_room, observe

    def wants(self, song: StoredSong) -> bool:
        """Return whether a song shall have a clip."""
        if self._choice == "songs":
            return song.kind == "song"
        return self._choice == "all" or (self._choice == "novel" and song.is_novel and song.kind == "song")

    def write(self, song: StoredSong, sound: ClipSound) -> StoredClip | None:
        """Put a clip on the disk and return its row; None, and a line in the log, when that fails: the song goes on.

        A song that is heard again after a reconnect keeps the clip it has.
        """
        if not self._has_room():
            self._observe("disk_low")
            return None
        try:
            path = self.path(song.start_ms, song.uid)
            outcome: WritingOutcome = "kept" if path.exists() else "written"
            if outcome == "written":
                _write_file(path, song, sound)
            clip = self._row(song, path)
        except (OSError, OverflowError, ValueError, soundfile.LibsndfileError) as error:
            log.warning("song %s is stored without its clip: %s", song.uid, error)
            self._observe("failed")
            return None
        self._observe(outcome)
        return clip

    def _row(self, song: StoredSong, path: Path) -> StoredClip:
        """Return what a finished file says of itself."""
        with soundfile.SoundFile(path) as file:
            return StoredClip(
                song=song.uid,
                shelf=self.shelf,
                song_start_ms=song.start_ms,
                start_sample=int(file.comment.removeprefix(_START_SAMPLE)),
                n_samples=file.frames,
                sample_rate_hz=file.samplerate,
                n_bytes=path.stat().st_size,
            )

    def path(self, song_start_ms: int, uid: str) -> Path:
        """Return where a song's clip is. Both values are a row's: nothing that a caller sent becomes part of a path."""
        start = datetime.fromtimestamp(song_start_ms / 1000, UTC)
        return self._folder / f"{start:%Y-%m-%d}" / f"{start:%H}" / f"{uid}.flac"

    def open(self, clip: StoredClip) -> BinaryIO:
        """Return the file of a clip; raises OSError when it is not there."""
        # What is a link was not put there by the service.
        handle = os.open(self.path(clip.song_start_ms, clip.song), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return os.fdopen(handle, "rb")

    def delete(self, clip: StoredClip) -> None:
        """Delete the file of a clip whose row is gone, and folders that it leaves empty."""
        path = self.path(clip.song_start_ms, clip.song)
        path.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            try:
                folder.rmdir()
            except OSError:
                return

    def files(self) -> Iterator[list[Path]]:
        """Give all finished clips, some hundreds at a time."""
        for hour in sorted(self._folder.glob("*/*")):
            found = sorted(path for path in hour.iterdir() if path.suffix == ".flac")
            for first in range(0, len(found), QUERY_SIZE):
                yield found[first : first + QUERY_SIZE]

    def clean(self, with_row: Callable[[Sequence[str]], set[str]], *, n_rows: int) -> int:
        """Delete what a crash left: unfinished files, and those without a row; return how many.

        With no rows at all, of ``n_rows``, nothing is deleted but a warning given: more likely than a crash is that this is
        another database than the clips were made with. To be called before anything is written.
        """
        unfinished = list(self._folder.glob("*/*/*.tmp"))
        for path in unfinished:
            path.unlink(missing_ok=True)
        n_orphans = 0
        for paths in self.files():
            if not n_rows:
                log.warning("%s holds clips and the database knows none of them; they are left alone", self._folder)
                return len(unfinished)
            known = with_row([path.stem for path in paths])
            for path in paths:
                if path.stem not in known:
                    path.unlink(missing_ok=True)
                    n_orphans += 1
        if n_orphans or unfinished:
            log.info("deleted %d clips that a crash left without their songs", n_orphans + len(unfinished))
        return n_orphans + len(unfinished)


def _write_file(path: Path, song: StoredSong, sound: ClipSound) -> None:
    """Make the file appear whole or not at all; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    try:
        with unfinished.open("w+b") as raw:
            with soundfile.SoundFile(
                raw, "w", sound.sample_rate_hz, 1, "PCM_16", format="FLAC", compression_level=COMPRESSION
            ) as file:
                # Who finds the file without the database learns what it is.
                file.title, file.artist = f"songs/{song.uid}", f"stations/{song.station}"
                file.comment = f"{_START_SAMPLE}{sound.start_sample}"
                file.write(sound.samples)
            raw.flush()
            os.fsync(raw.fileno())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
