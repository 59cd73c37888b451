"""People in bench/season.py: what they decide about song types early on, and whether it still holds at the season's end."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from songserve.clients.catalogue import CatalogueClient
from songserve.clients.connection import Connection, Server

__all__ = ["People"]

NAME = "the rolling one"
N_PARTED = 12
"""Songs that are split off."""


@dataclass
class People:
    """Name the most frequent type, merge the third into the second, mark the fourth as noise, split the fifth."""

    address: str
    decided: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By decision, the ids it is about."""
    parted: tuple[str, ...] = ()

    def decide(self, songs: list[Any]) -> None:
        """Decide, knowing the songs stored so far."""
        counts = Counter(song.song_type.rpartition("/")[2] for song in songs if not song.is_novel)
        named, into, merged, noise, split = [type_id for type_id, _ in counts.most_common(5)]
        with Connection(Server(self.address)) as connection:
            client = CatalogueClient(connection, by="people")

            def etag(type_id: str) -> str:
                return str(client.type(type_id).etag)

            client.name(named, NAME, etag=etag(named))
            client.merge(merged, into, etag=etag(merged), into_etag=etag(into))
            client.mark(noise, "noise", etag=etag(noise))
            of_split = [s.name for s in songs if s.song_type.endswith(f"/{split}") and not s.is_novel]
            self.parted = tuple(of_split[:N_PARTED])
            made = client.split(split, self.parted, etag=etag(split)).id
        self.decided = {"name": (named,), "merge": (merged, into), "noise": (noise,), "split": (split, made)}

    def in_force(self, songs: list[Any], last_day_ms: int) -> dict[str, Any]:
        """Return which decisions hold, for the catalogue and for the songs of the last day."""
        late = [song for song in songs if song.start_time.ToMilliseconds() >= last_day_ms]
        types = Counter(song.decided.song_type.rpartition("/")[2] for song in late)
        by_name = {song.name: song.decided.song_type.rpartition("/")[2] for song in songs}
        with Connection(Server(self.address)) as connection:
            client = CatalogueClient(connection)
            (named,), (merged, into), (noise,), (split, made) = (
                self.decided[kind] for kind in ("name", "merge", "noise", "split")
            )
            holds = {
                "name": client.type(named).name == NAME,
                "merge": client.type(merged).merged_into == into and types[merged] == 0 < types[into],
                "noise": client.type(noise).kind == "noise",
                "split": client.type(made).split_from == split and all(by_name[name] == made for name in self.parted),
            }
        return {
            "decisions": len(holds),
            "decisions_in_force": sum(holds.values()),
            "broken": [k for k in holds if not holds[k]],
        }
