"""A season: who sings what when, and the sound of any one of its recordings.

The plan (which songs belong to which recording) and every recording have random numbers of their own, so recordings
can be rendered alone, in any order and in parallel, and are always the same.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from songcore.arrays import FloatArray
from songtrain.synth.config import SeasonConfig
from songtrain.synth.noise import band_power, draw_weather, render_noise
from songtrain.synth.others import OTHER_BIRDS, render_phrase
from songtrain.synth.plan import TYPICAL_SONG_S, RecordingPlan, plan_season
from songtrain.synth.repertoire import SongType, draw_types
from songtrain.synth.scene import Carrier, Station, draw_path, draw_stations, gain_for_snr
from songtrain.synth.singer import Performance, Singer, draw_singers, perform

__all__ = ["Layers", "Season", "TrueSong", "open_season", "render_layers", "render_recording"]

MIN_PAUSE_S = 1.2
"""Silence around every song of one bird, longer than most gaps within songs."""

SNR_BETA = (2.0, 1.5)
"""Where in the season's range of ratios a bird is in one recording: anywhere, the ends less often than the middle."""

FULL_SCALE = 0.9
"""Recordings louder than this are turned down as a whole, which changes no ratio."""

Rng = np.random.Generator


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
    return Season(draw_types(config), singers, stations, plan_season(config, singers))


def render_recording(config: SeasonConfig, index: int) -> tuple[FloatArray, list[TrueSong]]:
    """Return recording ``index`` of the season: samples (n,) float32 in [-1, 1], and its songs in order of onset."""
    layers, songs = render_layers(config, index)
    return layers.songs + layers.noise + layers.others, songs


def render_layers(config: SeasonConfig, index: int) -> tuple[Layers, list[TrueSong]]:
    """Return recording ``index`` as layers, and its songs in order of onset."""
    season = open_season(config)
    plan, rate = season.recordings[index], config.sample_rate_hz
    station = season.stations[plan.station]
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=config.spawn_key(3, index)))
    parts = [
        (season.singers[singer], [(t, perform(season.types[t], season.singers[singer], config, rng)) for t in types])
        for singer, types in plan.parts
    ]
    needed = max(_filled_samples([p for _, p in sung], rate) for _, sung in parts)
    n = max(round(config.recording_s * rate), needed)
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


def _filled_samples(sung: list[Performance], sample_rate_hz: int) -> int:
    """Length of these songs with the shortest pauses around them."""
    return sum(len(p.samples) for p in sung) + (len(sung) + 1) * round(MIN_PAUSE_S * sample_rate_hz)


def _pauses(sung: list[Performance], n_samples: int, sample_rate_hz: int, rng: Rng) -> list[int]:
    """Silence before each song, samples: the least pause, and the rest of the time shared out unevenly."""
    spare = n_samples - _filled_samples(sung, sample_rate_hz)
    shares = rng.gamma(2.5, size=len(sung) + 1)
    return [round(MIN_PAUSE_S * sample_rate_hz) + int(spare * s) for s in shares[:-1] / shares.sum()]


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
    usual = low + (high - low) * rng.beta(*SNR_BETA)
    path = Carrier(draw_path(station, high - usual, config.sample_rate_hz, rng))
    truth, now = [], 0
    pauses = _pauses([p for _, p in sung], len(out), config.sample_rate_hz, rng)
    for pause, (index, performance) in zip(pauses, sung, strict=True):
        onset = now + pause
        now = offset = onset + len(performance.samples)
        snr_db = float(np.clip(usual + rng.normal(0, 2), low, high))
        wet = path.carry(performance.samples)
        gain = gain_for_snr(wet[: offset - onset], noise[onset:offset], snr_db, config.sample_rate_hz)
        end = min(len(out), onset + len(wet))
        out[onset:end] += np.float32(gain) * wet[: end - onset]
        label, loud = open_season(config).types[index].label, onset + performance.loud_onset
        truth.append(TrueSong(plan.name, onset, offset, label, singer.name, station.name, snr_db, False, loud))
    return truth


def _add_faint(
    out: FloatArray, noise: FloatArray, wet: FloatArray, level_db: float, sample_rate_hz: int, rng: Rng
) -> None:
    """Add a sound at a random time, at a level over all frequencies against the noise of the band there."""
    onset = int(rng.integers(0, max(1, len(out) - len(wet))))
    end = min(len(out), onset + len(wet))
    powers = float(np.mean(np.square(wet))), band_power(noise[onset:end], sample_rate_hz)
    gain = np.sqrt(powers[1] / max(powers[0], 1e-20) * 10 ** (level_db / 10))
    out[onset:end] += np.float32(gain) * wet[: end - onset]


def _add_other_birds(out: FloatArray, noise: FloatArray, station: Station, config: SeasonConfig, rng: Rng) -> None:
    rate = config.sample_rate_hz
    residents = rng.choice(list(OTHER_BIRDS), size=3, replace=False)
    paths = [Carrier(draw_path(station, rng.uniform(15, 30), rate, rng)) for _ in residents]
    loudness = rng.uniform(-6, 12, len(residents))
    for _ in range(rng.poisson(config.other_birds_per_minute * len(out) / rate / 60)):
        bird = int(rng.integers(len(residents)))
        wet = paths[bird].carry(render_phrase(str(residents[bird]), rate, rng))
        _add_faint(out, noise, wet, loudness[bird] + rng.normal(0, 2), rate, rng)


def _add_far_singer(out: FloatArray, noise: FloatArray, station: Station, config: SeasonConfig, rng: Rng) -> None:
    """Another nightingale, with types of its own, so far that only its loudest notes rise out of the noise."""
    if rng.random() >= config.far_singer_share:
        return
    rate = config.sample_rate_hz
    strangers = _strangers(config)
    singer = open_season(config).singers[int(rng.integers(config.n_singers))]
    path = Carrier(draw_path(station, 30, rate, rng))
    usual = rng.uniform(-12, 0)
    for _ in range(round(len(out) / rate * config.duty / TYPICAL_SONG_S)):
        song = perform(strangers[int(rng.integers(len(strangers)))], singer, config, rng)
        _add_faint(out, noise, path.carry(song.samples), usual + rng.normal(0, 2), rate, rng)


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
        replace(s, overlap=any(o is not s and o.onset < s.offset and s.onset < o.offset for o in songs)) for s in songs
    ]
