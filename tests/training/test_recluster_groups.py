"""The pool: what is dense and far from all known types is new, what hangs together with one is more of it."""

import numpy as np
import pytest

from songcore.arrays import FloatArray, IntArray
from songtrain.recluster.groups import Groups, GroupSettings, Occasion, group_pool

D = 16


def cloud(centre: FloatArray, n: int, spread: float, rng: np.random.Generator) -> FloatArray:
    """Return unit vectors (n, D) around a direction."""
    points = centre + spread * rng.standard_normal((n, D)) / np.sqrt(D)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture
def centres(rng: np.random.Generator) -> FloatArray:
    """Return directions that are far from each other."""
    return np.asarray(np.linalg.qr(rng.standard_normal((D, D)))[0], np.float32)


@pytest.fixture
def known(centres: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """Return songs of three known types."""
    return np.concatenate([cloud(centres[k], 40, 0.2, rng) for k in range(3)]), np.repeat(np.arange(3), 40)


def often(n: int) -> list[Occasion]:
    """Return occasions of which no two are the same."""
    return [(f"session-{i}", i) for i in range(n)]


def test_dense_groups_are_new_types(
    centres: FloatArray, known: tuple[FloatArray, IntArray], rng: np.random.Generator
) -> None:
    """Two groups far from all known types are two new types, the larger first; scattered songs are none."""
    pool = np.concatenate(
        [cloud(centres[5], 12, 0.2, rng), cloud(centres[6], 30, 0.2, rng), cloud(0 * centres[0], 20, 1.0, rng)]
    )
    found = group_pool(pool, often(len(pool)), *known, GroupSettings())
    assert set(found.fresh[:12]) == {1}
    assert set(found.fresh[12:42]) == {0}
    assert (found.fresh[42:] < 0).mean() > 0.8
    assert (found.extended < 0).all()
    assert found.n_waiting == 0


def test_a_type_that_drifts_is_not_new(
    centres: FloatArray, known: tuple[FloatArray, IntArray], rng: np.random.Generator
) -> None:
    """Songs that lead away from a known type step by step are more of it, far from it as the last ones are."""
    steps = np.linspace(0, 0.8, 60)[:, None]
    drifting = np.concatenate([cloud(row[None], 1, 0.15, rng) for row in (1 - steps) * centres[1] + steps * centres[7]])
    found = group_pool(drifting, often(60), *known, GroupSettings())
    assert (found.fresh < 0).all()
    assert (found.extended[found.extended >= 0] == 1).all()
    assert (found.extended == 1).mean() > 0.8


def test_once_is_not_enough(centres: FloatArray, known: tuple[FloatArray, IntArray], rng: np.random.Generator) -> None:
    """A group of one session on one day waits; on two days, or in two sessions, it is a type."""
    pool = cloud(centres[5], 20, 0.2, rng)

    def groups(occasions: list[Occasion]) -> Groups:
        return group_pool(pool, occasions, *known, GroupSettings())

    once = groups([("a", 1)] * 20)
    assert (once.fresh < 0).all()
    assert once.n_waiting == 1
    for again in ([("a", 1), ("a", 2)] * 10, [("a", 1), ("b", 1)] * 10):
        assert (groups(again).fresh == 0).mean() > 0.8


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_pools_too_small_for_a_type(centres: FloatArray, known: tuple[FloatArray, IntArray], n: int) -> None:
    """An empty pool, or one of a few songs, gives no type and no error."""
    pool = np.repeat(centres[5][None], n, axis=0)
    found = group_pool(pool, often(n), *known, GroupSettings())
    assert (found.fresh < 0).all()
    assert len(found.fresh) == n


def test_a_pool_of_one_song(centres: FloatArray, known: tuple[FloatArray, IntArray]) -> None:
    """The very same vector again and again is one type: distances of zero are distances."""
    found = group_pool(np.repeat(centres[5][None], 40, axis=0), often(40), *known, GroupSettings())
    assert (found.fresh == 0).all()


def test_types_that_were_found_are_found_among_any_others(
    centres: FloatArray, known: tuple[FloatArray, IntArray], rng: np.random.Generator
) -> None:
    """The order of the pool changes no group."""
    pool = np.concatenate([cloud(centres[5], 15, 0.2, rng), cloud(centres[6], 25, 0.2, rng)])
    order = rng.permutation(40)
    one = group_pool(pool, often(40), *known, GroupSettings())
    other = group_pool(pool[order], often(40), *known, GroupSettings())
    assert np.array_equal(one.fresh[order], other.fresh)
