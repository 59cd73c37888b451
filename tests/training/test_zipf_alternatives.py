"""Zipf's law beside its alternatives, and beside the test it was first reported with."""

import numpy as np
import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from songcore.zipf import fit_zipf, zipf_probabilities
from songtrain.evaluation.zipf_alternatives import compare_with_alternatives, two_sample_p, zipf_scores


def drawn(law: np.ndarray[tuple[int], np.dtype[np.float64]], n_songs: int, rng: np.random.Generator) -> list[int]:
    """Return how often each type is sung in so many songs."""
    return [int(count) for count in rng.multinomial(n_songs, law / law.sum())]


def test_a_zipf_repertoire_is_not_given_to_an_alternative() -> None:
    """Of 10 repertoires of 300 Zipf types none goes to log-normal, and nearly all rule the exponential out."""
    against: dict[str, list[tuple[float, float]]] = {"lognormal": [], "exponential": []}
    for seed in range(10):
        counts = drawn(zipf_probabilities(300, 0.9), 30_000, np.random.default_rng(seed))
        for found in compare_with_alternatives(counts):
            against[found.alternative].append((found.log_ratio, found.p_value))
    assert [len(rows) for rows in against.values()] == [10, 10]
    assert not any(ratio < 0 and p < 0.1 for ratio, p in against["lognormal"])
    assert sum(ratio > 0 and p < 0.1 for ratio, p in against["exponential"]) >= 9


def test_geometric_frequencies_go_to_the_exponential() -> None:
    """Frequencies that fall by 2 % from type to type: the power law never wins, and loses beyond chance in 4 of 6 seasons."""
    ratios = []
    for seed in range(6):
        found = compare_with_alternatives(drawn(0.98 ** np.arange(200.0), 30_000, np.random.default_rng(seed)))
        ratios += [(row.log_ratio, row.p_value) for row in found if row.alternative == "exponential"]
    assert all(ratio < 0 for ratio, _ in ratios)
    assert sum(p < 0.05 for _, p in ratios) >= 4


def test_a_power_law_never_wins_by_rounding() -> None:
    """Types sung equally often, too steep for the library's arithmetic, are refused or lost, never won."""
    for seed in range(4):
        for n_types in (64, 150):
            found = compare_with_alternatives(drawn(np.ones(n_types), 30_000, np.random.default_rng(seed)))
            assert all(row.log_ratio < 0 or row.p_value > 0.1 for row in found)


def test_ratio_is_that_of_the_likelihoods() -> None:
    """Against the exponential law, ratio and p are Vuong's, from likelihoods and parameters found here by other means."""
    from scipy.optimize import minimize_scalar
    from scipy.special import zeta
    from scipy.stats import norm

    counts = np.asarray(drawn(zipf_probabilities(200, 1.0), 8_000, np.random.default_rng(3)))
    found = compare_with_alternatives(counts.tolist())[1]
    kept = np.sort(counts)[::-1][: found.n_types]
    low = kept.min()

    def power(alpha: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.asarray(-alpha * np.log(kept) - np.log(zeta(alpha, low)))

    alpha = minimize_scalar(lambda value: -power(value).sum(), bounds=(1.01, 10), method="bounded").x
    rate = np.log1p(1 / (kept.mean() - low))
    difference = power(alpha) - (np.log1p(-np.exp(-rate)) - rate * (kept - low))
    ratio = difference.sum() / (difference.std() * np.sqrt(len(kept)))
    assert found.log_ratio == pytest.approx(ratio, abs=0.02)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(ratio)), abs=0.01)


@pytest.mark.parametrize("counts", [[], [4], [5] * 30, [1, 2, 3, 4, 4, 0]])
def test_few_different_counts_are_not_compared(counts: list[int]) -> None:
    """Fewer than five different counts give no comparison, and the scores leave it out."""
    assert compare_with_alternatives(counts) == []
    assert not any("against" in name for name in zipf_scores(counts, rng=np.random.default_rng(0)))


@pytest.mark.parametrize(
    "counts", [[9, 7, 5, 3, 2], [1, 1, 2, 1, 3, 4, 9], [1, 2, 3, 4, 1_000_000], [3] * 40 + [1, 2, 4, 5]]
)
def test_awkward_counts_give_finite_scores(counts: list[int]) -> None:
    """Few, small, flat or extreme counts pass without a warning, and every score is a number."""
    scores = zipf_scores(counts, rng=np.random.default_rng(0))
    assert all(np.isfinite(value) for value in scores.values())
    assert all(0 <= value <= 1 for name, value in scores.items() if name.endswith("_p"))


def test_two_sample_test_passes_what_is_not_zipf() -> None:
    """Of 20 repertoires of 64 nearly equally sung types it passes most at 5 %; both tests of the counts reject all."""
    passed = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counts = drawn(np.clip(rng.normal(1, 0.15, 64), 0.2, None), 11_000, rng)
        fit = fit_zipf(counts, rng=rng, n_bootstrap=39)
        assert max(fit.p_value, fit.chi_squared_p) <= 0.05
        passed.append(two_sample_p(counts, fit.exponent) > 0.05)
    assert np.mean(passed) > 0.6


def test_two_sample_test_does_not_see_how_many_songs_there_are() -> None:
    """A hundred times as many songs in the same proportions leave its p as it was; the tests of counts then reject."""
    counts = [30, 26, 22, 18, 15, 12, 9, 7, 5, 4]
    many = [100 * count for count in counts]
    few_fit, many_fit = (fit_zipf(values, rng=np.random.default_rng(0), n_bootstrap=99) for values in (counts, many))
    assert two_sample_p(counts, few_fit.exponent) == pytest.approx(two_sample_p(many, many_fit.exponent))
    assert two_sample_p(many, many_fit.exponent) > 0.3
    assert max(many_fit.p_value, many_fit.chi_squared_p) <= 0.02


def test_two_sample_test_rejects_the_law_itself_where_types_are_rare() -> None:
    """Of 40 samples of 400 songs of 60 Zipf types it rejects more than a quarter at 5 %."""
    rejected = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        counts = drawn(zipf_probabilities(60, 1.2), 400, rng)
        rejected.append(two_sample_p(counts, fit_zipf(counts, rng=rng, n_bootstrap=1).exponent) <= 0.05)
    assert np.mean(rejected) > 0.25


@pytest.mark.parametrize(
    ("counts", "said"), [([50, 30, 20, 9, 5, 4, 2], "log-normal"), ([5] * 6, "too equal to compare")]
)
def test_report_tells_all_tests(counts: list[int], said: str) -> None:
    """The card of the report shows every p, and the comparison or why there is none."""
    environment = Environment(loader=PackageLoader("songtrain.report", "."), autoescape=True, undefined=StrictUndefined)
    scores = zipf_scores(counts, rng=np.random.default_rng(0))
    card = environment.get_template("zipf.html").render(
        scores=scores, sizes="<svg></svg>", facts={"n_types": len(counts)}
    )
    for name in ("zipf_p", "zipf_chi_squared_p", "zipf_two_sample_p"):
        assert f"<td>{scores[name]:.3f}</td>" in card
    assert "<svg></svg>" in card
    assert said in card
