"""Clips as files: one FLAC per song, in a folder per hour, and beside it what the encoder saw of the song, in an npz file.

Both are on the disk before the row that names them.

So a row always has its file; a crash in between leaves a file without a row, which the next start deletes. When a clip is
deleted the row goes first, for the same reason.

Clips of many streams are written together, step by step: every file is on its way to the disk before the first one is waited
for, and the names in a folder are flushed once for all of them (`clips_writing`).
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

import soundfile

from songcore.arrays import FloatArray
from songcore.durable import replace_file, sync
from songcore.features import unpack_features
from songserve.clips import ClipSound
from songserve.clips_writing import START_SAMPLE, Folders, NewClip
from songserve.records import ClipChoice, StoredClip, StoredSong

__all__ = [
    "ClipShelf",
    "WantedClip",
    "WritingOutcome",
    "adopt_clips",
    "clip_path",
    "features_path",
    "kept_features",
    "start_sample",
]

log = logging.getLogger(__name__)

WantedClip = tuple[StoredSong, ClipSound]
WritingOutcome = Literal["written", "kept", "disk_low", "failed"]
QUERY_SIZE = 500
CLIP_SUFFIX, FEATURES_SUFFIX = ".flac", ".npz"
OWNER_NAME = "store"


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
        self._on_disk: set[Path] = set()
        """Folders whose names are on the disk, as far as this process knows."""
        self._in_use: set[Path] = set()
        """Folders that clips are being written into, and that stay though they are empty."""
        self._lock = threading.Lock()

    def wants(self, song: StoredSong) -> bool:
        """Return whether a song shall have a clip."""
        if self._choice == "songs":
            return song.kind == "song"
        return self._choice == "all" or (self._choice == "novel" and song.novelty != "known")

    def write(self, songs: Sequence[WantedClip]) -> list[StoredClip | None]:
        """Put clips on the disk and return their rows; None, and a line in the log, for one that fails: its song goes on.

        A song that is heard again after a reconnect keeps the clip it has. For one thread at a time and some tens of songs:
        all their files are open at once.
        """
        if not self._has_room():
            for _ in songs:
                self._observe("disk_low")
            return [None] * len(songs)
        try:
            return self._write(songs)
        finally:
            with self._lock:
                self._in_use.clear()

    def _write(self, songs: Sequence[WantedClip]) -> list[StoredClip | None]:
        clips: dict[str, StoredClip] = {}
        # By their names: a song may come from two streams, of which the store will refuse the older one.
        new: dict[str, NewClip] = {}
        for song, sound in songs:
            if song.uid in clips or song.uid in new:
                continue
            # With the lock: of a clip that is deleted just now there are both files, or none.
            with self._kept_apart(song.uid), self._lock:
                path = self.path(song.start_ms, song.uid)
                if path.exists():
                    clips[song.uid] = self._found(song, path)
                    self._observe("kept")
                else:
                    self._make_folder(path.parent)
                    new[song.uid] = NewClip(path, features_path(path), song, sound)
        folders = Folders()
        for step in (NewClip.write, NewClip.flush, NewClip.appear, folders.flush_around, NewClip.close):
            for uid, clip in list(new.items()):
                with self._kept_apart(uid):
                    step(clip)
                    continue
                new.pop(uid).take_back()
        for uid, clip in new.items():
            clips[uid] = clip.row(self.shelf)
            self._observe("written")
        return [clips.get(song.uid) for song, _ in songs]

    @contextmanager
    def _kept_apart(self, uid: str) -> Iterator[None]:
        """Let what fails with one song cost its clip alone, whatever it is: its song and the others go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            log.warning("song %s is stored without its clip: %s: %s", uid, type(error).__name__, error)
            self._observe("failed")

    def _make_folder(self, hour: Path) -> None:
        """Have the folder of an hour until the clips are written, with its name and those above it on the disk."""
        self._in_use.add(hour)
        hour.mkdir(parents=True, exist_ok=True)
        if hour not in self._on_disk:
            for folder in (hour.parent, self._folder, self._folder.parent):
                sync(folder)
            self._on_disk.add(hour)

    def _found(self, song: StoredSong, path: Path) -> StoredClip:
        """Return what a finished file says of itself."""
        features = features_path(path)
        with soundfile.SoundFile(path) as file:
            return StoredClip(
                song=song.uid,
                shelf=self.shelf,
                song_start_ms=song.start_ms,
                start_sample=start_sample(file),
                n_samples=file.frames,
                sample_rate_hz=file.samplerate,
                n_bytes=path.stat().st_size,
                feature_bytes=features.stat().st_size if features.exists() else 0,
            )

    def path(self, song_start_ms: int, uid: str) -> Path:
        """Return where a song's clip is. Both values are a row's: nothing that a caller sent becomes part of a path."""
        return clip_path(self._folder, song_start_ms, uid)

    def open(self, clip: StoredClip) -> BinaryIO:
        """Return the file of a clip; raises OSError when it is not there."""
        # What is a link was not put there by the service.
        handle = os.open(self.path(clip.song_start_ms, clip.song), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return os.fdopen(handle, "rb")

    def delete(self, clip: StoredClip) -> None:
        """Delete the files of a clip whose row is gone, and folders that they leave empty."""
        path = self.path(clip.song_start_ms, clip.song)
        with self._lock:
            path.unlink(missing_ok=True)
            features_path(path).unlink(missing_ok=True)
            if path.parent in self._in_use:
                return
            with suppress(OSError):
                path.parent.rmdir()
                self._on_disk.discard(path.parent)
                path.parent.parent.rmdir()

    def clean(self, store: str, shelves: Callable[[Sequence[str]], Mapping[str, str]]) -> int:
        """Delete what a crash left: unfinished files, and those without a row; return how many.

        ``shelves`` gives the data directory of each song's clip, by uid, for those that have a row. A file whose row names
        another one stays, with a warning. Where the clips were made with another store than this, of another identity, and
        some have no row, nothing is deleted but a warning given. To be called before anything is written.
        """
        unknown: list[Path] = []
        elsewhere = Counter[str]()
        for paths in self._files():
            found = shelves([path.stem for path in paths])
            unknown += [path for path in paths if path.stem not in found]
            # Each of a clip's two files would count.
            elsewhere.update(found[path.stem] for path in paths if path.suffix == CLIP_SUFFIX and path.stem in found)
        self._warn_of_shelves(elsewhere)
        if unknown and self._owner() not in {None, store}:
            log.warning(
                "%s was filled by another store than this, and %d files there are of songs without a clip in this one; they "
                "are left alone. To have them deleted at the next start, and no clip that this store has, delete %s",
                self._folder,
                len(unknown),
                self._folder / OWNER_NAME,
            )
            return 0
        adopt_clips(self._folder, store)
        left = [*self._folder.glob("*/*/*.tmp"), *unknown]
        for path in left:
            path.unlink(missing_ok=True)
        if left:
            log.info("deleted %d files that a crash left without their songs", len(left))
        return len(left)

    def _warn_of_shelves(self, found: Mapping[str, int]) -> None:
        """Tell of clips that the store has in other data directories than this, by those ``found`` here in each."""
        for shelf in found.keys() - {self.shelf}:
            log.warning(
                "%d clips in %s cannot be read: the store has them in the data directory %s, and this one is %s%s",
                found[shelf],
                self._folder,
                shelf,
                self.shelf,
                # Where there are some of its own, its name is right: these songs came to another server as well.
                ""
                if found.get(self.shelf)
                else f". If this one has taken that one's place, stop the server, write {shelf} "
                f"into {self._folder.parent / 'shelf'}, and start it again",
            )

    def _files(self) -> Iterator[list[Path]]:
        """Give all finished files, some hundreds at a time."""
        for hour in sorted(self._folder.glob("*/*")):
            found = sorted(path for path in hour.iterdir() if path.suffix in {CLIP_SUFFIX, FEATURES_SUFFIX})
            for first in range(0, len(found), QUERY_SIZE):
                yield found[first : first + QUERY_SIZE]

    def _owner(self) -> str | None:
        file = self._folder / OWNER_NAME
        # Empty is what a power cut leaves of a file that was not on the disk yet.
        return (file.read_text().strip() or None) if file.exists() else None


def adopt_clips(folder: Path, store: str) -> None:
    """Write down that the clips of a folder belong to a store."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / OWNER_NAME, f"{store}\n".encode(), mode=0o644)


def start_sample(file: soundfile.SoundFile) -> int:
    """Return the first sample of an open clip, counted from the session's start at the clip's rate.

    Raises ValueError when the file is none of ours.
    """
    return int(file.comment.removeprefix(START_SAMPLE))


def clip_path(folder: Path, song_start_ms: int, uid: str) -> Path:
    """Return where a song's clip is in the folder of a data directory's clips."""
    start = datetime.fromtimestamp(song_start_ms / 1000, UTC)
    return folder / f"{start:%Y-%m-%d}" / f"{start:%H}" / f"{uid}{CLIP_SUFFIX}"


def kept_features(clip: Path) -> FloatArray | None:
    """Return what the encoder saw of a clip's song, (n_frames, n_mels) float32, or None where it was not kept.

    Raises InputError FEATURES_DAMAGED.
    """
    try:
        return unpack_features(features_path(clip).read_bytes())
    except FileNotFoundError:
        return None


def features_path(clip: Path) -> Path:
    """Return where the features of a clip's song are."""
    return clip.with_suffix(FEATURES_SUFFIX)
