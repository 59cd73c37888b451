"""Who sings what, in which recording: the plan of a season, without a sound."""

from dataclasses import dataclass

import numpy as np

from songtrain.synth.config import SeasonConfig
from songtrain.synth.repertoire import zipf_weights
from songtrain.synth.singer import Singer

__all__ = ["TYPICAL_SONG_S", "RecordingPlan", "plan_season"]

TYPICAL_SONG_S = 3.0
"""Mean length of a song, from which follows how many songs fill a recording."""

Rng = np.random.Generator


@dataclass(frozen=True)
class RecordingPlan:
    """One recording to be made: its station, and for each of its singers the types to sing in order."""

    name: str
    station: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    """(singer, types): the first is the singer of the station, a second one sings over it."""


def plan_season(config: SeasonConfig, singers: tuple[Singer, ...]) -> tuple[RecordingPlan, ...]:
    """Return the recordings of a season: draw all songs by Zipf's law, give each to a bird that knows it, cut."""
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=config.spawn_key(2)))
    drawn = rng.choice(config.n_types, size=config.n_songs, p=zipf_weights(config))
    # A bird sings some of its songs more than its neighbours do.
    taste = rng.gamma(2.0, size=(config.n_singers, config.n_types))
    taste *= [[index in singer.repertoire for index in range(config.n_types)] for singer in singers]
    cumulative = np.cumsum(taste, axis=0)
    cumulative /= cumulative[-1]  # exactly one at the end, so that no draw falls behind the last bird
    owner = (rng.random(config.n_songs) > cumulative[:, drawn]).sum(axis=0)
    second = rng.random(config.n_songs) < (config.overlap_share if config.n_singers > 1 else 0)
    leads = [_cut(drawn[(owner == i) & ~second], config, rng) for i in range(config.n_singers)]
    guests = [(i, int(t)) for i in range(config.n_singers) for t in drawn[(owner == i) & second]]
    return _name(config, singers, leads, _seat(leads, guests, rng))


def _cut(songs: np.ndarray, config: SeasonConfig, rng: Rng) -> list[tuple[int, ...]]:
    """Cut a bird's songs into recordings; songs are seldom repeated at once, as nightingales do."""
    songs = rng.permutation(songs)
    for i in range(1, len(songs)):
        if songs[i] == songs[i - 1]:
            others = np.flatnonzero(songs[i:] != songs[i])
            j = i + int(others[0]) if len(others) else i
            songs[i], songs[j] = songs[j], songs[i]
    n_each = max(1, round(config.recording_s * config.duty / TYPICAL_SONG_S))
    return [tuple(int(t) for t in songs[b : b + n_each]) for b in range(0, len(songs), n_each)]


def _seat(
    leads: list[list[tuple[int, ...]]], guests: list[tuple[int, int]], rng: Rng
) -> dict[tuple[int, int], tuple[int, tuple[int, ...]]]:
    """Send each bird's guest songs to recordings of other birds: (lead, number) to (guest, types)."""
    seats: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {}
    free = [(lead, number) for lead, recordings in enumerate(leads) for number in range(len(recordings))]
    waiting = {bird: [t for b, t in guests if b == bird] for bird in range(len(leads))}
    for place in rng.permutation(len(free)):
        lead, number = free[place]
        bird = max((b for b in waiting if b != lead), key=lambda b: len(waiting[b]), default=lead)
        n_all, n_free = sum(map(len, waiting.values())), len(free) - len(seats)
        n = min(len(waiting.get(bird, [])) if bird != lead else 0, -(-n_all // n_free))
        seats[lead, number] = (bird, tuple(waiting[bird][:n]))
        waiting[bird] = waiting[bird][n:]
    # Songs that found no seat among others are sung by their own bird's lead recordings.
    for bird, songs in waiting.items():
        if songs:
            leads[bird].append(tuple(songs))
            seats[bird, len(leads[bird]) - 1] = (bird, ())
    return seats


def _name(
    config: SeasonConfig,
    singers: tuple[Singer, ...],
    leads: list[list[tuple[int, ...]]],
    seats: dict[tuple[int, int], tuple[int, tuple[int, ...]]],
) -> tuple[RecordingPlan, ...]:
    """Give every recording a station of its singer's site and a name."""
    plans: list[RecordingPlan] = []
    day = f"D{config.day:02d}_" if config.day else ""
    for lead, recordings in enumerate(leads):
        site = singers[lead].site
        stations = [s for s in range(config.n_stations) if s % config.n_sites == site]
        home = stations[lead // config.n_sites % len(stations)]
        for number, songs in enumerate(recordings):
            guest, extra = seats[lead, number]
            parts = ((lead, songs), (guest, extra)) if extra else ((lead, songs),)
            name = f"{day}S{home + 1:02d}_{singers[lead].name}_{number + 1:04d}"
            plans.append(RecordingPlan(name, home, parts))
    return tuple(plans)
