"""Repertoires: accumulation, coverage, size and order against naive loops, simulation and closed forms."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from songcore.errors import InputError
from songcore.repertoire import accumulation_band, accumulation_curve, chao1, good_turing_coverage, transition_matrix
from songcore.zipf import zipf_probabilities

small_counts = st.lists(st.integers(0, 5), min_size=1, max_size=4)


@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_accumulation_is_the_mean_over_all_choices(counts: list[int]) -> None:
    """For every number of songs the curve is the mean number of types over all subsets of that many songs."""
    songs = [kind for kind, count in enumerate(counts) for _ in range(count)]
    sizes = range(len(songs) + 1)
    naive = [np.mean([len(set(choice)) for choice in combinations(songs, n)]) for n in sizes]
    np.testing.assert_allclose(accumulation_curve(counts, sizes), naive, atol=1e-9)


def test_accumulation_of_equal_pairs_has_a_closed_form() -> None:
    """Two songs drawn from k types of two songs each are of 2 - 1 / (2k - 1) types."""
    for k in (1, 2, 10, 5_000):
        assert accumulation_curve([2] * k, [2])[0] == pytest.approx(2 - 1 / (2 * k - 1))


def test_accumulation_of_a_long_season_stays_finite_and_rises() -> None:
    """A million songs of 300 types: the curve rises from 0 over 1 to 300 and is concave."""
    counts = np.round(1e6 * zipf_probabilities(300, 1.0)).astype(int)
    curve = accumulation_curve(counts.tolist(), np.arange(0, 5_000).tolist())
    assert curve[:2] == pytest.approx([0, 1])
    steps = np.diff(curve)
    assert (steps > 0).all()
    assert (np.diff(steps) < 1e-6).all()
    assert accumulation_curve(counts.tolist(), [int(counts.sum())])[0] == 300


@pytest.mark.parametrize("size", [-1, 6])
def test_songs_that_were_not_heard_cannot_be_drawn(size: int) -> None:
    """Fewer than none or more than all songs are refused by saying how many there are."""
    with pytest.raises(InputError, match="0 to 5"):
        accumulation_curve([3, 2], [size])


def test_negative_counts_are_refused() -> None:
    """A count below zero is an error everywhere, not a type left out."""
    for estimate in (good_turing_coverage, chao1):
        with pytest.raises(InputError, match="-2"):
            estimate([3, -2])


@given(counts=small_counts)
def test_estimates_stay_in_their_ranges(counts: list[int]) -> None:
    """Coverage is a probability; Chao1 and its interval lie in order at or above the number heard."""
    assert 0 <= good_turing_coverage(counts) <= 1
    size = chao1(counts)
    assert size.n_heard == sum(count > 0 for count in counts)
    assert size.n_heard <= size.low <= size.high
    assert size.n_heard <= size.estimate <= size.high


def test_coverage_has_its_closed_form() -> None:
    """Three types once, two twice and one of 93 songs: 1 - 3/100 · 99·3 / (99·3 + 4); without pairs the other forms."""
    assert good_turing_coverage([93, 2, 2, 1, 1, 1]) == pytest.approx(1 - 3 / 100 * 297 / 301)
    assert good_turing_coverage([97, 1, 1, 1]) == pytest.approx(1 - 3 / 100 * 198 / 200)
    assert good_turing_coverage([99, 1]) == pytest.approx(1 - 1 / 100)
    assert good_turing_coverage([5, 5, 2]) == 1
    assert good_turing_coverage([5, 5]) == 1
    assert good_turing_coverage([2]) == 1
    assert good_turing_coverage([1, 1, 1]) == 0
    assert good_turing_coverage([]) == 0


@pytest.mark.parametrize("n_songs", [50, 200, 1_000])
def test_coverage_is_the_chance_that_the_next_song_is_known(n_songs: int) -> None:
    """Over 400 seasons of 100 Zipf types the mean estimate is within 0.01 of the mean share of songs heard."""
    rng, law = np.random.default_rng(0), zipf_probabilities(100, 1.0)
    samples = rng.multinomial(n_songs, law, size=400)
    true = (samples > 0) @ law
    estimates = [good_turing_coverage(sample.tolist()) for sample in samples]
    assert np.mean(estimates) == pytest.approx(true.mean(), abs=0.01)


def test_chao1_has_its_closed_form() -> None:
    """Four types once and two twice of eight: 8 + 4·3 / (2·3) = 10, with the variance and interval written out."""
    size = chao1([9, 5, 2, 2, 1, 1, 1, 1])
    assert size.estimate == pytest.approx(10)
    variance = 2 + 4 * 49 / (4 * 9) + 16 * 2 * 9 / (4 * 81)
    factor = np.exp(1.959964 * np.sqrt(np.log(1 + variance / 4)))
    assert (size.low, size.high) == pytest.approx((8 + 2 / factor, 8 + 2 * factor), rel=1e-6)
    alone = chao1([9, 5, 1, 1, 1])
    variance = 3 + 3 * 25 / 4 - 81 / (4 * 8)
    assert alone.estimate == 8
    assert alone.high == pytest.approx(5 + 3 * np.exp(1.959964 * np.sqrt(np.log(1 + variance / 9))), rel=1e-6)


def test_chao1_of_a_complete_repertoire_is_what_was_heard() -> None:
    """Where no type was heard once nothing is missing, and often-heard types leave no doubt."""
    size = chao1([50, 40, 30])
    assert (size.estimate, size.low) == (3, 3)
    assert size.high == pytest.approx(3, abs=1e-5)
    assert chao1([]).high == 0


def test_chao1_interval_holds_the_truth() -> None:
    """In 300 seasons of 60 equally frequent types, 100 songs each, at least nine in ten 95 % intervals hold 60."""
    samples = np.random.default_rng(1).multinomial(100, np.full(60, 1 / 60), size=300)
    sizes = [chao1(sample.tolist()) for sample in samples]
    assert np.mean([size.estimate for size in sizes]) == pytest.approx(60, abs=2)
    assert np.mean([size.n_heard for size in sizes]) < 50
    assert np.mean([size.low <= 60 <= size.high for size in sizes]) >= 0.9


def test_higher_confidence_gives_a_wider_interval() -> None:
    """An interval of 99 % holds that of 80 %."""
    wide, narrow = (chao1([7, 3, 2, 1, 1, 1], confidence) for confidence in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


@given(sequences=st.lists(st.lists(st.sampled_from("cab"), max_size=8), max_size=4))
def test_transitions_are_counted_within_sequences(sequences: list[list[str]]) -> None:
    """Every cell is the number of neighbours of its types in a naive loop, and rows sum to one or nothing."""
    found = transition_matrix(sequences)
    assert list(found.types) == sorted({name for sequence in sequences for name in sequence})
    for row, before in enumerate(found.types):
        for column, after in enumerate(found.types):
            naive = sum(pair == (before, after) for sequence in sequences for pair in pairwise(sequence))
            assert found.counts[row, column] == naive
    sums = found.probabilities.sum(axis=1)
    assert ((np.abs(sums - 1) < 1e-12) | (sums == 0)).all()


def test_transition_probabilities_are_recovered() -> None:
    """From 20,000 songs of a known Markov chain its probabilities come back to 0.02."""
    rng = np.random.default_rng(2)
    chain = np.asarray([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5], [0.25, 0.25, 0.5]])
    sequence = [0]
    for _ in range(20_000):
        sequence.append(int(rng.choice(3, p=chain[sequence[-1]])))
    found = transition_matrix([["abc"[number] for number in sequence]])
    np.testing.assert_allclose(found.probabilities, chain, atol=0.02)


def test_the_band_is_as_wide_as_seasons_differ() -> None:
    """Over 300 seasons of one law the band has the spread of the curve at its end, within a fifth, and more before."""
    rng = np.random.default_rng(7)
    law, sizes = zipf_probabilities(60, 1.0), [25, 100, 400]
    seasons = rng.multinomial(400, law, 300)
    curves = np.asarray([accumulation_curve(counts.tolist(), sizes) for counts in seasons])
    bands = np.asarray([accumulation_band(counts.tolist(), sizes) for counts in seasons])
    widths = (bands[:, 1] - bands[:, 0]).mean(axis=0) / 2 / 1.96
    assert widths[-1] == pytest.approx(curves[:, -1].std(), rel=0.2)
    assert (widths[:-1] > curves.std(axis=0)[:-1]).all()


def test_the_band_holds_the_curve_and_ends_where_all_is_known() -> None:
    """The curve lies within; with types that were all heard often nothing can be elsewhere at the end."""
    counts, sizes = [50, 40, 30, 20], [0, 1, 10, 140]
    low, high = accumulation_band(counts, sizes)
    curve = accumulation_curve(counts, sizes)
    assert (low <= curve).all()
    assert (curve <= high).all()
    assert high[-1] - low[-1] == pytest.approx(0.0, abs=1e-6)
    assert [bound.tolist() for bound in accumulation_band([], [0])] == [[0.0], [0.0]]
