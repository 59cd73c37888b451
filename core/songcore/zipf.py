"""Zipf's law for song-type counts: the exponent by maximum likelihood and a goodness of fit that means something.

Song types are ranked by count; under Zipf's law on n ranks, P(rank i) = i^-s / H_s(n). The log-likelihood of counts f is
L(s) = -s Σ f_i ln i - Σ f_i ln H_s(n). Because s is fitted and ranks are sorted, textbook p-values do not hold: the
Kolmogorov-Smirnov distance is compared with that of samples drawn from the fitted law and fitted again (parametric
bootstrap; Clauset, Shalizi & Newman 2009, section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

__all__ = ["ZipfFit", "fit_zipf", "zipf_probabilities"]

MAX_EXPONENT = 6.0

FIT_ERROR = 1e-5
"""Distances differ by less than this because the exponent is found to a tolerance; two types always fit exactly."""


@dataclass(frozen=True)
class ZipfFit:
    """The law that fits counts best, and how well."""

    exponent: float
    ks_distance: float
    """Largest difference between the observed and the fitted cumulative distribution over ranks."""
    p_value: float
    """Share of samples from the fitted law that fit worse; small means: not Zipf."""


def zipf_probabilities(n_types: int, exponent: float) -> NDArray[np.float64]:
    """Return P(rank) (n_types,), ranks from 1."""
    weights = np.arange(1, n_types + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def fit_zipf(counts: Sequence[int], *, rng: np.random.Generator, n_bootstrap: int = 200) -> ZipfFit:
    """Fit Zipf's law to the counts of types, in any order; zeros are left out.

    Fewer than two types carry no information: exponent and distance are then 0 and p is 1.
    """
    sorted_counts = np.sort(np.asarray([c for c in counts if c > 0], np.int64))[::-1]
    if len(sorted_counts) < 2:
        return ZipfFit(0.0, 0.0, 1.0)
    exponent = _most_likely_exponent(sorted_counts)
    law = zipf_probabilities(len(sorted_counts), exponent)
    distance = _ks_distance(sorted_counts, law)
    samples = rng.multinomial(int(sorted_counts.sum()), law, size=n_bootstrap)
    # What was not drawn is left out, as it is from the counts.
    distances = [_refitted_distance(np.sort(sample[sample > 0])[::-1]) for sample in samples]
    n_worse = sum(other >= distance - FIT_ERROR for other in distances)
    return ZipfFit(exponent, distance, (1 + n_worse) / (1 + n_bootstrap))


def _refitted_distance(counts: NDArray[np.int64]) -> float:
    return _ks_distance(counts, zipf_probabilities(len(counts), _most_likely_exponent(counts)))


def _most_likely_exponent(counts: NDArray[np.int64]) -> float:
    log_ranks = np.log(np.arange(1, len(counts) + 1))
    n, sum_log = int(counts.sum()), float(counts @ log_ranks)

    def cost(s: float) -> float:
        return s * sum_log + n * float(np.log(np.exp(-s * log_ranks).sum()))

    return float(minimize_scalar(cost, bounds=(0.0, MAX_EXPONENT), method="bounded").x)


def _ks_distance(counts: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    return float(np.abs(np.cumsum(counts) / counts.sum() - np.cumsum(law)).max())
