"""The numbers of a repertoire, from what was heard. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from songcore.repertoire import (
    RepertoireSize,
    Transitions,
    accumulation_band,
    accumulation_curve,
    chao1,
    good_turing_coverage,
    transition_matrix,
)
from songcore.zipf import ZipfFit, fit_zipf
from songserve.repertoire.season import Heard, Season
from songserve.tally import by_number

__all__ = ["Curve", "Repertoire", "measure", "summary"]

N_POINTS = 60
"""Of an accumulation curve."""


@dataclass(frozen=True)
class Curve:
    """How many types are among so many songs, expected over all orders of hearing them, and where that might have been."""

    n_songs: Sequence[int]
    types: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Repertoire:
    """What is known of the repertoire of one station, or all, in one period, or in all."""

    station: str
    period: str
    hours: float
    counts: dict[str, int]
    """Songs by type, most frequent first, novel ones and noise left out."""
    n_novel: int
    n_noise: int
    size: RepertoireSize
    coverage: float
    """Estimated probability that the next song, unless it is novel, is of a type already heard."""
    zipf: ZipfFit
    curve: Curve
    transitions: Transitions

    @property
    def n_songs(self) -> int:
        """Songs that have a type."""
        return sum(self.counts.values())


def measure(season: Season, *, seed: int, n_bootstrap: int) -> list[Repertoire]:
    """Return every repertoire of the season: all stations first, the whole time before its periods."""
    return [
        _measure(station, period, heard, np.random.default_rng(seed), n_bootstrap)
        for (station, period), heard in season.heard.items()
    ]


def _measure(station: str, period: str, heard: Heard, rng: np.random.Generator, n_bootstrap: int) -> Repertoire:
    counts = by_number(dict(heard.counts))
    numbers = list(counts.values())
    return Repertoire(
        station=station,
        period=period,
        hours=heard.recorded_s / 3600,
        counts=counts,
        n_novel=heard.n_novel,
        n_noise=heard.n_noise,
        size=chao1(numbers),
        coverage=good_turing_coverage(numbers),
        zipf=fit_zipf(numbers, rng=rng, n_bootstrap=n_bootstrap),
        curve=_curve(numbers),
        transitions=transition_matrix(heard.bouts),
    )


def _curve(counts: Sequence[int]) -> Curve:
    sizes = np.unique(np.linspace(0, sum(counts), N_POINTS).round().astype(np.int64)).tolist()
    low, high = accumulation_band(counts, sizes)
    return Curve(sizes, accumulation_curve(counts, sizes).tolist(), low.tolist(), high.tolist())


def summary(one: Repertoire) -> dict[str, Any]:
    """Return its single numbers by name; ``all`` stands for all stations and the whole time.

    None for what nothing is known of: estimates without a song that has a type, Zipf's law with fewer than two types.
    """
    numbers = list(one.counts.values())
    has_songs, has_ranks = len(numbers) > 0, len(numbers) > 1
    return {
        "station": one.station or "all",
        "period": one.period or "all",
        "recorded_hours": round(one.hours, 4),
        "n_songs": one.n_songs,
        "songs_per_hour": round(one.n_songs / one.hours, 4) if one.hours else None,
        "n_novel": one.n_novel,
        "n_noise": one.n_noise,
        "n_types": one.size.n_heard,
        "n_types_once": numbers.count(1),
        "n_types_twice": numbers.count(2),
        "coverage": one.coverage if has_songs else None,
        "chao1": one.size.estimate if has_songs else None,
        "chao1_low": one.size.low if has_songs else None,
        "chao1_high": one.size.high if has_songs else None,
        **{f"zipf_{name}": value if has_ranks else None for name, value in asdict(one.zipf).items()},
    }
