"""Song types: how they are drawn, varied into near-variants, and told apart in words."""

from dataclasses import dataclass, replace

import numpy as np

from songtrain.synth.config import SeasonConfig
from songtrain.synth.sections import Section, altered, draw_section

__all__ = ["SongType", "draw_types", "zipf_weights"]

SONG_S = (1.6, 6.2)
"""Shortest and longest type as written; renditions reach about 1.4 to 7 s."""

MAIN_KINDS = ("trill", "whistles", "buzz", "rattle", "sweep", "hiss")
MAIN_ODDS = (0.52, 0.2, 0.08, 0.08, 0.08, 0.04)


@dataclass(frozen=True)
class SongType:
    """A song type: its sections in order, and the type it was varied from, if any."""

    index: int
    sections: tuple[Section, ...]
    variant_of: int | None = None

    @property
    def label(self) -> str:
        """Name of the type in every table; types are numbered by rank, T000 the most sung."""
        return f"T{self.index:03d}"

    @property
    def duration_s(self) -> float:
        """Length as written."""
        return sum(s.duration_s for s in self.sections)

    def in_words(self) -> str:
        """Return the type as words, section by section."""
        return ", ".join(s.in_words() for s in self.sections)


def zipf_weights(config: SeasonConfig) -> np.ndarray:
    """Return how often each type is sung, (n_types,) float64 summing to one, withheld types zero."""
    weights = (1.0 + np.arange(config.n_types)) ** -config.zipf_exponent
    weights[list(config.withheld)] = 0
    return np.asarray(weights / weights.sum())


def draw_types(config: SeasonConfig) -> tuple[SongType, ...]:
    """Return the types of a season, which follow from ``type_seed``, ``n_types`` and ``near_variant_share`` alone."""
    types: list[SongType] = []
    for index in range(config.n_types):
        rng = np.random.default_rng(np.random.SeedSequence(config.type_seed, spawn_key=(index,)))
        originals = [t for t in types if t.variant_of is None]
        n_variants = index - len(originals)
        if originals and n_variants + 1 <= config.near_variant_share * (index + 1):
            types.append(_variant(originals[rng.integers(len(originals))], index, rng))
        else:
            types.append(_original(index, rng))
    return tuple(types)


def _original(index: int, rng: np.random.Generator) -> SongType:
    while True:
        song_type = SongType(index, _draw_sections(rng))
        if SONG_S[0] <= song_type.duration_s <= SONG_S[1]:
            return song_type


def _draw_sections(rng: np.random.Generator) -> tuple[Section, ...]:
    """Soft tick, soft opening, now and then a bridge, one to three loud sections, often a last loud note."""
    kinds = ["tick"] if rng.random() < 0.7 else []
    kinds += ["opening"] if rng.random() < 0.9 else []
    kinds += [str(rng.choice(["rattle", "sweep", "hiss", "buzz"]))] if rng.random() < 0.35 else []
    main = rng.choice(MAIN_KINDS, size=rng.choice([1, 2, 3], p=[0.3, 0.42, 0.28]), p=MAIN_ODDS)
    kinds += sorted(map(str, main), key=lambda kind: kind != "whistles")  # whistles rise into the trill, never after it
    kinds += ["close"] if rng.random() < 0.6 else []
    return tuple(draw_section(kind, rng) for kind in kinds)


def _variant(base: SongType, index: int, rng: np.random.Generator) -> SongType:
    """Exchange or alter one or two sections of a type, never all of them, never only the tick."""
    while True:
        open_to_change = [i for i, s in enumerate(base.sections) if s.kind != "tick"]
        n_changes = min(len(open_to_change), int(rng.integers(1, 3)), max(1, len(base.sections) - 1))
        sections = list(base.sections)
        for i in rng.choice(open_to_change, size=n_changes, replace=False):
            section = sections[i]
            exchanged = rng.random() < 0.5
            kind = section.kind if section.kind in {"opening", "close"} else str(rng.choice(MAIN_KINDS, p=MAIN_ODDS))
            sections[i] = replace(
                draw_section(kind, rng) if exchanged else altered(section, rng), gap_after_s=section.gap_after_s
            )
        variant = SongType(index, tuple(sections), base.index)
        if SONG_S[0] <= variant.duration_s <= SONG_S[1]:
            return variant
