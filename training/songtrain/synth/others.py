"""The other birds of the place: short phrases in the manner of common species, sung now and then behind the songs."""

import numpy as np

from songcore.arrays import FloatArray
from songtrain.synth.notes import N_KNOTS, Note, render_sequence

__all__ = ["OTHER_BIRDS", "render_phrase"]

Rng = np.random.Generator


def _note(duration_s: float, start_hz: float, end_hz: float, gap_s: float, **more: float) -> Note:
    contour = tuple(float(c) for c in np.linspace(np.log2(start_hz), np.log2(end_hz), N_KNOTS))
    return Note(duration_s, contour, gap_s, partials=((2.0, -24.0), (3.0, -34.0)), **more)


def _tit(rng: Rng) -> list[Note]:
    high, low = rng.uniform(4500, 6500), rng.uniform(3000, 4200)
    pair = [_note(0.11, high, high * 0.97, 0.04), _note(0.13, low, low, rng.uniform(0.05, 0.12))]
    return pair * int(rng.integers(3, 8))


def _finch(rng: Rng) -> list[Note]:
    top = rng.uniform(4500, 6500)
    steps = np.geomspace(top, top * 0.55, int(rng.integers(9, 16)))
    trill = [_note(0.06, hz * 1.2, hz * 0.75, 0.05) for hz in steps]
    return [*trill, _note(0.12, 2500, 4800, 0.02), _note(0.15, 5000, 2600, 0.0)]


def _dove(rng: Rng) -> list[Note]:
    hz = rng.uniform(430, 620)
    return [_note(d, hz, hz * rng.uniform(0.93, 1.05), 0.14, attack=0.3) for d in (0.25, 0.6, 0.4, 0.25, 0.25)]


def _warbler(rng: Rng) -> list[Note]:
    notes = []
    for _ in range(rng.integers(6, 14)):
        hz = rng.choice([3600, 4300, 5200]) * rng.uniform(0.97, 1.03)
        notes.append(_note(0.1, hz * 1.25, hz * 0.85, rng.uniform(0.12, 0.2)))
    return notes


def _blackbird(rng: Rng) -> list[Note]:
    flute = [
        _note(rng.uniform(0.1, 0.3), rng.uniform(1600, 2900), rng.uniform(1600, 2900), rng.uniform(0.02, 0.1))
        for _ in range(rng.integers(4, 8))
    ]
    return [*flute, *(_note(0.03, rng.uniform(5000, 8000), rng.uniform(4000, 8000), 0.02) for _ in range(8))]


def _crest(rng: Rng) -> list[Note]:
    hz = rng.uniform(6500, 8200)
    return [_note(0.07, hz * k, hz * 0.95 * k, 0.06) for k in (1, 0.93)] * int(rng.integers(4, 7))


def _crow(rng: Rng) -> list[Note]:
    hz = rng.uniform(900, 1500)
    return [_note(0.25, hz, hz * 0.85, 0.3, rough_octaves=0.2, pulse_hz=70, pulse_depth=0.6)] * int(rng.integers(2, 5))


def _wren(rng: Rng) -> list[Note]:
    phrases = []
    for _ in range(rng.integers(2, 5)):
        hz, rate = rng.uniform(3500, 7000), rng.uniform(10, 30)
        phrases += [_note(0.6 / rate, hz * 1.2, hz * 0.8, 0.4 / rate)] * int(rng.uniform(0.3, 0.8) * rate)
    return phrases


OTHER_BIRDS = {
    "tit": _tit,
    "finch": _finch,
    "dove": _dove,
    "warbler": _warbler,
    "blackbird": _blackbird,
    "crest": _crest,
    "crow": _crow,
    "wren": _wren,
}
"""A phrase of each kind of bird, as notes."""


def render_phrase(bird: str, sample_rate_hz: int, rng: Rng) -> FloatArray:
    """Return one dry phrase of the named bird, samples (n,) float32."""
    return render_sequence(OTHER_BIRDS[bird](rng), sample_rate_hz, rng)
