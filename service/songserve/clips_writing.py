"""One clip's files on their way to the disk, step by step, so that the steps of many clips are taken together."""

import os
from contextlib import suppress
from pathlib import Path

import soundfile

from songcore.durable import sync
from songcore.features import pack_features
from songserve.clips import ClipSound
from songserve.records import StoredClip, StoredSong

__all__ = ["START_SAMPLE", "Folders", "NewClip"]

START_SAMPLE = "start_sample="
"""Before the first sample's number, in the comment of a clip."""


class _Flac(soundfile.SoundFile):  # type: ignore[misc]  # soundfile ships no types
    """A sound file that does not wait for the disk when it is closed: at that moment it is not whole yet."""

    def flush(self) -> None:
        """Leave it to who flushes many files."""


def _write_flac(handle: int, song: StoredSong, sound: ClipSound) -> None:
    # By its handle: a file of Python's would be called back for every block, with the interpreter's lock each time.
    with _Flac(handle, "w", sound.sample_rate_hz, 1, "PCM_16", format="FLAC", closefd=False) as file:
        # Who finds the file without the database learns what it is.
        file.title, file.artist = f"songs/{song.uid}", f"stations/{song.station}"
        file.comment = f"{START_SAMPLE}{sound.start_sample}"
        file.write(sound.samples)


def _n_samples_told(handle: int) -> int:
    """Return how many samples a FLAC file says it has: the last 36 of these bits of its first block (RFC 9639, 8.2)."""
    return int.from_bytes(os.pread(handle, 8, 18), "big") & (2**36 - 1)


class NewClip:
    """The two files of a song, which appear whole or not at all.

    They are on the disk after `write`, `flush`, `appear` and a flush of their folder; after what fails comes `take_back`.
    """

    def __init__(self, path: Path, features_path: Path, song: StoredSong, sound: ClipSound) -> None:
        self._song, self._sound = song, sound
        self.folder = path.parent
        # The sound is the last to appear, as it says that all is there.
        self._features, self._flac = self._files = _NewFile(features_path), _NewFile(path)

    def write(self) -> None:
        """Write both, without waiting for the disk."""
        self._features.open()
        self._features.write(pack_features(self._sound.features))
        self._features.begin_flush()
        self._flac.open()
        _write_flac(self._flac.handle, self._song, self._sound)
        # libsndfile tells nobody that the disk took no more when it closed the file.
        if (told := _n_samples_told(self._flac.handle)) != len(self._sound.samples):
            raise OSError(f"the file has {told} of {len(self._sound.samples)} samples")
        self._flac.begin_flush()

    def flush(self) -> None:
        """Wait until the disk has both."""
        for file in self._files:
            file.flush()

    def appear(self) -> None:
        """Give both their names."""
        for file in self._files:
            file.appear()

    def close(self) -> None:
        """Let go of both."""
        for file in self._files:
            file.close()

    def take_back(self) -> None:
        """Close and delete what there is of them; what cannot be deleted the next start does."""
        for file in reversed(self._files):
            with suppress(OSError):
                file.take_back()

    def row(self, shelf: str) -> StoredClip:
        """Return what the database has of it."""
        return StoredClip(
            song=self._song.uid,
            shelf=shelf,
            song_start_ms=self._song.start_ms,
            start_sample=self._sound.start_sample,
            n_samples=len(self._sound.samples),
            sample_rate_hz=self._sound.sample_rate_hz,
            n_bytes=self._flac.n_bytes,
            feature_bytes=self._features.n_bytes,
        )


class Folders:
    """Flushes the folder of every clip, each once; a flush that failed is not tried again, as the system tells that once."""

    def __init__(self) -> None:
        self._flushed: dict[Path, OSError | None] = {}

    def flush_around(self, clip: NewClip) -> None:
        """Have the names of a clip's files on the disk; raises OSError."""
        if clip.folder not in self._flushed:
            try:
                sync(clip.folder)
                self._flushed[clip.folder] = None
            except OSError as error:
                self._flushed[clip.folder] = error
        if failure := self._flushed[clip.folder]:
            raise failure


class _NewFile:
    """A file under another name until it is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._unfinished = path, path.with_name(f"{path.name}.tmp")
        self._there: Path | None = None
        """Where it is now, if anywhere."""
        self.handle = -1
        self.n_bytes = 0
        """Known once it is flushed."""

    def open(self) -> None:
        self.handle = os.open(self._unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._there = self._unfinished

    def write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[os.write(self.handle, left) :]

    def begin_flush(self) -> None:
        """Have the system begin what `flush` waits for."""
        os.posix_fadvise(self.handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def flush(self) -> None:
        os.fsync(self.handle)
        self.n_bytes = os.fstat(self.handle).st_size

    def appear(self) -> None:
        self._unfinished.rename(self._path)
        self._there = self._path

    def close(self) -> None:
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)

    def take_back(self) -> None:
        try:
            self.close()
        finally:
            if self._there:
                self._there.unlink(missing_ok=True)
