"""The songs of a run as arrays: where they lie, and what they are called before it.

What a row says was said by whatever bundle served then. Here every song is named anew by the bundle that is retrained, so that
what it knows by now is no longer in the pool.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from songcore.arrays import FloatArray, IntArray
from songcore.assign import Catalogue
from songcore.bundle import BundleParts
from songcore.decisions import View
from songtrain.recluster.groups import Occasion
from songtrain.recluster.settings import ReclusterSettings

__all__ = ["NamedSongs", "RunInput", "RunSongs", "name_songs"]


@dataclass(frozen=True)
class RunSongs:
    """The songs of a run that the encoder has placed; n rows."""

    uids: tuple[str, ...]
    occasions: tuple[Occasion, ...]
    good: tuple[bool, ...]
    """Whether its quality lets a type come from it."""
    files: tuple[str, ...]
    """Where the files with their features were when the snapshot was taken; empty for none."""
    placed_in: tuple[str, ...]
    """Types that splits by people put them in, later songs as the nearest of those that were named; or empty."""
    embeddings: FloatArray
    """(n, d) float32 unit vectors of the encoder that is retrained."""

    def __len__(self) -> int:
        return len(self.uids)

    def pack(self) -> bytes:
        """Return the songs as an npz file."""
        file = BytesIO()
        np.savez(
            file,
            uid=np.asarray(self.uids, np.str_),
            session=np.asarray([session for session, _ in self.occasions], np.str_),
            day=np.asarray([day for _, day in self.occasions], np.int64),
            good=np.asarray(self.good, np.bool_),
            features=np.asarray(self.files, np.str_),
            placed_in=np.asarray(self.placed_in, np.str_),
            embeddings=self.embeddings,
        )
        return file.getvalue()

    @classmethod
    def read(cls, path: Path) -> "RunSongs":
        """Return what was packed into a file."""
        with np.load(path, allow_pickle=False) as arrays:
            days = zip(arrays["session"].tolist(), arrays["day"].tolist(), strict=True)
            uids, good = tuple(arrays["uid"].tolist()), tuple(arrays["good"].tolist())
            files, placed_in = tuple(arrays["features"].tolist()), tuple(arrays["placed_in"].tolist())
            return cls(uids, tuple(days), good, files, placed_in, arrays["embeddings"].astype(np.float32))


@dataclass(frozen=True)
class NamedSongs:
    """What the songs of a run are called before it."""

    type_ids: tuple[str, ...]
    """The living types, those that people made included."""
    kinds: tuple[str, ...]
    names: tuple[str, ...]
    type_index: IntArray
    """(n,) into `type_ids`: of every song that has a type, -1 for the others."""
    in_pool: IntArray
    """Numbers of the songs that nothing known explains and that new types may come from."""
    placed: Mapping[int, int]
    """By number of a song that people gave a type, that type."""


@dataclass(frozen=True)
class RunInput:
    """Everything a proposal is made of."""

    parts: BundleParts
    digest: str
    """Of the bundle that is retrained."""
    songs: RunSongs
    named: NamedSongs
    view: View
    settings: ReclusterSettings
    first_number: int
    """From here on ids were never used."""


def name_songs(
    songs: RunSongs, catalogue: Catalogue, names: Mapping[str, str], view: View, retired: Collection[str]
) -> NamedSongs:
    """Return what songs are called by the catalogue, whose types have ``names`` by id, and then by people.

    Types that people made and a retraining ``retired`` are none any more; what was placed in them is called by the catalogue.
    """
    by_id = dict(zip(catalogue.type_ids, catalogue.kinds, strict=True))
    by_id |= {
        made: by_id.get(view.resolve(origin), "song") for made, origin in view.made.items() if made not in retired
    }
    kinds = {name: view.kinds.get(name, kind) for name, kind in by_id.items() if view.resolve(name) == name}
    type_ids = tuple(kinds)
    number = {name: index for index, name in enumerate(type_ids)}
    assigned = catalogue.assign(songs.embeddings)
    found, pool, placed = np.full(len(songs), -1, np.int64), list[int](), dict[int, int]()
    for index, (uid, one) in enumerate(zip(songs.uids, assigned, strict=True)):
        is_placed = bool(uid in view.placed or songs.placed_in[index])
        type_id = view.type_of(uid, songs.placed_in[index] or one.type_id)
        if is_placed and type_id not in number:
            is_placed, type_id = False, view.resolve(one.type_id)
        if uid in view.placed and type_id in number:
            placed[index] = number[type_id]
        if is_placed or one.novelty == "known" or kinds.get(type_id) == "noise":
            found[index] = number.get(type_id, -1)
        elif songs.good[index]:
            pool.append(index)
    return NamedSongs(
        type_ids=type_ids,
        kinds=tuple(kinds.values()),
        names=tuple(view.names.get(name) or names.get(name, "") for name in type_ids),
        type_index=found,
        in_pool=np.asarray(pool, np.int64),
        placed=placed,
    )
