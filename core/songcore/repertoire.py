"""How much of a repertoire has been heard, and in what order it is sung: estimates from counts of song types.

A type is here whatever a song was named; a song of no type is not counted. The estimators are those of species richness:
songs are individuals and types are species.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import norm

from songcore.errors import InputError

__all__ = [
    "RepertoireSize",
    "Transitions",
    "accumulation_band",
    "accumulation_curve",
    "chao1",
    "good_turing_coverage",
    "transition_matrix",
]


@dataclass(frozen=True)
class RepertoireSize:
    """How many types the singers have, heard or not, as far as the counts can tell."""

    n_heard: int
    estimate: float
    """Chao1: a lower bound of the number of types."""
    low: float
    high: float
    """Ends of the confidence interval."""


@dataclass(frozen=True)
class Transitions:
    """Which type follows which."""

    types: tuple[str, ...]
    """Row and column names, sorted."""
    counts: NDArray[np.int64]
    """(n_types, n_types): how often the column's type came right after the row's."""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(n_types, n_types) float64, rows summing to one; a type that nothing followed has a row of zeros."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.asarray(self.counts / np.maximum(totals, 1))


def accumulation_curve(counts: Sequence[int], n_songs: Sequence[int]) -> NDArray[np.float64]:
    """Return the expected number of types (len(n_songs),) among so many songs drawn from those heard.

    Rarefaction without replacement: E[types in n of N songs] = Σ_i 1 - C(N - f_i, n) / C(N, n) (Hurlbert 1971,
    Ecology 52: 577-586), the mean of all orders in which the songs could have been heard.
    """
    heard = _heard(counts)
    total = int(heard.sum())
    sizes = np.asarray(n_songs, np.int64).reshape(-1)
    if len(sizes) and not 0 <= sizes.min() <= sizes.max() <= total:
        raise InputError(
            f"n_songs goes from {sizes.min()} to {sizes.max()}; of the songs heard, 0 to {total} can be drawn"
        )
    return np.asarray(len(heard) - sum(_unheard(heard, sizes), np.zeros(len(sizes))))


def accumulation_band(
    counts: Sequence[int], n_songs: Sequence[int], confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bounds (len(n_songs),), low and high, of where the curve lies in other seasons of the same singers.

    Unconditional variance of Colwell et al. (2012, J. Plant Ecology 5: 3-21, eq. 5): Σ_i (1 - u_i)² - E²/S, u_i the
    probability that type i is not among n songs, E the curve and S Chao1. At the end of the
    curve this is how seasons differ; before, where the curve is a mean over many choices, it is wider. Songs count as
    drawn one by one: where singers repeat a type many times in a row the band is too narrow.
    """
    curve = accumulation_curve(counts, n_songs)
    heard = _heard(counts)
    squares = np.zeros(len(curve))
    for unheard in _unheard(heard, np.asarray(n_songs, np.int64).reshape(-1)):
        squares += (1.0 - unheard) ** 2
    variance = squares - curve**2 / max(chao1(counts).estimate, 1.0)
    spread = float(norm.ppf((1 + confidence) / 2)) * np.sqrt(np.maximum(variance, 0.0))
    return np.maximum(curve - spread, 0.0), curve + spread


def _unheard(heard: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """Give for each type the probability (n_sizes,) that it is not among so many of the songs."""
    total = int(heard.sum())
    # One type at a time: types × sizes may be large.
    for count in heard.tolist():
        unheard = np.zeros(len(sizes))
        possible = sizes <= total - count
        drawn = sizes[possible]
        log_share = _log_choose(total - count, drawn) - _log_choose(total, drawn)
        unheard[possible] = np.exp(np.minimum(log_share, 0.0))
        yield unheard


def good_turing_coverage(counts: Sequence[int]) -> float:
    """Return the estimated probability that the next song is of a type already heard; 0 when nothing was heard.

    Good and Turing's 1 - f1 / N (Good 1953, Biometrika 40: 237-264) in the form with less bias of Chao & Jost (2012,
    Ecology 93: 2533-2547): 1 - f1/N · (N - 1) f1 / ((N - 1) f1 + 2 f2), f1 and f2 the numbers of types heard
    once and twice. Where f2 is 0 the fraction is (N - 1)(f1 - 1) / ((N - 1)(f1 - 1) + 2); of a single type heard once that
    would make full coverage, so there it is 1, as Good and Turing had it.
    """
    heard = _heard(counts)
    total, once, twice = _rare(heard)
    if once == total:
        # Each song was of another type: nothing says that any will come again.
        return 0.0
    if once == 0:
        return 1.0
    if once == 1 and twice == 0:
        return 1.0 - 1.0 / total
    expected = (total - 1) * (once if twice else once - 1)
    weight = expected / (expected + 2 * max(twice, 1))
    return 1.0 - once / total * weight


def chao1(counts: Sequence[int], confidence: float = 0.95) -> RepertoireSize:
    """Return the number of types by bias-corrected Chao1, S + f1 (f1 - 1) / (2 (f2 + 1)), with its usual interval.

    Chao (1987, Biometrics 43: 783-791) with variances and intervals as in Colwell's EstimateS User's Guide, appendix B: the
    number of missing types is log-normal; where none seems to be missing, it rests on the counts alone.
    """
    heard = _heard(counts)
    n_heard = len(heard)
    total, once, twice = _rare(heard)
    if total == 0:
        return RepertoireSize(0, 0.0, 0.0, 0.0)
    z = float(norm.ppf((1 + confidence) / 2))
    missing = once * (once - 1) / (2 * (twice + 1))
    if missing == 0:
        return _nothing_missing(heard, z)
    variance = missing + once * (2 * once - 1) ** 2 / (4 * (twice + 1) ** 2)
    if twice:
        variance += once**2 * twice * (once - 1) ** 2 / (4 * (twice + 1) ** 4)
    else:
        variance -= once**4 / (4 * (n_heard + missing))
    factor = float(np.exp(z * np.sqrt(np.log1p(variance / missing**2))))
    return RepertoireSize(n_heard, n_heard + missing, n_heard + missing / factor, n_heard + missing * factor)


def _nothing_missing(heard: NDArray[np.int64], z: float) -> RepertoireSize:
    """Interval around the number heard, from how likely types of these counts are to be missed in another season."""
    n_heard = float(len(heard))
    missed = np.exp(-heard.astype(np.float64))
    variance = float((missed - missed**2).sum() - (heard * missed).sum() ** 2 / heard.sum())
    kept = 1 - float(missed.sum()) / n_heard
    spread = z * float(np.sqrt(max(variance, 0.0)))
    return RepertoireSize(len(heard), n_heard, max(n_heard, (n_heard - spread) / kept), (n_heard + spread) / kept)


def transition_matrix(sequences: Iterable[Sequence[str]]) -> Transitions:
    """Return which type follows which within sequences (bouts, recordings); nothing follows across their ends."""
    pairs = Counter[tuple[str, str]]()
    heard: set[str] = set()
    for sequence in sequences:
        pairs.update(pairwise(sequence))
        heard.update(sequence)
    types = tuple(sorted(heard))
    place = {name: index for index, name in enumerate(types)}
    counts = np.zeros((len(types), len(types)), np.int64)
    for (before, after), count in pairs.items():
        counts[place[before], place[after]] = count
    return Transitions(types, counts)


def _heard(counts: Sequence[int]) -> NDArray[np.int64]:
    values = np.asarray(counts, np.int64).reshape(-1)
    if (values < 0).any():
        raise InputError(f"A type has {values.min()} songs; counts are zero or more")
    return np.asarray(values[values > 0])


def _rare(heard: NDArray[np.int64]) -> tuple[int, int, int]:
    """Numbers of songs, of types heard once, of types heard twice."""
    return int(heard.sum()), int((heard == 1).sum()), int((heard == 2).sum())


def _log_choose(n: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
