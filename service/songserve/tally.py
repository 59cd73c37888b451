"""How many songs of each type a bucket of time holds, and how that is written down: JSON, the same in both databases."""

import json
from dataclasses import dataclass, field
from typing import Self

from songcore.decisions import View
from songserve.records import StoredSong

__all__ = ["Tally", "by_number"]

Counts = dict[str, int]


@dataclass
class Tally:
    """Songs by type id: known ones, novel ones by their nearest type, and noise; ``n_cut`` of all were cut at full length.

    As it is kept, the ids and parts are the model's, but songs that people split off are under the id of their split.
    """

    songs: Counts = field(default_factory=dict)
    novel: Counts = field(default_factory=dict)
    noise: Counts = field(default_factory=dict)
    n_cut: int = 0

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what `write` wrote; the types are in the order of `by_number`."""
        return cls(*json.loads(text))

    def write(self) -> str:
        """Return it as text, the same for equal tallies."""
        counts = [by_number(part) for part in (self.songs, self.novel, self.noise)]
        return json.dumps([*counts, self.n_cut], separators=(",", ":"))

    def count(self, song: StoredSong, n: int = 1) -> None:
        """Take in one song, or with -1 take it out."""
        type_id, is_novel = song.placed_in or song.type_id, song.is_novel and song.placed_in is None
        self.add(type_id, song.kind, is_novel=is_novel, n=n, n_cut=n * song.forced_cut)

    def add(self, type_id: str, kind: str, *, is_novel: bool, n: int, n_cut: int) -> None:
        """Take in ``n`` songs, of which ``n_cut`` were cut."""
        part = self.noise if kind == "noise" else self.novel if is_novel else self.songs
        part[type_id] = part.get(type_id, 0) + n
        self.n_cut += n_cut

    def merge(self, other: Self) -> None:
        """Take in all of another."""
        for part, more in ((self.songs, other.songs), (self.novel, other.novel), (self.noise, other.noise)):
            for type_id, n in more.items():
                part[type_id] = part.get(type_id, 0) + n
        self.n_cut += other.n_cut

    def decided(self, view: View) -> Self:
        """Return it by people's decisions: under the ids that merging leads to, in the parts of the kinds people gave."""
        found = type(self)(n_cut=self.n_cut)
        for part, said in ((self.songs, "song"), (self.novel, "song"), (self.noise, "noise")):
            for type_id, n in part.items():
                end = view.resolve(type_id)
                kind = view.kinds.get(end, said)
                found.add(end, kind, is_novel=part is self.novel, n=n, n_cut=0)
        return found


def by_number(counts: Counts) -> Counts:
    """Return counts in the order of falling numbers, equal ones by type, without those of nothing."""
    found = ((type_id, n) for type_id, n in counts.items() if n)
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))
