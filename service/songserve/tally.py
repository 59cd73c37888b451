"""How many songs of each type a bucket of time holds, and how that is written down: JSON, the same in both databases."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from songserve.records import StoredSong

__all__ = ["Tally"]


@dataclass
class Tally:
    """Songs by type id: known ones, novel ones by their nearest type, and noise; ``n_cut`` of all were cut at full length."""

    songs: Counter[str] = field(default_factory=Counter)
    novel: Counter[str] = field(default_factory=Counter)
    noise: Counter[str] = field(default_factory=Counter)
    n_cut: int = 0

    @classmethod
    def read(cls, text: str) -> Self:
        """Return what `write` wrote."""
        songs, novel, noise, n_cut = json.loads(text)
        return cls(Counter(songs), Counter(novel), Counter(noise), n_cut)

    def write(self) -> str:
        """Return it as text, the same for equal tallies."""
        counts = [dict(sorted(part.items())) for part in (self.songs, self.novel, self.noise)]
        return json.dumps([*counts, self.n_cut], separators=(",", ":"))

    def count(self, song: StoredSong) -> None:
        """Take in one song."""
        self.add(song.type_id, song.kind, is_novel=song.is_novel, n=1, n_cut=int(song.forced_cut))

    def add(self, type_id: str, kind: str, *, is_novel: bool, n: int, n_cut: int) -> None:
        """Take in ``n`` songs, of which ``n_cut`` were cut."""
        part = self.noise if kind == "noise" else self.novel if is_novel else self.songs
        part[type_id] += n
        self.n_cut += n_cut

    def merge(self, other: Self) -> None:
        """Take in all of another."""
        self.songs.update(other.songs)
        self.novel.update(other.novel)
        self.noise.update(other.noise)
        self.n_cut += other.n_cut
