"""Zipf's law for song-type counts: the exponent by maximum likelihood and a goodness of fit that means something.

Song types are ranked by count; under Zipf's law on n ranks, P(rank i) = i^-s / H_s(n). The log-likelihood of counts f is
L(s) = -s Σ f_i ln i - Σ f_i ln H_s(n). Because s is fitted and ranks are sorted, textbook p-values do not hold: the
Kolmogorov-Smirnov distance and Pearson's chi-squared are compared with those of samples drawn from the fitted law and
fitted again (parametric bootstrap; Clauset, Shalizi & Newman 2009, section 4.1). The first sees a drift over many ranks,
the second what single ranks do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

__all__ = ["ZipfFit", "chi_squared", "fit_zipf", "zipf_probabilities"]

MAX_EXPONENT = 6.0

FIT_ERROR = 1e-5
"""Distances differ by less than this because the exponent is found to a tolerance; two types always fit exactly."""

MIN_EXPECTED = 5.0
"""Chi-squared pools neighbouring ranks until this many songs are expected, as is usual (Cochran 1954)."""


@dataclass(frozen=True)
class ZipfFit:
    """The law that fits counts best, and how well."""

    exponent: float
    ks_distance: float
    """Largest difference between the observed and the fitted cumulative distribution over ranks."""
    p_value: float
    """Share of samples from the fitted law whose distance is as large; small means: not Zipf."""
    chi_squared: float
    """Σ (observed - expected)² / expected over ranks, rare ones pooled."""
    chi_squared_p: float
    """Share of samples from the fitted law whose chi-squared is as large; small means: not Zipf."""


def zipf_probabilities(n_types: int, exponent: float) -> NDArray[np.float64]:
    """Return P(rank) (n_types,), ranks from 1."""
    weights = np.arange(1, n_types + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def fit_zipf(counts: Sequence[int], *, rng: np.random.Generator, n_bootstrap: int = 200) -> ZipfFit:
    """Fit Zipf's law to the counts of types, in any order; zeros are left out.

    Fewer than two types carry no information: exponent, distance and chi-squared are then 0 and both p are 1.
    """
    sorted_counts = np.sort(np.asarray([c for c in counts if c > 0], np.int64))[::-1]
    if len(sorted_counts) < 2:
        return ZipfFit(0.0, 0.0, 1.0, 0.0, 1.0)
    exponent, *misfit = _fit(sorted_counts)
    samples = rng.multinomial(int(sorted_counts.sum()), zipf_probabilities(len(sorted_counts), exponent), n_bootstrap)
    # What was not drawn is left out, as it is from the counts.
    others = np.asarray([_fit(np.sort(sample[sample > 0])[::-1])[1:] for sample in samples]).reshape(-1, 2)
    n_worse = (others >= np.asarray(misfit) - FIT_ERROR).sum(axis=0)
    p_values = (1 + n_worse) / (1 + n_bootstrap)
    return ZipfFit(exponent, misfit[0], float(p_values[0]), misfit[1], float(p_values[1]))


def chi_squared(counts: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    """Return Pearson's statistic of counts (n_types,) by rank against a law (n_types,), ranks pooled as needed.

    Zero when fewer than two pools are left: nothing can then disagree.
    """
    expected = law * counts.sum()
    starts = _pool_starts(expected)
    pooled, wanted = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    return float(((pooled - wanted) ** 2 / wanted).sum()) if len(starts) > 1 else 0.0


def _pool_starts(expected: NDArray[np.float64]) -> list[int]:
    """First rank index of every pool of neighbours in which enough songs are expected; the last takes the rest."""
    starts, held, left = [0], 0.0, float(expected.sum())
    for index, value in enumerate(expected.tolist()):
        if min(held, left) >= MIN_EXPECTED:
            starts.append(index)
            held = 0.0
        held += value
        left -= value
    return starts


def _fit(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """Exponent, Kolmogorov-Smirnov distance and chi-squared of sorted counts."""
    exponent = _most_likely_exponent(counts)
    law = zipf_probabilities(len(counts), exponent)
    return exponent, _ks_distance(counts, law), chi_squared(counts, law)


def _most_likely_exponent(counts: NDArray[np.int64]) -> float:
    log_ranks = np.log(np.arange(1, len(counts) + 1))
    n, sum_log = int(counts.sum()), float(counts @ log_ranks)

    def cost(s: float) -> float:
        return s * sum_log + n * float(np.log(np.exp(-s * log_ranks).sum()))

    return float(minimize_scalar(cost, bounds=(0.0, MAX_EXPONENT), method="bounded").x)


def _ks_distance(counts: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    return float(np.abs(np.cumsum(counts) / counts.sum() - np.cumsum(law)).max())
