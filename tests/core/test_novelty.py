"""Conformal p-values: the definition, the promised false-alarm rate, and the limits of the configuration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from songcore.arrays import FloatArray
from songcore.novelty import NoveltyConfig, conformal_p_values

scores = st.lists(st.floats(0, 2, width=32), min_size=1, max_size=40)


@given(scores, scores)
def test_definition(calibration: list[float], new: list[float]) -> None:
    """A p-value is one plus the calibration scores at least as strange, over one plus all of them, ties included."""
    p_values = conformal_p_values(np.asarray(new, np.float32), np.sort(np.asarray(calibration, np.float32)))
    for score, p_value in zip(new, p_values, strict=True):
        n_as_strange = sum(other >= score for other in calibration)
        assert p_value == (1 + n_as_strange) / (1 + len(calibration))


@given(scores, scores)
def test_stranger_is_never_less_novel(calibration: list[float], new: list[float]) -> None:
    """P-values lie in (0, 1] and fall as scores rise."""
    p_values = conformal_p_values(np.sort(np.asarray(new, np.float32)), np.sort(np.asarray(calibration, np.float32)))
    assert (np.diff(p_values) <= 0).all()
    assert ((p_values > 0) & (p_values <= 1)).all()


def draw(n: int, rng: np.random.Generator) -> FloatArray:
    """Return scores of songs of known types, with ties."""
    return np.asarray(np.round(rng.gamma(3, 0.1, n), 3), np.float32)


@pytest.mark.parametrize("n_calibration", [19, 60, 399])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_false_alarms_keep_their_promise(alpha: float, n_calibration: int) -> None:
    """Over 2000 calibrations a known song is called novel at most alpha of the time, and not much less."""
    rng = np.random.default_rng(n_calibration)
    n_runs = 2_000
    alarms = sum(conformal_p_values(draw(1, rng), np.sort(draw(n_calibration, rng)))[0] <= alpha for _ in range(n_runs))
    error = 3 * np.sqrt(alpha * (1 - alpha) / n_runs)
    exact = np.floor(alpha * (n_calibration + 1)) / (n_calibration + 1)  # without ties
    assert alarms / n_runs <= alpha + error
    assert alarms / n_runs >= exact - error - 0.02


def test_too_few_calibration_songs_never_alarm() -> None:
    """With fewer than 1 / alpha - 1 calibration scores nothing can be novel: the promise is kept by silence."""
    assert conformal_p_values(np.asarray([99.0], np.float32), np.zeros(18, np.float32))[0] > 0.05
    assert conformal_p_values(np.asarray([99.0], np.float32), np.zeros(19, np.float32))[0] <= 0.05


def test_nothing_to_score() -> None:
    """No scores have no p-values."""
    assert conformal_p_values(np.empty(0, np.float32), np.zeros(3, np.float32)).shape == (0,)


@pytest.mark.parametrize("setting", [{"alpha": 0}, {"alpha": 1}, {"n_neighbours": 0}, {"n_neighbours": 101}, {"k": 5}])
def test_impossible_configurations_are_refused(setting: dict[str, float]) -> None:
    """Rates outside (0, 1), no or too many neighbours and unknown keys are refused."""
    with pytest.raises(ValidationError, match=next(iter(setting))):
        NoveltyConfig.model_validate(setting)
