"""Sections of nightingale song: what a bird sings in one go, drawn from wide distributions of real shapes.

A section is a motif of one or more notes, repeated. Numbers follow spectrograms of nightingales: soft, varied notes at
first, then one or two loud repeated sections, then often one last loud note.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from songtrain.synth.notes import N_KNOTS, Note

__all__ = ["SECTION_KINDS", "Section", "altered", "draw_section"]

Rng = np.random.Generator


@dataclass(frozen=True)
class Section:
    """A motif sung ``n_repeats`` times, with a course of level and pitch."""

    kind: str
    motif: tuple[Note, ...]
    n_repeats: int = 1
    level_db: tuple[float, float] = (0.0, 0.0)
    """Level of the first and of the last repeat."""
    drift_octaves: float = 0.0
    """Pitch of the last repeat against the first."""
    gap_after_s: float = 0.04

    @property
    def duration_s(self) -> float:
        """Length as written, from the first note to the gap before the next section."""
        return self.n_repeats * sum(n.duration_s + n.gap_s for n in self.motif) + self.gap_after_s

    def in_words(self) -> str:
        """Return the section in words, such as ``trill 3.4→1.7 kHz, 9/s ×8``."""
        first = self.motif[0]
        start, end = (2 ** first.contour[i] / 1000 for i in (0, -1))
        pitch = f"{start:.1f}→{end:.1f} kHz" if abs(start - end) > 0.1 * start else f"{start:.1f} kHz"
        if self.n_repeats == 1:
            return f"{self.kind} {pitch}" + (f" and {len(self.motif) - 1} more" if len(self.motif) > 1 else "")
        period = sum(n.duration_s + n.gap_s for n in self.motif)
        notes = f" of {len(self.motif)} notes" if len(self.motif) > 1 else ""
        return f"{self.kind}{notes} {pitch}, {1 / period:.0f}/s ×{self.n_repeats}"


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _partials(rng: Rng, first_db: float, step_db: float) -> tuple[tuple[float, float], ...]:
    """Three harmonics that fall off unevenly, and now and then the second voice of the syrinx."""
    harmonics = [(float(k), first_db - (k - 2) * step_db + rng.normal(0, 5)) for k in (2, 3, 4)]
    if rng.random() < 0.12:
        harmonics.append((float(rng.uniform(1.15, 2.7)), float(rng.uniform(-14, -3))))
    return tuple(harmonics)


def _shape(rng: Rng, shape: str) -> np.ndarray:
    """Draw a contour between 0 and 1 of the named shape, with some waywardness."""
    u = np.linspace(0, 1, N_KNOTS)
    bend = rng.uniform(0.4, 2.5)
    curves: dict[str, Callable[[], np.ndarray]] = {
        "fall": lambda: (1 - u) ** bend,
        "rise": lambda: u**bend,
        "arch": lambda: np.sin(np.pi * u**bend),
        "dip": lambda: 1 - np.sin(np.pi * u**bend),
        "hook": lambda: np.where(u < 0.35, 1 - u / 0.35, 0.25 * (u - 0.35)),
        "kick": lambda: np.where(u > 0.65, (u - 0.65) / 0.35, 0.15 * (0.65 - u)),
        "wave": lambda: 0.5 + 0.5 * np.sin(2 * np.pi * (u * rng.uniform(0.8, 1.6) + rng.random())),
        "step": lambda: (u > rng.uniform(0.3, 0.7)) * rng.choice([-1.0, 1.0]) + 0.0,
    }
    return curves[shape]() + rng.normal(0, 0.05, N_KNOTS)


SHAPES = ("fall", "rise", "arch", "dip", "hook", "kick", "wave", "step")


def _contour(rng: Rng, low_hz: float, span_octaves: float, shapes: tuple[str, ...] = SHAPES) -> tuple[float, ...]:
    """Draw a contour that reaches from ``low_hz`` up by about ``span_octaves``, under 11 kHz."""
    octaves = np.log2(low_hz) + span_octaves * _shape(rng, str(rng.choice(shapes)))
    return tuple(float(c) for c in np.clip(octaves, np.log2(800), np.log2(11_000)))


def _tick(rng: Rng) -> Section:
    note = Note(
        duration_s=rng.uniform(0.006, 0.02),
        contour=_contour(rng, _log_uniform(rng, 1200, 2500), rng.uniform(0.6, 1.6), ("fall", "arch")),
        partials=_partials(rng, -12, 6),
    )
    return Section("tick", (note,), level_db=(rng.uniform(-40, -22),) * 2, gap_after_s=rng.uniform(0.1, 0.26))


def _free_note(rng: Rng) -> Note:
    """One note of the soft, varied beginning or of a flourish."""
    texture = rng.choice(["clean", "stack", "pulsed", "wobbly", "hiss"], p=[0.52, 0.18, 0.12, 0.08, 0.1])
    low = _log_uniform(rng, 1400, 6000)
    note = Note(
        duration_s=_log_uniform(rng, 0.035, 0.2),
        contour=_contour(rng, low, rng.uniform(0.05, 1.4)),
        gap_s=_log_uniform(rng, 0.015, 0.16),
        level_db=rng.normal(0, 3),
        attack=rng.uniform(0.05, 0.5),
        release=rng.uniform(0.1, 0.6),
        partials=_partials(rng, -18, 6),
    )
    if texture == "stack":
        base = _log_uniform(rng, 900, 1600)
        harmonics = tuple((float(k), float(rng.uniform(-4, 8))) for k in (2, 3, 4, 5))
        return replace(note, contour=_contour(rng, base, rng.uniform(0.02, 0.3)), partials=harmonics)
    return _textured(note, str(texture), rng)


def _textured(note: Note, texture: str, rng: Rng) -> Note:
    """Give a note a rough texture, or leave it clean."""
    if texture == "pulsed":
        return replace(note, pulse_hz=rng.uniform(35, 160), pulse_depth=rng.uniform(0.6, 1))
    if texture == "wobbly":
        return replace(note, wobble_hz=rng.uniform(18, 60), wobble_octaves=rng.uniform(0.05, 0.25))
    if texture == "hiss":
        return replace(note, rough_octaves=rng.uniform(0.04, 0.2))
    return note


def _opening(rng: Rng) -> Section:
    motif = tuple(_free_note(rng) for _ in range(rng.integers(2, 6)))
    start = rng.uniform(-24, -12)
    return Section("opening", motif, level_db=(start, start + rng.uniform(2, 8)), gap_after_s=rng.uniform(0.02, 0.1))


def _whistles(rng: Rng) -> Section:
    """Draw pure whistles; the slow rising series is the nightingale's best known phrase."""
    shapes: tuple[str, ...] = ("rise", "fall", "arch", "wave")
    duration, gap = rng.uniform(0.12, 0.5), rng.uniform(0.06, 0.3)
    span = rng.uniform(0.01, 0.12)
    if rng.random() < 0.45:  # pju pju: every whistle starts or ends with a quick slide
        shapes, span = ("hook", "kick"), rng.uniform(0.15, 0.7)
        duration, gap = rng.uniform(0.1, 0.3), rng.uniform(0.04, 0.15)
    note = Note(
        duration_s=duration,
        contour=_contour(rng, _log_uniform(rng, 1300, 5500), span, shapes),
        gap_s=gap,
        attack=rng.uniform(0.05, 0.5),
        release=rng.uniform(0.05, 0.4),
        partials=_partials(rng, rng.uniform(-40, -22), 4),
        wobble_hz=rng.uniform(8, 25),
        wobble_octaves=rng.choice([0.0, 0.015]),
    )
    n = int(np.clip(rng.uniform(1.2, 3.6) / (duration + gap), 3, 12))
    level = (float(rng.choice([-20.0, -12.0, -4.0, 0.0])), 0.0)
    return Section("whistles", (note,), n, level, rng.normal(0, 0.04), rng.uniform(0.03, 0.12))


def _trill_note(rng: Rng, duration_s: float, gap_s: float) -> Note:
    texture = rng.choice(["clean", "pulsed", "wobbly", "hiss"], p=[0.74, 0.12, 0.08, 0.06])
    low = _log_uniform(rng, 1300, 5000)
    note = Note(
        duration_s=duration_s,
        contour=_contour(rng, low, min(rng.uniform(0.15, 1.9), np.log2(10_500 / low))),
        gap_s=gap_s,
        level_db=rng.normal(0, 2),
        attack=rng.uniform(0.03, 0.5),
        release=rng.uniform(0.05, 0.6),
        partials=_partials(rng, rng.uniform(-26, -10), 5),
    )
    return _textured(note, str(texture), rng)


def _trill(rng: Rng) -> Section:
    n_notes = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    period = 1 / _log_uniform(rng, 5, 40 if n_notes == 1 else 12)
    shares = rng.dirichlet(np.full(n_notes, 6.0)) * period
    fill = rng.uniform(0.45, 0.95)
    motif = tuple(_trill_note(rng, float(s * fill), float(s * (1 - fill))) for s in shares)
    n = int(np.clip(_log_uniform(rng, 0.25, 1.7) / period, 2, 40))
    level = (rng.choice([0.0, -6.0, -14.0]), rng.choice([0.0, 0.0, -4.0]))
    return Section("trill", motif, n, level, rng.normal(0, 0.08), rng.uniform(0.015, 0.09))


def _rattle(rng: Rng) -> Section:
    click = Note(
        duration_s=rng.uniform(0.004, 0.013),
        contour=_contour(rng, _log_uniform(rng, 1200, 3500), rng.uniform(0.8, 2.2), ("fall", "rise", "arch")),
        partials=_partials(rng, -10, 4),
    )
    period = 1 / _log_uniform(rng, 14, 55)
    click = replace(click, gap_s=max(0.002, period - click.duration_s))
    n = int(np.clip(rng.uniform(0.15, 1.0) / period, 4, 45))
    return Section("rattle", (click,), n, (rng.uniform(-12, 0), rng.uniform(-6, 0)), rng.normal(0, 0.1), 0.05)


def _buzz(rng: Rng) -> Section:
    note = Note(
        duration_s=rng.uniform(0.12, 0.9),
        contour=_contour(rng, _log_uniform(rng, 2000, 6500), rng.uniform(0.02, 0.4)),
        gap_s=rng.uniform(0.03, 0.15),
        partials=_partials(rng, -20, 5),
        wobble_hz=_log_uniform(rng, 18, 160),
        wobble_octaves=rng.uniform(0.06, 0.4),
    )
    n = 1 if note.duration_s > 0.4 else int(rng.integers(1, 5))
    return Section("buzz", (note,), n, (rng.uniform(-10, 0), 0.0), rng.normal(0, 0.06), rng.uniform(0.02, 0.1))


def _sweep(rng: Rng) -> Section:
    low = _log_uniform(rng, 1100, 3500)
    note = Note(
        duration_s=_log_uniform(rng, 0.08, 0.45),
        contour=_contour(rng, low, rng.uniform(0.6, min(2.4, np.log2(10_500 / low))), ("fall", "rise", "arch", "dip")),
        gap_s=rng.uniform(0.03, 0.12),
        attack=rng.uniform(0.05, 0.4),
        partials=_partials(rng, -18, 6),
    )
    return Section("sweep", (note,), int(rng.integers(1, 4)), (rng.uniform(-10, 0), 0.0), 0.0, rng.uniform(0.02, 0.08))


def _hiss(rng: Rng) -> Section:
    note = Note(
        duration_s=rng.uniform(0.06, 0.35),
        contour=_contour(rng, _log_uniform(rng, 2200, 5500), rng.uniform(0.0, 0.5)),
        gap_s=rng.uniform(0.03, 0.12),
        rough_octaves=rng.uniform(0.05, 0.2),
    )
    return Section("hiss", (note,), int(rng.integers(1, 6)), (rng.uniform(-8, 0), 0.0), 0.0, rng.uniform(0.02, 0.08))


def _close(rng: Rng) -> Section:
    note = replace(_trill_note(rng, _log_uniform(rng, 0.03, 0.25), 0.0), release=rng.uniform(0.2, 0.7))
    return Section("close", (note,), 1, (rng.uniform(-6, 3),) * 2, gap_after_s=0.0)


_DRAW: dict[str, Callable[[Rng], Section]] = {
    "tick": _tick,
    "opening": _opening,
    "whistles": _whistles,
    "trill": _trill,
    "rattle": _rattle,
    "buzz": _buzz,
    "sweep": _sweep,
    "hiss": _hiss,
    "close": _close,
}

SECTION_KINDS = tuple(_DRAW)
"""Every kind of section, in the order in which songs tend to use them."""


def draw_section(kind: str, rng: Rng) -> Section:
    """Draw a section of the given kind."""
    return _DRAW[kind](rng)


def altered(section: Section, rng: Rng) -> Section:
    """Return the section as a near-variant has it: clearly moved in pitch, or sung at another pace."""
    if rng.random() < 0.6:
        octaves = float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.6))
        return replace(section, motif=tuple(n.moved(octaves) for n in section.motif))
    pace = float(np.exp(rng.choice([-1, 1]) * rng.uniform(0.3, 0.6)))
    motif = tuple(replace(n, duration_s=n.duration_s * pace, gap_s=n.gap_s * pace) for n in section.motif)
    return replace(section, motif=motif, n_repeats=max(1, round(section.n_repeats / pace)))
