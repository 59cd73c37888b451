"""Whether Zipf's law is the right law for song-type counts: every test that is told, and laws that could do as well.

`songcore.zipf` asks whether counts by rank can come from the law. The likelihood ratios here ask another question: among
distributions of the counts themselves, does a power law describe them better than a log-normal or an exponential one?
(A Zipf exponent s by rank is a power law of the counts with alpha = 1 + 1/s.) Passing the first test and losing the
second, or deciding nothing there, is common: some tens of types are few for it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.stats import ks_2samp

from songcore.zipf import fit_zipf, zipf_probabilities

__all__ = ["Comparison", "compare_with_alternatives", "two_sample_p", "zipf_scores"]

MIN_DISTINCT_COUNTS = 5
"""With fewer different counts every law fits, or none can be fitted."""

MAX_ALPHA = 100.0
"""The library stops at 3, and a fit held at a limit would lose for that reason alone."""

MIN_TAIL_MASS = 1e-10
"""The library finds the mass above xmin as 1 minus that below; less than this is lost to rounding and ratios are noise."""

Law = Literal["lognormal", "exponential"]


@dataclass(frozen=True)
class Comparison:
    """The power law against one alternative, both fitted to the same most sung types."""

    alternative: Law
    log_ratio: float
    """Log likelihood ratio over its standard deviation: above zero the power law fits better."""
    p_value: float
    """Vuong's: probability of so large a ratio, either way, when both fit equally well; above 0.1 nothing is decided."""
    n_types: int
    """How many of the most sung types were compared."""


def compare_with_alternatives(counts: Sequence[int]) -> list[Comparison]:
    """Return the power law against log-normal and exponential; empty where counts are too few or too equal to tell.

    Only types with at least xmin songs are compared, xmin being where the power law fits best (Clauset, Shalizi & Newman
    2009, section 3.3), and how many these are is told. Taking all types would be unfair: the smallest counts of a true
    Zipf sample are blurred by chance, which a log-normal imitates, so that it would win nearly always.
    """
    import powerlaw

    values = np.asarray([count for count in counts if count > 0], np.int64)
    if len(np.unique(values)) < MIN_DISTINCT_COUNTS:
        return []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # It warns whenever a rate is near zero, as it is for large counts, and when its search passes through underflow.
        warnings.simplefilter("ignore")
        fit = powerlaw.Fit(values, discrete=True, parameter_ranges={"alpha": [1.0, MAX_ALPHA]}, verbose=0)
        if float(fit.xmin) ** (1.0 - float(fit.power_law.alpha)) < MIN_TAIL_MASS:
            return []
        n_types = int((values >= fit.xmin).sum())
        found = []
        for law in get_args(Law):
            ratio, p = fit.distribution_compare("power_law", law, nested=False, normalized_ratio=True)
            found.append(Comparison(law, float(ratio), float(p), n_types))
    return [row for row in found if np.isfinite([row.log_ratio, row.p_value]).all()]


def two_sample_p(counts: Sequence[int], exponent: float) -> float:
    """Return p of a two-sample Kolmogorov-Smirnov test between observed and expected probabilities of the types.

    This is how a fit to Zipf's law was first reported for song types (p = 0.30 for 64 types), told here so that the
    number can be compared and for nothing else. It takes the probabilities of K types for two samples of K values: how
    many songs were heard does not enter, the order of ranks is lost, and values that were fitted to each other count as
    independent. With K = 64 the two distributions of *values* must differ by 0.24 before it rejects at 5 %: it has almost
    no power against sizes near those of the law, and a large p is no evidence for it. Nor is a small one against it: where
    types are rare their counts take few values, and it rejects samples of the law itself.
    """
    observed = np.sort(np.asarray([count for count in counts if count > 0], np.float64))[::-1]
    if len(observed) < 2:
        return 1.0
    with warnings.catch_warnings():
        # With a handful of types its exact p can fail; it then takes the asymptotic one, and says so.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ks_2samp(observed / observed.sum(), zipf_probabilities(len(observed), exponent)).pvalue)


def zipf_scores(counts: Sequence[int], *, rng: np.random.Generator) -> dict[str, float]:
    """Return the fitted law, its tests and the comparisons as named numbers; a comparison that says nothing is absent."""
    fit = fit_zipf(counts, rng=rng)
    scores = {
        "zipf_exponent": fit.exponent,
        "zipf_ks": fit.ks_distance,
        "zipf_p": fit.p_value,
        "zipf_chi_squared": fit.chi_squared,
        "zipf_chi_squared_p": fit.chi_squared_p,
        "zipf_two_sample_p": two_sample_p(counts, fit.exponent),
    }
    for found in compare_with_alternatives(counts):
        scores["zipf_compared_types"] = found.n_types
        scores[f"zipf_against_{found.alternative}"] = found.log_ratio
        scores[f"zipf_against_{found.alternative}_p"] = found.p_value
    return scores
