"""Places new songs of a type that people split: each goes where the nearest of the songs that people parted went.

The model still names such a song by the type that was split. People showed with songs what is what: those they split off, and
those of the type that were there and that they left. A new song is compared with both, by the vectors that the same
bundle made of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, select, union_all

from songcore.arrays import FloatArray
from songcore.decisions import Decision, Split, View
from songserve.records import StoredSong
from songserve.schema import embeddings, retypings, songs
from songserve.verdicts import is_of_type

__all__ = ["Placer"]

MAX_LEFT = 2_000
"""Songs, the latest, that stand for what people left in a type."""
SONGS_AT_ONCE = 500


@dataclass(frozen=True)
class _Shown:
    """What people showed of one type, in the vectors of one bundle."""

    vectors: FloatArray
    """(n, d), of length 1."""
    places: Sequence[str | None]
    """The type that each was split off to, None for what was left."""


class Placer:
    """Remembers what people showed until they decide again. For one thread."""

    def __init__(self) -> None:
        self._last_seq = 0
        self._shown: dict[tuple[str, str], _Shown | None] = {}

    def place(
        self,
        connection: Connection,
        new: Sequence[StoredSong],
        vectors: Mapping[str, bytes],
        view: View,
        decisions: Sequence[Decision],
    ) -> tuple[StoredSong, ...]:
        """Return the songs, those of split types placed; novel ones and those without a vector are left as they are."""
        if not view.made:
            return tuple(new)
        if view.last_seq != self._last_seq:
            self._shown, self._last_seq = {}, view.last_seq
        split = {_root(made, view) for made in view.made}
        return tuple(
            self._placed(connection, song, vectors[song.uid], view, decisions)
            if not song.is_novel and song.uid in vectors and view.resolve(song.type_id) in split
            else song
            for song in new
        )

    def _placed(
        self, connection: Connection, song: StoredSong, vector: bytes, view: View, decisions: Sequence[Decision]
    ) -> StoredSong:
        key = (song.bundle, view.resolve(song.type_id))
        if key not in self._shown:
            self._shown[key] = _read_shown(connection, *key, view, decisions)
        shown = self._shown[key]
        if shown is None:
            return song
        nearest = int(np.argmax(shown.vectors @ np.frombuffer(vector, "<f4")))
        return replace(song, placed_in=shown.places[nearest])


def _read_shown(
    connection: Connection, bundle: str, type_id: str, view: View, decisions: Sequence[Decision]
) -> _Shown | None:
    """Return what people showed of a type; None unless songs of both sides have vectors of the bundle."""
    made = {one for one in view.made if _root(one, view) == type_id}
    parted = {uid: place for uid, place in view.placed.items() if place in made}
    splits = [one.action for one in decisions if isinstance(one.action, Split) and one.action.new_id in made]
    places: list[str | None] = []
    found: list[bytes] = []
    for uid, vector in _vectors(connection, bundle, parted):
        places.append(parted[uid])
        found.append(vector)
    # Those that came after the split are where it put them, and show nothing.
    looked_at = songs.c.seq <= max(split.last_song for split in splits)
    left = select(songs.c.uid).where(is_of_type(type_id, view), songs.c.placed_in.is_(None), looked_at)
    latest = connection.execute(left.order_by(songs.c.seq.desc()).limit(MAX_LEFT)).scalars().all()
    for _, vector in _vectors(connection, bundle, latest):
        places.append(None)
        found.append(vector)
    if None not in places or not any(places):
        return None
    return _Shown(np.stack([np.frombuffer(vector, "<f4") for vector in found]), places)


def _vectors(connection: Connection, bundle: str, uids: Iterable[str]) -> Iterable[tuple[str, bytes]]:
    """Give uid and vector of those songs that the bundle made one of, as they came or later."""
    wanted = list(uids)
    for first in range(0, len(wanted), SONGS_AT_ONCE):
        part = wanted[first : first + SONGS_AT_ONCE]
        both = union_all(
            *(
                select(table.c.song, table.c.vector).where(
                    table.c.bundle == bundle, table.c.song.in_(part), table.c.vector.is_not(None)
                )
                for table in (embeddings, retypings)
            )
        )
        for row in connection.execute(both):
            yield row.song, row.vector


def _root(made: str, view: View) -> str:
    """Return the type that the model names the songs of a split by, through splits of splits."""
    while made in view.made:
        made = view.made[made]
    return view.resolve(made)
