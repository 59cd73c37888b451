"""Novelty's metrics: grades, the pool and drift are what they say, and labels are bounded."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import kstest

from songserve.metrics import Metrics
from songserve.novelty_metrics import LEAST_SONGS, NoveltyMetrics, distances_from_uniform
from songserve.records import SessionRecord, StoredSong
from songserve.refusal import Refusal
from stores import opening, song

RECORD = SessionRecord(opening(), writer_epoch=1)


def songs(p_values: np.ndarray, station: str = "north", **fields: str) -> list[StoredSong]:
    """Return songs with p-values, at a station."""
    return [song(RECORD, at, p_value=float(p), station=station, **fields) for at, p in enumerate(p_values)]


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_distances_are_those_of_scipy(power: float) -> None:
    """Both one-sided distances agree with scipy's, for p-values that are too high, uniform and too low."""
    p_values = np.random.default_rng(0).random(300) ** power
    expected = tuple(kstest(p_values, "uniform", alternative=side).statistic for side in ("greater", "less"))
    assert distances_from_uniform(p_values.tolist()) == pytest.approx(expected)


def test_drift_is_seen_where_it_is_and_new_types_are_none() -> None:
    """A station whose known songs grow strange stands out, one with new types and one with too few songs do not."""
    rng = np.random.default_rng(1)
    registry = CollectorRegistry()
    metrics = NoveltyMetrics(registry, str)
    uniform = rng.random(600)
    metrics.songs_stored(songs(uniform**2.5, "wood"))
    metrics.songs_stored(songs(np.concatenate([uniform, np.full(300, 0.002)]), "river"))
    metrics.songs_stored(songs(uniform[: LEAST_SONGS // 2] ** 3, "hill"))
    metrics.songs_stored(songs(uniform**2.5, "mill", quality="faint"))

    def distance(station: str) -> float | None:
        labels = {"station": station, "direction": "stranger"}
        return registry.get_sample_value("songstream_novelty_drift_distance", labels)

    assert (distance("wood") or 0) > 0.12
    assert (distance("river") or 1) < 0.1
    assert [str(distance(station)) for station in ("hill", "mill")] == ["nan", "nan"]


def test_songs_are_counted_by_state_and_grade() -> None:
    """Every song but noise is counted once under both."""
    metrics = Metrics(version="v")
    stored = [song(RECORD, 1, novelty="novel"), song(RECORD, 2, quality="faint"), song(RECORD, 3, kind="noise")]
    metrics.songs_stored(stored)

    def counted(novelty: str, quality: str) -> float | None:
        labels = {"novelty": novelty, "quality": quality}
        return metrics.registry.get_sample_value("songstream_songs_graded_total", labels)

    assert (counted("novel", "good"), counted("known", "faint"), counted("known", "good")) == (1, 1, None)


def test_the_pool_is_shown_as_the_store_has_it() -> None:
    """Size and oldest song are the store's; while it cannot be read they stay, and an empty pool has no oldest."""
    registry = CollectorRegistry()
    metrics = NoveltyMetrics(registry, str)
    size, oldest = "songstream_novel_pool_size", "songstream_novel_pool_oldest_timestamp_seconds"
    metrics.count_pool(lambda: (0, None))
    assert (registry.get_sample_value(size), registry.get_sample_value(oldest)) == (0, None)
    metrics.count_pool(lambda: (7, 90_500))
    assert (registry.get_sample_value(size), registry.get_sample_value(oldest)) == (7, 90.5)

    def broken() -> tuple[int, int | None]:
        raise Refusal("the store cannot be read", reason="STORE_UNAVAILABLE")

    metrics.count_pool(broken)
    assert registry.get_sample_value(size) == 7
