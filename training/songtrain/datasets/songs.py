"""Songs with their features, as one flat array: what every later stage works on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from songcore.arrays import FloatArray, IntArray

__all__ = ["RecordingSongs", "SongPlace", "SongSet", "join_recordings"]

Float16Array = NDArray[np.float16]


@dataclass(frozen=True)
class SongPlace:
    """Where a song was sung; samples at the bundle's rate, half-open."""

    recording: str
    onset: int
    offset: int
    label: str = ""
    """The type as annotated; empty when nobody said. Only the evaluation looks at it."""


@dataclass(frozen=True)
class RecordingSongs:
    """The songs of one recording, and sound from between them."""

    places: tuple[SongPlace, ...]
    lengths: IntArray
    """(n_songs,) frames of each song, padding included."""
    frames: Float16Array
    """(sum of lengths, n_mels), features one song after the other."""
    background: Float16Array
    """(n, n_mels) features of stretches without songs."""
    duration_s: float


@dataclass(frozen=True)
class SongSet:
    """All songs of a data set."""

    places: tuple[SongPlace, ...]
    lengths: IntArray
    frames: Float16Array
    background: Float16Array
    duration_s: float
    background_of: tuple[tuple[str, int], ...] = ()
    """Where background comes from: recording and number of rows, in the order of the rows; empty when nobody knows."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def starts(self) -> IntArray:
        """(n_songs,) row of `frames` at which each song begins."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @property
    def recordings(self) -> list[str]:
        """Name of every song's recording."""
        return [place.recording for place in self.places]

    @property
    def sources(self) -> list[str]:
        """Name of every song's recording, of copies of one recording the same name: that of the first of them.

        As when a backup lies in the folder, too: learned from under one name, its songs could be held out under another.
        """
        content = {name: blake2b() for name in self.recordings}
        for name, part in zip(self.recordings, np.split(self.frames, self.starts[1:]), strict=False):
            content[name].update(part.tobytes())
        first: dict[bytes, str] = {}
        for name, one in content.items():
            first.setdefault(one.digest(), name)
        return [first[content[name].digest()] for name in self.recordings]

    @property
    def labels(self) -> list[str]:
        """Annotated type of every song, empty where there is none."""
        return [place.label for place in self.places]

    def features(self, index: int) -> FloatArray:
        """Return one song, (n_frames, n_mels) float32."""
        start = int(self.lengths[:index].sum())
        return self.frames[start : start + int(self.lengths[index])].astype(np.float32)

    def all_features(self) -> list[FloatArray]:
        """Return every song, (n_frames, n_mels) float32."""
        return [part.astype(np.float32) for part in np.split(self.frames, self.starts[1:])]

    def subset(self, indices: Sequence[int] | IntArray) -> "SongSet":
        """Return the songs at ``indices``, in that order, with all of the background."""
        starts = self.starts
        parts = [self.frames[starts[i] : starts[i] + self.lengths[i]] for i in indices]
        frames = np.concatenate(parts) if parts else self.frames[:0]
        places = tuple(self.places[i] for i in indices)
        return replace(self, places=places, lengths=self.lengths[np.asarray(indices, np.int64)], frames=frames)

    def parted(self, held: IntArray) -> tuple["SongSet", "SongSet"]:
        """Return the songs that are learned from, and those at the indices ``held``, which are held out.

        Background of recordings that only held-out songs are of is not learned from either: laid over other songs, it would
        make the network used to what they are heard in.
        """
        held_out = self.subset(held)
        learned = self.subset(np.setdiff1d(np.arange(len(self)), held))
        return _without_background_of(learned, set(held_out.recordings) - set(learned.recordings)), held_out


def _without_background_of(songs: SongSet, away: set[str]) -> SongSet:
    kept = [name not in away for name, _ in songs.background_of]
    rows = np.repeat(kept, [n for _, n in songs.background_of]).astype(bool)
    if rows.all():
        return songs
    of = tuple(part for part, keep in zip(songs.background_of, kept, strict=True) if keep)
    return replace(songs, background=songs.background[rows], background_of=of)


def join_recordings(recordings: Iterable[RecordingSongs], n_mels: int) -> SongSet:
    """Return the songs of all recordings, in their order."""
    parts = list(recordings)
    empty = np.empty((0, n_mels), np.float16)
    return SongSet(
        places=tuple(place for part in parts for place in part.places),
        lengths=np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)]),
        frames=np.concatenate([empty, *(part.frames for part in parts)]),
        background=np.concatenate([empty, *(part.background for part in parts)]),
        duration_s=sum(part.duration_s for part in parts),
        # A recording without songs is held out by nobody, so it needs no name.
        background_of=tuple((part.places[0].recording if part.places else "", len(part.background)) for part in parts),
    )
