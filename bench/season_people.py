"""People in bench/season.py: what they decide about song types early on, and whether it still holds at the season's end.

A decision is in force when the service says so and when the last bundle, asked alone and without the list of decisions, does:
it was retrained in full since, so it has learned them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from season_scores import HeardSong, Songs

from songcore.bundle import Bundle
from songserve.clients.catalogue import CatalogueClient
from songserve.clients.connection import Connection, Server

__all__ = ["People"]

NAME = "the rolling one"
LEAST = 0.8
"""Share of a type's songs that the last bundle has to name by a decision."""


@dataclass
class People:
    """Name the most frequent type, merge the third into the second, mark the fourth as noise, part one bird from the fifth."""

    address: str
    decided: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By decision, the ids it is about."""
    about: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By decision, the names of the stored songs it was about."""

    def decide(self, songs: list[Any]) -> None:
        """Decide, knowing the songs stored so far."""
        known: dict[str, list[Any]] = {}
        for song in songs:
            if not song.is_novel:
                known.setdefault(_id(song.song_type), []).append(song)
        named, into, merged, noise, split = sorted(known, key=lambda type_id: -len(known[type_id]))[:5]
        # What tells the songs of one type apart is who sings them, and every station has its own bird.
        (station, _), *_ = Counter(song.station for song in known[split]).most_common()
        parted = tuple(song.name for song in known[split] if song.station == station)
        with Connection(Server(self.address)) as connection:
            client = CatalogueClient(connection, by="people")

            def etag(type_id: str) -> str:
                return str(client.type(type_id).etag)

            client.name(named, NAME, etag=etag(named))
            client.merge(merged, into, etag=etag(merged), into_etag=etag(into))
            client.mark(noise, "noise", etag=etag(noise))
            made = client.split(split, parted, etag=etag(split)).id
        self.decided = {"name": (named,), "merge": (merged, into), "noise": (noise,), "split": (split, made)}
        of = {"name": named, "merge": merged, "noise": noise}
        self.about = {kind: tuple(song.name for song in known[type_id]) for kind, type_id in of.items()}
        self.about["split"] = parted

    def in_force(
        self, songs: list[Any], heard: Mapping[str, HeardSong], last_day_ms: int, last: Bundle
    ) -> dict[str, Any]:
        """Return which decisions hold for the service, for the songs of the last day, and for the last bundle alone.

        ``heard`` are the songs as the field has them, by the names of the stored ones.
        """
        late = [song for song in songs if song.start_time.ToMilliseconds() >= last_day_ms]
        types = Counter(_id(song.decided.song_type) for song in late)
        by_name = {song.name: _id(song.decided.song_type) for song in songs}
        (named,), (merged, into), (noise,), (split, made) = (
            self.decided[kind] for kind in ("name", "merge", "noise", "split")
        )
        with Connection(Server(self.address)) as connection:
            client = CatalogueClient(connection)
            served = {
                "name": client.type(named).name == NAME,
                "merge": client.type(merged).merged_into == into and types[merged] == 0 < types[into],
                "noise": client.type(noise).kind == "noise",
                "split": client.type(made).split_from == split
                and all(by_name[name] == made for name in self.about["split"]),
            }
        learned, shares = self._learned(last, {kind: [heard[n] for n in names] for kind, names in self.about.items()})
        broken = [kind for kind in self.decided if not (served[kind] and learned[kind])]
        return {
            "decisions": len(self.decided),
            "decisions_in_force": len(self.decided) - len(broken),
            "broken": broken,
            "decided_songs_named": shares,
        }

    def _learned(
        self, bundle: Bundle, songs: Mapping[str, Sequence[HeardSong]]
    ) -> tuple[dict[str, bool], dict[str, float]]:
        """Return what the bundle has learned, and which share of the songs of each decision it names by it."""
        wanted = {kind: ids[-1] for kind, ids in self.decided.items()}
        shares = {
            kind: round(sum(name == wanted[kind] for name, _ in Songs.named(bundle, songs[kind])) / len(songs[kind]), 3)
            for kind in wanted
        }
        types = bundle.type_by_id
        there = {kind: wanted[kind] in types for kind in wanted}
        there["name"] &= there["name"] and types[wanted["name"]].name == NAME
        there["noise"] &= there["noise"] and types[wanted["noise"]].kind == "noise"
        there["merge"] &= self.decided["merge"][0] in bundle.manifest.retired
        return {kind: there[kind] and shares[kind] >= LEAST for kind in wanted}, shares


def _id(name: str) -> str:
    return name.rpartition("/")[2]
