"""Scores of bench/season.py: every song heard, its truth, and what each bundle in turn makes of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from demo import match_songs
from season_field import Day, FieldPlan

from songcore.arrays import FloatArray
from songcore.bundle import Bundle
from songtrain.clusterers.density import DensityClusterer

__all__ = ["HeardSong", "Promotion", "Songs", "frequency_distance", "promotion", "recluster_plainly"]

UNKNOWN = "unknown"
"""Stands for novel songs, and for the songs of types that the catalogue does not have yet."""
REACHED = 15
N_NIGHTS = 3
N_PROBE = 1500
"""Songs that a promotion is judged by, at most."""


@dataclass(frozen=True)
class HeardSong:
    """A song that a stream hears, and the truth about it."""

    day: int
    station: str
    key: tuple[str, int, int]
    """Recording, onset and offset."""
    label: str
    """Empty where nobody sang by half or more of it."""
    features: FloatArray


@dataclass
class Songs:
    """All songs so far, in order, and how often each type was sung on each day."""

    heard: list[HeardSong] = field(default_factory=list)
    sung: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, day: Day, rate_hz: int) -> None:
        """Take in a day."""
        self.sung[day.number] = Counter(song.label for one in day.recordings for song in one.songs)
        for one in day.recordings:
            heard_s = np.asarray(one.heard, np.float64).reshape(-1, 2) / rate_hz
            sung_s = np.asarray([(song.onset_s, song.offset_s) for song in one.songs]).reshape(-1, 2)
            truth = {i: one.songs[j].label for i, j in match_songs(heard_s, sung_s)}
            self.heard += [
                HeardSong(
                    day.number, one.station, (str(one.path), *span), truth.get(i, ""), features.astype(np.float16)
                )
                for i, (span, features) in enumerate(zip(one.heard, one.read_features(), strict=True))
            ]

    @staticmethod
    def named(bundle: Bundle, songs: Sequence[HeardSong]) -> list[tuple[str, bool]]:
        """Return what a bundle calls songs: type id, and whether it knows it as a song."""
        embeddings = Songs.embedded(bundle, songs)
        return [(a.type_id, not a.is_novel) for a in bundle.catalogue.assign(embeddings)]

    @staticmethod
    def embedded(bundle: Bundle, songs: Sequence[HeardSong]) -> FloatArray:
        """Return what a bundle's encoder makes of songs, (n, d)."""
        return bundle.embedder.embed([song.features.astype(np.float32) for song in songs])

    def probe(self, seed: int) -> list[HeardSong]:
        """Return up to `N_PROBE` of the songs with a truth, drawn at random."""
        true = [song for song in self.heard if song.label]
        order = np.random.default_rng(seed).permutation(len(true))[:N_PROBE]
        return [true[i] for i in np.sort(order)]


@dataclass(frozen=True)
class Promotion:
    """What a new bundle did to the songs so far."""

    day: int
    mode: str
    kept: int
    """Songs of surviving types that are called as before,"""
    of: int
    """of so many."""
    plainly_kept: float
    """The same share when types are the clusters of a plain reclustering, numbered by size before and after."""
    found: dict[str, str]
    """New ids by the label they stand for: they have half of its songs or more, and most of their own are its."""


def promotion(songs: Songs, old: Bundle, new: Bundle, first: Bundle, day: int, mode: str, plan: FieldPlan) -> Promotion:
    """Judge a promotion that follows a day."""
    probe = songs.probe(day)
    before, after = songs.named(old, probe), songs.named(new, probe)
    surviving = set(old.type_by_id) & {t.id for t in new.types if t.id in new.catalogue.type_ids}
    kept = [a == b for (a, known), (b, _) in zip(before, after, strict=True) if known and a in surviving]
    wanted = {f"T{index:03d}" for index in plan.appears}
    fresh = [song for song in songs.heard if song.label in wanted]
    ids = Counter((s.label, t) for s, (t, known) in zip(fresh, songs.named(new, fresh), strict=True) if known)
    others = Counter(t for s, (t, known) in zip(probe, after, strict=True) if known and s.label not in wanted)
    sizes, of_id = Counter(song.label for song in fresh), Counter[str]()
    for (_, type_id), n in ids.items():
        of_id[type_id] += n
    found = {
        label: type_id
        for (label, type_id), n in ids.items()
        if type_id not in first.type_by_id and 2 * n >= sizes[label] and 2 * n > of_id[type_id] + others[type_id]
    }
    return Promotion(day, mode, sum(kept), len(kept), recluster_plainly(songs, old, new, probe), found)


def recluster_plainly(songs: Songs, old: Bundle, new: Bundle, probe: Sequence[HeardSong]) -> float:
    """Return the share of songs that keep their number when clusters are only numbered by size, as tools do."""
    half = len(probe) * 4 // 5  # what was there before the last days, and all of it
    before = DensityClusterer().fit(songs.embedded(old, probe[:half])).labels_
    after = DensityClusterer().fit(songs.embedded(new, probe)).labels_[:half]
    return float((before == after).mean()) if half else 1.0


def discovery(promotions: Sequence[Promotion], songs: Songs, plan: FieldPlan) -> tuple[int, int, dict[str, str]]:
    """Return how many new types were discovered within `N_NIGHTS` of their `REACHED`-th song, of how many, and all found.

    A night follows its day, so the third night is two days later. Types whose third night is not over are left out.
    """
    in_time = n = 0
    found: dict[str, str] = {}
    for one in promotions:
        found |= one.found
    for index in plan.appears:
        label, total = f"T{index:03d}", 0
        for day in sorted(songs.sung):
            total += songs.sung[day][label]
            if total < REACHED:
                continue
            if day + N_NIGHTS - 1 <= max(songs.sung):
                n += 1
                in_time += any(label in p.found for p in promotions if p.day < day + N_NIGHTS)
            break
    return in_time, n, found


def purity(names: Sequence[tuple[str, bool]], songs: Sequence[HeardSong], first: Bundle) -> float:
    """Return the share of the songs of new types that are of their type's most frequent label, of all that are known."""
    labels: dict[str, Counter[str]] = {}
    for (type_id, known), song in zip(names, songs, strict=True):
        if known and type_id not in first.type_by_id:
            labels.setdefault(type_id, Counter())[song.label or UNKNOWN] += 1
    n = sum(counts.total() for counts in labels.values())
    return sum(counts.most_common(1)[0][1] for counts in labels.values()) / n if n else float("nan")


def frequency_distance(
    names: Sequence[tuple[str, bool]],
    songs: Sequence[HeardSong],
    sung: dict[int, Counter[str]],
    known: dict[int, set[str]],
    *,
    with_unknown: bool = False,
) -> float:
    """Return the mean over days of the total variation between the frequencies of what was named and of what was sung.

    Frequencies are of the types that the catalogue had on the day, whose labels are ``known``, among the songs of them. A type
    stands for its most frequent label; one that is named and stands for nothing in the catalogue is wrong. With
    ``with_unknown`` songs called novel, and those of other labels, are one more type.
    """
    meaning: dict[str, Counter[str]] = {}
    for (type_id, is_known), song in zip(names, songs, strict=True):
        if is_known and song.label:
            meaning.setdefault(type_id, Counter())[song.label] += 1
    distances = []
    for day, true in sorted(sung.items()):
        told = Counter[str]()
        for (type_id, is_known), song in zip(names, songs, strict=True):
            if song.day == day:
                label = meaning[type_id].most_common(1)[0][0] if is_known and type_id in meaning else UNKNOWN
                told[label if label in known[day] else UNKNOWN] += is_known or with_unknown
        truly = Counter[str]()
        for label, n in true.items():
            truly[label if label in known[day] else UNKNOWN] += n * (label in known[day] or with_unknown)
        if told.total() and truly.total():
            both = set(told) | set(truly)
            distances.append(sum(abs(told[x] / told.total() - truly[x] / truly.total()) for x in both) / 2)
    return float(np.mean(distances)) if distances else float("nan")
