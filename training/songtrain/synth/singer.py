"""Singers: what they know, how their voice differs, and one rendition of one song type."""

from dataclasses import dataclass, replace

import numpy as np

from songcore.arrays import FloatArray
from songtrain.synth.config import SeasonConfig
from songtrain.synth.notes import PlayedNote, Timbre, render_notes
from songtrain.synth.repertoire import SongType
from songtrain.synth.sections import Section

__all__ = ["Performance", "Singer", "draw_singers", "perform", "play", "render_songs"]

LOUD_DB = -15.0
"""The loud part begins with the first note at least this loud against the loudest."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Singer:
    """A bird: its site, its repertoire, its voice, and the dialect of its site."""

    index: int
    site: int
    repertoire: frozenset[int]
    octaves: float
    """Pitch of the voice against the type as written."""
    log_pace: float
    timbre: Timbre
    dialect_seed: int

    @property
    def name(self) -> str:
        """Name of the singer in every table."""
        return f"B{self.index + 1:02d}"


@dataclass(frozen=True)
class Performance:
    """One dry rendition: samples (n,) float32, from its first note's first sample to its last note's last."""

    samples: FloatArray
    loud_onset: int
    """Sample at which the first clear note begins, after the soft tick and opening."""


def draw_singers(config: SeasonConfig) -> tuple[Singer, ...]:
    """Return the singers of a season; every type is known by at least one of them."""
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(0,)))
    n_known = max(1, round(config.repertoire_share * config.n_types))
    # Neighbours share most of their songs: a site's taste plus the bird's own decides what it knows.
    taste = rng.random((config.n_sites, config.n_types))
    sites = np.arange(config.n_singers) % config.n_sites
    liking = 0.6 * taste[sites] + 0.4 * rng.random((config.n_singers, config.n_types))
    knows = np.argsort(np.argsort(-liking, axis=1), axis=1) < n_known
    orphans = np.flatnonzero(~knows.any(axis=0))
    knows[liking[:, orphans].argmax(axis=0), orphans] = True
    dialects = rng.integers(2**31, size=config.n_sites)
    return tuple(
        Singer(
            index=i,
            site=int(sites[i]),
            repertoire=frozenset(np.flatnonzero(knows[i]).tolist()),
            octaves=float(rng.normal(0, config.voice_sd_octaves)),
            log_pace=float(rng.normal(0, config.tempo_sd)),
            timbre=Timbre(float(rng.normal(0, 3)), float(rng.normal(0, 1.5))),
            dialect_seed=int(dialects[sites[i]]),
        )
        for i in range(config.n_singers)
    )


def _slips(section: Section, config: SeasonConfig, rng: Rng) -> Section:
    """Vary the number of repeats: long trills vary most, a rare slip adds or drops more."""
    n = section.n_repeats
    if n > 2:
        n += round(float(rng.normal(0, 0.35 * config.slip_share**0.5 * n**0.75)))
    if n > 1 and rng.random() < config.slip_share:
        n += int(rng.choice([-1, 1]))
    return replace(section, n_repeats=max(min(2, section.n_repeats), n))


def _kept_sections(song_type: SongType, config: SeasonConfig, rng: Rng) -> list[tuple[int, Section]]:
    """Sections of this rendition with their place in the type: soft ones are left out at times, the end may be cut."""
    kept = [
        (i, _slips(s, config, rng))
        for i, s in enumerate(song_type.sections)
        if not (s.kind in {"tick", "opening", "close"} and rng.random() < config.slip_share)
    ]
    loud = [place for place, (_, s) in enumerate(kept) if s.kind not in {"tick", "opening"}]
    if len(loud) > 1 and rng.random() < config.slip_share / 2:
        kept = kept[: loud[-1]]
    return kept


def play(song_type: SongType, singer: Singer, config: SeasonConfig, rng: Rng) -> list[PlayedNote]:
    """Return the notes of one rendition in order of time, the first at 0 s."""
    pace = float(np.exp(singer.log_pace + rng.normal(0, config.tempo_sd)))
    octaves = singer.octaves + rng.normal(0, config.pitch_sd_octaves)
    if song_type.index == config.drifting:
        octaves += config.day * config.drift_octaves
    played: list[PlayedNote] = []
    now = 0.0
    for place, section in _kept_sections(song_type, config, rng):
        dialect = np.random.default_rng((singer.dialect_seed, song_type.index, place))
        section_octaves = octaves + dialect.normal(0, config.dialect_sd_octaves)
        section_pace = pace * float(np.exp(dialect.normal(0, config.tempo_sd / 2) + rng.normal(0, config.tempo_sd / 3)))
        section_db = rng.normal(0, 1.5)
        course = np.linspace(0, 1, section.n_repeats) if section.n_repeats > 1 else np.zeros(1)
        for turn in course:
            level = section.level_db[0] + turn * (section.level_db[1] - section.level_db[0]) + section_db
            for note in section.motif:
                jitter = rng.normal(0, 1, 3)
                duration = note.duration_s / section_pace * float(np.exp(0.03 * jitter[0]))
                if section.n_repeats * len(section.motif) == 1 or rng.random() >= config.slip_share / 3:
                    pitch = section_octaves + turn * section.drift_octaves + 0.006 * jitter[1]
                    played.append(PlayedNote(note, now, duration, pitch, level + note.level_db + 0.7 * jitter[2]))
                now += duration + note.gap_s / section_pace * float(np.exp(rng.normal(0, 0.04)))
        now += section.gap_after_s / section_pace
    start = played[0].onset_s
    return [replace(p, onset_s=p.onset_s - start) for p in played]


def perform(song_type: SongType, singer: Singer, config: SeasonConfig, rng: Rng) -> Performance:
    """Sing one rendition of a type, dry and at full level."""
    played = play(song_type, singer, config, rng)
    samples = render_notes(played, singer.timbre, config.sample_rate_hz, rng)
    peak = max(p.level_db for p in played)
    first = next(p for p in played if p.level_db >= peak + LOUD_DB)
    return Performance(samples, round(first.onset_s * config.sample_rate_hz))


def render_songs(
    config: SeasonConfig, types: tuple[SongType, ...], indices: list[int], seed: int = 0
) -> list[tuple[str, FloatArray]]:
    """Return one clean rendition for each type index asked for, each by some bird: (label, samples (n,) float32)."""
    singers = draw_singers(config)
    songs = []
    for number, index in enumerate(indices):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, number)))
        knowing = [s for s in singers if index in s.repertoire]
        singer = knowing[rng.integers(len(knowing))]
        songs.append((types[index].label, perform(types[index], singer, config, rng).samples))
    return songs
