"""A season: who sings what when, and the sound of any one of its recordings.

The plan (which songs belong to which recording) and every recording have random numbers of their own, so recordings
can be rendered alone, in any order and in parallel, and are always the same.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from songcore.arrays import FloatArray
from songtrain.synth.config import SeasonConfig
from songtrain.synth.noise import draw_weather, render_noise
from songtrain.synth.others import OTHER_BIRDS, render_phrase
from songtrain.synth.repertoire import SongType, draw_types, zipf_weights
from songtrain.synth.scene import Path, Station, carry, draw_path, draw_stations, gain_for_snr
from songtrain.synth.singer import Performance, Singer, draw_singers, perform

__all__ = ["Layers", "RecordingPlan", "Season", "TrueSong", "open_season", "render_layers", "render_recording"]

MIN_PAUSE_S = 1.2
TYPICAL_SONG_S = 3.0
FULL_SCALE = 0.9
"""Recordings louder than this are turned down as a whole, which changes no ratio."""

Rng = np.random.Generator


@dataclass(frozen=True)
class RecordingPlan:
    """One recording to be made: its station, and for each of its singers the types to sing in order."""

    name: str
    station: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    """(singer, types): the first is the singer of the station, a second one sings over it."""


@dataclass(frozen=True)
class Season:
    """Everything about a season that is known before a recording is rendered."""

    types: tuple[SongType, ...]
    singers: tuple[Singer, ...]
    stations: tuple[Station, ...]
    recordings: tuple[RecordingPlan, ...]


@dataclass(frozen=True)
class TrueSong:
    """The truth about one song: half-open onset and offset in samples of the recording, and what was sung by whom."""

    recording: str
    onset: int
    offset: int
    label: str
    singer: str
    station: str
    snr_db: float
    overlap: bool
    loud_onset: int


@dataclass(frozen=True)
class Layers:
    """One recording taken apart, each (n,) float32; their sum is the recording."""

    songs: FloatArray
    noise: FloatArray
    others: FloatArray
    """Other birds and the far singer."""


@lru_cache(maxsize=4)
def open_season(config: SeasonConfig) -> Season:
    """Return the season's types, singers, stations and plan."""
    singers, stations = draw_singers(config), draw_stations(config)
    return Season(draw_types(config), singers, stations, _plan(config, singers))


def _plan(config: SeasonConfig, singers: tuple[Singer, ...]) -> tuple[RecordingPlan, ...]:
    """Draw all songs by Zipf's law, give each to a bird that knows it, and cut each bird's season into recordings."""
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(2,)))
    drawn = rng.choice(config.n_types, size=config.n_songs, p=zipf_weights(config))
    # A bird sings some of its songs more than its neighbours do.
    taste = rng.gamma(2.0, size=(config.n_singers, config.n_types))
    taste *= [[index in singer.repertoire for index in range(config.n_types)] for singer in singers]
    cumulative = np.cumsum(taste / taste.sum(axis=0), axis=0)
    owner = (rng.random(config.n_songs) > cumulative[:, drawn]).sum(axis=0)
    second = rng.random(config.n_songs) < (config.overlap_share if config.n_singers > 1 else 0)
    leads = [_cut(drawn[(owner == i) & ~second], config, rng) for i in range(config.n_singers)]
    guests = [(i, int(t)) for i in range(config.n_singers) for t in drawn[(owner == i) & second]]
    return _name(config, singers, leads, _seat(leads, guests, rng))


def _cut(songs: np.ndarray, config: SeasonConfig, rng: Rng) -> list[tuple[int, ...]]:
    """Cut a bird's songs into recordings; songs are seldom repeated at once, as nightingales do."""
    songs = rng.permutation(songs)
    for i in np.flatnonzero(songs[1:] == songs[:-1]) + 1:
        j = rng.integers(len(songs))
        if songs[j] != songs[i]:
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
    for lead, recordings in enumerate(leads):
        site = singers[lead].site
        stations = [s for s in range(config.n_stations) if s % config.n_sites == site]
        home = stations[lead // config.n_sites % len(stations)]
        for number, songs in enumerate(recordings):
            guest, extra = seats[lead, number]
            parts = ((lead, songs), (guest, extra)) if extra else ((lead, songs),)
            plans.append(RecordingPlan(f"S{home + 1:02d}_{singers[lead].name}_{number + 1:04d}", home, parts))
    return tuple(plans)


def render_recording(config: SeasonConfig, index: int) -> tuple[FloatArray, list[TrueSong]]:
    """Return recording ``index`` of the season: samples (n,) float32 in [-1, 1], and its songs in order of onset."""
    layers, songs = render_layers(config, index)
    return layers.songs + layers.noise + layers.others, songs


def render_layers(config: SeasonConfig, index: int) -> tuple[Layers, list[TrueSong]]:
    """Return recording ``index`` as layers, and its songs in order of onset."""
    season = open_season(config)
    plan, rate = season.recordings[index], config.sample_rate_hz
    station = season.stations[plan.station]
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(3, index)))
    parts = [
        (season.singers[singer], [(t, perform(season.types[t], season.singers[singer], config, rng)) for t in types])
        for singer, types in plan.parts
    ]
    n = max(_least_samples([p for _, p in sung], config) for _, sung in parts)
    noise = render_noise(draw_weather(config, rng), n, rate, station.colour_db, rng)
    noise *= np.float32(10 ** (station.noise_db / 20))
    songs, truth = np.zeros(n, np.float32), []
    for singer, sung in parts:
        truth += _sing(songs, noise, sung, (plan, singer, station), config, rng)
    others = np.zeros(n, np.float32)
    _add_other_birds(others, noise, station, config, rng)
    _add_far_singer(others, noise, station, config, rng)
    layers = Layers(songs, noise, others)
    peak = float(np.abs(songs + noise + others).max())
    if peak > FULL_SCALE:
        layers = Layers(*(layer * np.float32(FULL_SCALE / peak) for layer in (songs, noise, others)))
    return layers, _mark_overlaps(truth)


def _least_samples(sung: list[Performance], config: SeasonConfig) -> int:
    """Length of a recording that holds these songs with the shortest pauses."""
    pauses = (len(sung) + 1) * MIN_PAUSE_S * config.sample_rate_hz
    return max(round(config.recording_s * config.sample_rate_hz), round(sum(len(p.samples) for p in sung) + pauses) + 1)


def _pauses(sung: list[Performance], n_samples: int, config: SeasonConfig, rng: Rng) -> list[int]:
    """Silence before each song, samples: the least pause, and the rest of the time shared out unevenly."""
    spare = n_samples - _least_samples(sung, config.model_copy(update={"recording_s": 0.0}))
    shares = rng.gamma(2.5, size=len(sung) + 1)
    return [int(MIN_PAUSE_S * config.sample_rate_hz + spare * s) for s in shares[:-1] / shares.sum()]


def _sing(
    out: FloatArray,
    noise: FloatArray,
    sung: list[tuple[int, Performance]],
    who: tuple[RecordingPlan, Singer, Station],
    config: SeasonConfig,
    rng: Rng,
) -> list[TrueSong]:
    """Add one bird's songs to ``out`` and return the truth about them."""
    plan, singer, station = who
    low, high = config.snr_db
    # The bird moves between recordings, and a little within one.
    usual = rng.uniform(low, high)
    path = draw_path(station, high - usual, config.sample_rate_hz, rng)
    truth, now = [], 0
    for pause, (index, performance) in zip(_pauses([p for _, p in sung], len(out), config, rng), sung, strict=True):
        onset = now + pause
        now = offset = onset + len(performance.samples)
        snr_db = float(np.clip(usual + rng.normal(0, 2), low, high))
        wet = carry(performance.samples, path, station, config.sample_rate_hz)
        gain = gain_for_snr(wet[: offset - onset], noise[onset:offset], snr_db, config.sample_rate_hz)
        end = min(len(out), onset + len(wet))
        out[onset:end] += np.float32(gain) * wet[: end - onset]
        label, loud = open_season(config).types[index].label, onset + performance.loud_onset
        truth.append(TrueSong(plan.name, onset, offset, label, singer.name, station.name, snr_db, False, loud))
    return truth


def _add_faint(
    out: FloatArray, noise: FloatArray, dry: FloatArray, snr_db: float, place: tuple[Station, Path], rate: int, rng: Rng
) -> None:
    """Add a sound at a random time and a level given against the noise there."""
    station, path = place
    wet = carry(dry, path, station, rate)
    onset = int(rng.integers(0, max(1, len(out) - len(wet))))
    gain = gain_for_snr(wet[: len(dry)], noise[onset : onset + len(dry)], snr_db, rate)
    end = min(len(out), onset + len(wet))
    out[onset:end] += np.float32(gain) * wet[: end - onset]


def _add_other_birds(out: FloatArray, noise: FloatArray, station: Station, config: SeasonConfig, rng: Rng) -> None:
    rate = config.sample_rate_hz
    residents = rng.choice(list(OTHER_BIRDS), size=3, replace=False)
    paths = [draw_path(station, rng.uniform(15, 30), rate, rng) for _ in residents]
    loudness = rng.uniform(-6, 12, len(residents))
    for _ in range(rng.poisson(config.other_birds_per_minute * len(out) / rate / 60)):
        bird = int(rng.integers(len(residents)))
        dry = render_phrase(str(residents[bird]), rate, rng)
        _add_faint(out, noise, dry, loudness[bird] + rng.normal(0, 2), (station, paths[bird]), rate, rng)


def _add_far_singer(out: FloatArray, noise: FloatArray, station: Station, config: SeasonConfig, rng: Rng) -> None:
    """Another nightingale, with types of its own, so far that only its loudest notes rise out of the noise."""
    if rng.random() >= config.far_singer_share:
        return
    rate = config.sample_rate_hz
    stranger = _strangers(config)
    singer = open_season(config).singers[int(rng.integers(config.n_singers))]
    path = draw_path(station, 30, rate, rng)
    usual = rng.uniform(-12, 0)
    for _ in range(round(len(out) / rate * config.duty / TYPICAL_SONG_S)):
        song = perform(stranger[int(rng.integers(len(stranger)))], singer, config, rng)
        _add_faint(out, noise, song.samples, usual + rng.normal(0, 2), (station, path), rate, rng)


@lru_cache(maxsize=4)
def _strangers(config: SeasonConfig) -> tuple[SongType, ...]:
    """Types of the far singer, which no labelled bird sings."""
    return draw_types(
        config.model_copy(update={"type_seed": config.type_seed + 1_000_003, "n_types": 20, "withheld": ()})
    )


def _mark_overlaps(songs: list[TrueSong]) -> list[TrueSong]:
    """Return the songs in order of onset, with those marked that share time with another."""
    songs = sorted(songs, key=lambda s: s.onset)
    return [
        TrueSong(**{**vars(s), "overlap": any(o is not s and o.onset < s.offset and s.onset < o.offset for o in songs)})
        for s in songs
    ]
