"""How many songs of each type a bucket of time holds, and how that is written down: JSON, the same in both databases."""

import json
from dataclasses import dataclass, field
from typing import Self

from songserve.records import StoredSong

__all__ = ["Tally", "by_number"]

Counts = dict[str, int]


@dataclass
class Tally:
    """Songs by type id: known ones, novel ones by their nearest type, and noise; ``n_cut`` of all were cut at full length."""

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

    def count(self, song: StoredSong) -> None:
        """Take in one song."""
        self.add(song.type_id, song.kind, is_novel=song.is_novel, n=1, n_cut=int(song.forced_cut))

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


def by_number(counts: Counts) -> Counts:
    """Return counts in the order of falling numbers, equal ones by type."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
