"""One note of bird song, and the sound of many notes at once.

A note is a tone with a frequency contour, a few partials, an envelope, and three ways of being rough: a fast sinusoidal
frequency modulation (buzz), amplitude pulses, and a random frequency modulation that spreads it into a noise band.
Whistles, sweeps, trill notes, clicks, buzzes and hisses are all points of that one space, which is why every note of a
song is synthesised in one vectorised pass.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from songcore.arrays import FloatArray

__all__ = ["N_KNOTS", "Note", "PlayedNote", "Timbre", "render_notes", "render_sequence"]

N_KNOTS = 6
"""Equally spaced points that define a contour."""

N_GRID = 33
"""Points of the smooth contour between which frequency is interpolated linearly."""

ROUGH_HOLD_S = 1 / 4000
"""Time for which random frequency modulation holds a value: faster averages out, slower is jitter."""

ATTACK_MIN_S = 0.0012
"""Shortest attack and release: an instant one would click over the whole band."""

INAUDIBLE_DB = -50.0
"""Partials below this are not worth their arithmetic."""

TURN = np.float32(2 * np.pi)


@dataclass(frozen=True)
class Note:
    """One note as a type knows it, and the silence after it."""

    duration_s: float
    contour: tuple[float, ...]
    """log2 of the frequency in Hz at `N_KNOTS` equally spaced times."""
    gap_s: float = 0.0
    level_db: float = 0.0
    attack: float = 0.15
    """Share of the duration in which the level rises."""
    release: float = 0.3
    partials: tuple[tuple[float, float], ...] = ()
    """Further components, (frequency ratio, level in dB): harmonics, or the second voice of the syrinx."""
    wobble_hz: float = 0.0
    wobble_octaves: float = 0.0
    pulse_hz: float = 0.0
    pulse_depth: float = 0.0
    rough_octaves: float = 0.0

    def moved(self, octaves: float) -> "Note":
        """Return the note at another pitch."""
        return replace(self, contour=tuple(c + octaves for c in self.contour))


@dataclass(frozen=True)
class PlayedNote:
    """A note placed in time, as one rendition sings it."""

    note: Note
    onset_s: float
    duration_s: float
    octaves: float
    level_db: float


@dataclass(frozen=True)
class Timbre:
    """The colour of one voice: level of its partials, dB, and spectral tilt, dB per octave around 3 kHz."""

    partial_db: float = 0.0
    tilt_db_per_octave: float = 0.0


@cache
def _spline() -> NDArray[np.float64]:
    """Matrix (N_GRID, N_KNOTS) from knots to the smooth contour; a cubic spline is linear in its knots."""
    knots = np.linspace(0, 1, N_KNOTS)
    spline = CubicSpline(knots, np.eye(N_KNOTS), bc_type="natural")
    return np.asarray(spline(np.linspace(0, 1, N_GRID)))


def render_notes(played: list[PlayedNote], timbre: Timbre, sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """Return the notes as sound, samples (n,) float32, a note of level 0 dB having amplitude 1.

    Notes must not overlap; n reaches exactly to the end of the last one.
    """
    starts = np.array([round(p.onset_s * sample_rate_hz) for p in played])
    lengths = np.array([max(8, round(p.duration_s * sample_rate_hz)) for p in played])
    lengths[:-1] = np.minimum(lengths[:-1], np.diff(starts))
    owner = np.repeat(np.arange(len(played)), lengths)
    begin = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    tick = np.arange(len(owner)) - np.repeat(begin, lengths)
    frequency = _frequency(played, owner, tick, lengths, sample_rate_hz, rng)
    cycles = np.cumsum(frequency, dtype=np.float64) / sample_rate_hz
    sound = _tone(played, owner, frequency, cycles, timbre, sample_rate_hz)
    sound *= _envelope(played, owner, tick, lengths, sample_rate_hz)
    out = np.zeros(int(starts[-1] + lengths[-1]), np.float32)
    out[np.repeat(starts, lengths) + tick] = sound
    return out


def render_sequence(notes: list[Note], sample_rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """Return the notes one after the other as written, samples (n,) float32."""
    now, played = 0.0, []
    for note in notes:
        played.append(PlayedNote(note, now, note.duration_s, 0.0, note.level_db))
        now += note.duration_s + note.gap_s
    return render_notes(played, Timbre(), sample_rate_hz, rng)


def _column(values: list[float], owner: NDArray[np.int64]) -> FloatArray:
    """Spread one value per note over that note's samples."""
    return np.array(values, np.float32)[owner]


def _frequency(
    played: list[PlayedNote],
    owner: NDArray[np.int64],
    tick: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sample_rate_hz: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Instantaneous frequency of every sample, Hz, kept between 200 Hz and just below half the rate."""
    knots = np.array([p.note.contour for p in played]) + np.array([[p.octaves] for p in played])
    grid = (knots @ _spline().T).astype(np.float32).ravel()
    place = tick.astype(np.float32) * ((N_GRID - 1) / np.maximum(lengths - 1, 1)).astype(np.float32)[owner]
    left = np.minimum(place.astype(np.int32), N_GRID - 2)
    place -= left
    left += owner.astype(np.int32) * N_GRID
    octaves = grid[left]
    octaves += place * (grid[left + 1] - octaves)
    if any(p.note.wobble_octaves for p in played):
        rate = _column([p.note.wobble_hz * 2 * np.pi / sample_rate_hz for p in played], owner)
        octaves += _column([p.note.wobble_octaves for p in played], owner) * np.sin(rate * tick)
    if any(p.note.rough_octaves for p in played):
        hold = max(1, round(ROUGH_HOLD_S * sample_rate_hz))
        noise = rng.standard_normal(len(owner) // hold + 1, dtype=np.float32)
        octaves += _column([p.note.rough_octaves for p in played], owner) * np.repeat(noise, hold)[: len(owner)]
    limits = np.log2([200, 0.47 * sample_rate_hz]).astype(np.float32)
    return np.asarray(np.exp2(np.clip(octaves, *limits)), np.float32)


def _tone(
    played: list[PlayedNote],
    owner: NDArray[np.int64],
    frequency: FloatArray,
    cycles: NDArray[np.float64],
    timbre: Timbre,
    sample_rate_hz: int,
) -> FloatArray:
    """Fundamental and partials at unit level, each fading out before half the sample rate."""
    turn = (cycles - np.floor(cycles)).astype(np.float32)
    sound = np.sin(turn * TURN)
    for slot in range(max(len(p.note.partials) for p in played)):
        chosen = [p.note.partials[slot] if slot < len(p.note.partials) else (1.0, -np.inf) for p in played]
        gains = [10 ** ((db + timbre.partial_db) / 20) if db > INAUDIBLE_DB else 0.0 for _, db in chosen]
        where = np.flatnonzero(np.array(gains)[owner])
        mine = owner[where]
        ratio = _column([r for r, _ in chosen], mine)
        # Whole turns may be left out before multiplying by a whole ratio, not before multiplying by any other.
        whole = all(r == round(r) for r, _ in chosen)
        angle = turn[where] * ratio if whole else np.mod(cycles[where] * ratio, 1).astype(np.float32)
        room = np.clip((np.float32(0.48 * sample_rate_hz) - ratio * frequency[where]) / 1000, 0, 1)
        sound[where] += _column(gains, mine) * room * np.sin(angle * TURN)
    if timbre.tilt_db_per_octave:
        sound *= np.power(frequency / np.float32(3000), np.float32(timbre.tilt_db_per_octave / 20 / np.log10(2)))
    return np.asarray(sound, np.float32)


def _envelope(
    played: list[PlayedNote],
    owner: NDArray[np.int64],
    tick: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sample_rate_hz: int,
) -> FloatArray:
    """Level of every sample: raised-cosine flanks, amplitude pulses, and the note's level."""
    durations = lengths / sample_rate_hz
    attack = np.maximum([p.note.attack * d for p, d in zip(played, durations, strict=True)], ATTACK_MIN_S)
    release = np.maximum([p.note.release * d for p, d in zip(played, durations, strict=True)], ATTACK_MIN_S)
    rise = (tick + 1) / np.maximum(1, attack * sample_rate_hz).astype(np.float32)[owner]
    fall = (lengths[owner] - tick) / np.maximum(1, release * sample_rate_hz).astype(np.float32)[owner]
    flank = np.minimum(1, np.minimum(rise, fall)).astype(np.float32)
    level = np.array([10 ** (p.level_db / 20) for p in played], np.float32)[owner]
    envelope = level * flank * flank * (3 - 2 * flank)
    if any(p.note.pulse_depth for p in played):
        rate = _column([p.note.pulse_hz * 2 * np.pi / sample_rate_hz for p in played], owner)
        depth = _column([p.note.pulse_depth for p in played], owner)
        envelope *= 1 - depth * (0.5 + 0.5 * np.cos(rate * tick))
    return np.asarray(envelope, np.float32)
