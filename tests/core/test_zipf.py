"""Zipf's law: the exponent is recovered, p-values keep their promise, and other laws are rejected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2, chisquare, zipfian

from songcore.zipf import MAX_EXPONENT, chi_squared, fit_zipf, zipf_probabilities


def counts(exponent: float, n_types: int, n_songs: int, seed: int) -> list[int]:
    """Return the counts of types among songs drawn from scipy's law, unseen types being zero."""
    law = zipfian.pmf(np.arange(1, n_types + 1), exponent, n_types)
    return [int(count) for count in np.random.default_rng(seed).multinomial(n_songs, law)]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.5])
def test_probabilities_are_scipys(exponent: float) -> None:
    """The law on 50 ranks is that of scipy, and sums to one."""
    law = zipf_probabilities(50, exponent)
    np.testing.assert_allclose(law, zipfian.pmf(np.arange(1, 51), exponent, 50), rtol=1e-9)
    assert law.sum() == pytest.approx(1)


@pytest.mark.parametrize(("exponent", "n_types"), [(0.8, 10), (1.0, 40), (1.5, 30)])
def test_exponent_is_recovered(exponent: float, n_types: int) -> None:
    """From 20,000 songs the exponent is found to 0.05, with its mean over seeds within 0.02."""
    found = [
        fit_zipf(counts(exponent, n_types, 20_000, seed), rng=np.random.default_rng(0), n_bootstrap=1).exponent
        for seed in range(8)
    ]
    assert max(abs(value - exponent) for value in found) < 0.05
    assert np.mean(found) == pytest.approx(exponent, abs=0.02)


def test_exact_counts_fit_exactly() -> None:
    """Counts that follow the law to rounding give its exponent, a distance near zero and p = 1."""
    exact = np.round(1e6 * zipf_probabilities(30, 1.1)).astype(int)
    fit = fit_zipf(exact.tolist(), rng=np.random.default_rng(0), n_bootstrap=50)
    assert fit.exponent == pytest.approx(1.1, abs=1e-4)
    assert fit.ks_distance < 1e-4
    assert fit.p_value == 1


def test_exponent_is_the_most_likely_one() -> None:
    """No exponent on a fine grid has a higher likelihood than the fitted one."""
    sample = np.asarray(sorted((count for count in counts(1.2, 25, 400, 3) if count), reverse=True))
    fit = fit_zipf(sample.tolist(), rng=np.random.default_rng(0), n_bootstrap=1)

    def log_likelihood(exponent: float) -> float:
        return float(sample @ np.log(zipf_probabilities(len(sample), exponent)))

    grid = np.arange(0, MAX_EXPONENT, 0.001)
    assert log_likelihood(fit.exponent) >= max(log_likelihood(exponent) for exponent in grid) - 1e-6


@settings(max_examples=30)
@given(values=st.lists(st.integers(0, 50), max_size=12), seed=st.integers(0, 9))
def test_order_and_unseen_types_do_not_matter(values: list[int], seed: int) -> None:
    """Counts in any order, with or without zeros, give the same fit, within its ranges."""
    fit = fit_zipf(values, rng=np.random.default_rng(seed), n_bootstrap=5)
    shuffled = np.random.default_rng(1).permutation([*values, 0, 0]).tolist()
    assert fit_zipf(shuffled, rng=np.random.default_rng(seed), n_bootstrap=5) == fit
    assert 0 <= fit.exponent <= MAX_EXPONENT
    assert 0 <= fit.ks_distance <= 1
    assert 0 < fit.p_value <= 1
    assert fit.chi_squared >= 0
    assert 0 < fit.chi_squared_p <= 1


@pytest.mark.parametrize(("exponent", "n_types", "n_songs"), [(1.0, 30, 600), (1.2, 60, 400)])
def test_p_values_keep_their_promise(exponent: float, n_types: int, n_songs: int) -> None:
    """Of 300 samples from the law at most 8 % are rejected at 5 % by either test, also with types unseen; p is spread out."""
    fits = [
        fit_zipf(counts(exponent, n_types, n_songs, seed), rng=np.random.default_rng(seed), n_bootstrap=39)
        for seed in range(300)
    ]
    for p_values in ([fit.p_value for fit in fits], [fit.chi_squared_p for fit in fits]):
        assert np.mean(np.asarray(p_values) <= 0.05) <= 0.08
        assert 0.25 < np.median(p_values) < 0.75


def test_chi_squared_is_pearsons() -> None:
    """Where 5 songs or more are expected everywhere it is scipy's statistic; the exact law has none."""
    law = zipf_probabilities(12, 0.9)
    sample = np.sort(np.random.default_rng(0).multinomial(500, law))[::-1]
    assert chi_squared(sample, law) == pytest.approx(chisquare(sample, 500 * law).statistic)
    assert chi_squared(np.asarray([60, 30, 20]), zipf_probabilities(3, 1.0)) == pytest.approx(0, abs=1e-9)


def test_chi_squared_pools_rare_ranks() -> None:
    """Neighbours are pooled until 5 songs are expected, the last pool takes the rest, and one pool says nothing."""
    law = np.asarray([0.5, 0.2, 0.1, 0.1, 0.1])
    assert chi_squared(np.asarray([70, 10, 10, 5, 5]), law) == pytest.approx(20**2 / 50 + 10**2 / 20 + 2 * 5**2 / 10)
    # 15, 6 and 3 + 3 + 3.
    assert chi_squared(np.asarray([18, 9, 1, 1, 1]), law) == pytest.approx(3**2 / 15 + 3**2 / 6 + 6**2 / 9)
    # 10, then 4 + 2, after which 2 + 2 are too few for a pool.
    assert chi_squared(np.asarray([13, 4, 1, 1, 1]), law) == pytest.approx(2 * 3**2 / 10)
    assert chi_squared(np.asarray([5, 1, 1, 1, 1]), law) == 0


def test_bootstrap_agrees_with_the_chi_squared_distribution() -> None:
    """Where ranks are far apart and none is pooled, p is that of chi-squared with ranks - 2 degrees of freedom, to 0.1."""
    for seed in range(4):
        sample = counts(1.5, 6, 20_000, seed)
        fit = fit_zipf(sample, rng=np.random.default_rng(seed), n_bootstrap=400)
        assert fit.chi_squared_p == pytest.approx(chi2.sf(fit.chi_squared, 4), abs=0.1)


ranks = np.arange(40)


@pytest.mark.parametrize(
    "law",
    [0.9**ranks, 0.8**ranks, np.where(ranks < 20, 10.0, 1.0), 1.0 + (ranks == 0) * 30, 41.0 - ranks],
    ids=["geometric .9", "geometric .8", "two levels", "one hit", "linear"],
)
def test_other_laws_are_rejected(law: NDArray[np.float64]) -> None:
    """2000 songs of geometric, two-level, nearly uniform and linear frequencies are not taken for Zipf's by either test."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        sample = rng.multinomial(2_000, law / law.sum())
        fit = fit_zipf(sample.tolist(), rng=rng, n_bootstrap=39)
        assert fit.p_value <= 0.05
        assert fit.chi_squared_p <= 0.05


@pytest.mark.parametrize("kind", ["log-normal", "near-uniform"])
def test_random_frequencies_are_rejected(kind: str) -> None:
    """11,000 songs of 64 types of log-normal frequencies, or of equal ones give or take 15 %, fail both tests."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        law = rng.lognormal(0, 1, 64) if kind == "log-normal" else rng.normal(1, 0.15, 64)
        fit = fit_zipf(rng.multinomial(11_000, law / law.sum()).tolist(), rng=rng, n_bootstrap=39)
        assert fit.p_value <= 0.05
        assert fit.chi_squared_p <= 0.05


def test_equal_frequencies_are_the_law_with_exponent_zero() -> None:
    """Equal counts fit with exponent 0: it is the exponent that tells them from Zipf's law, not the p-value."""
    fit = fit_zipf([50] * 20, rng=np.random.default_rng(0), n_bootstrap=20)
    assert fit.exponent == pytest.approx(0, abs=1e-3)
    assert fit.p_value == 1


def test_same_generator_same_result() -> None:
    """The bootstrap draws from the given generator only."""
    sample = counts(1.0, 20, 300, 0)
    first, second = (fit_zipf(sample, rng=np.random.default_rng(7), n_bootstrap=30) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("values", [[], [0], [7], [0, 0, 3]])
def test_fewer_than_two_types_say_nothing(values: list[int]) -> None:
    """No or one type has exponent 0, distances 0 and p = 1."""
    fit = fit_zipf(values, rng=np.random.default_rng(0))
    assert (fit.exponent, fit.ks_distance, fit.p_value) == (0.0, 0.0, 1.0)
    assert (fit.chi_squared, fit.chi_squared_p) == (0.0, 1.0)


@pytest.mark.parametrize("values", [[5, 5], [9, 3], [1, 1], [1, 1, 1]])
def test_two_types_always_fit(values: list[int]) -> None:
    """Two counts fit some exponent exactly, and are never evidence against the law."""
    fit = fit_zipf(values, rng=np.random.default_rng(0), n_bootstrap=30)
    assert (fit.p_value, fit.chi_squared_p) == (1, 1)


def test_one_type_nearly_alone() -> None:
    """A count a million times another ends at the largest exponent without an overflow."""
    fit = fit_zipf([1_000_000, 1], rng=np.random.default_rng(0), n_bootstrap=5)
    assert fit.exponent == pytest.approx(MAX_EXPONENT, abs=1e-3)
