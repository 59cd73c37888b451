"""What Prometheus can ask about novelty: grades, the pool, and whether songs are still what novelty was calibrated on.

The promise of novelty holds while known songs are like those it was calibrated on; then their p-values are uniform. New types
have low ones, so only what lies well above them is looked at: of p-values above a tenth, how far their distribution is from a
uniform one (Kolmogorov and Smirnov's distances). Songs that grow stranger, after a change of microphone or in another place,
are called novel more often than promised; songs that grow plainer, as faint ones do, hide what is new.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import nan

import numpy as np
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from songserve.records import StoredSong
from songserve.refusal import Refusal

__all__ = ["NoveltyMetrics", "distances_from_uniform"]

WINDOW_SONGS = 500
"""The latest songs of a station that are looked at."""
LEAST_SONGS = 100
WELL_KNOWN = 0.1


def distances_from_uniform(p_values: Sequence[float]) -> tuple[float, float]:
    """Return how far p-values (n,) in (0, 1] lie below and above a uniform distribution: D+ and D-, from 0 to 1."""
    ordered, n = np.sort(np.asarray(p_values, np.float64)), len(p_values)
    steps = np.arange(1, n + 1) / n
    return float((steps - ordered).max(initial=0)), float((ordered - steps + 1 / n).max(initial=0))


class NoveltyMetrics(Collector):
    """Follows the songs that are stored; ``station_label`` bounds the labels."""

    def __init__(self, registry: CollectorRegistry, station_label: Callable[[str], str]) -> None:
        self._station_label = station_label
        self._windows: dict[str, deque[float]] = {}
        self._pool: Callable[[], tuple[int, int | None]] | None = None
        self._shown_pool: list[GaugeMetricFamily] = []
        self._graded = Counter(
            "songs_graded",
            "Songs stored by this process, by novelty and quality; noise left out.",
            ("novelty", "quality"),
            namespace="songstream",
            registry=registry,
        )
        registry.register(self)

    def count_pool(self, pool: Callable[[], tuple[int, int | None]]) -> None:
        """Take the pool's size and its oldest song's start, UTC milliseconds, from the store."""
        self._pool = pool

    def songs_stored(self, songs: Sequence[StoredSong]) -> None:
        """Take in songs that the store has taken in."""
        for song in songs:
            if song.kind != "song":
                continue
            self._graded.labels(song.novelty, song.quality).inc()
            window = self._windows.setdefault(self._station_label(song.station), deque(maxlen=WINDOW_SONGS))
            if song.quality == "good" and song.p_value > WELL_KNOWN:
                window.append((song.p_value - WELL_KNOWN) / (1 - WELL_KNOWN))

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the gauges as things stand now; where the store cannot be read, the pool is that of the last time."""
        drift = GaugeMetricFamily(
            "songstream_novelty_drift_distance",
            "How far p-values of known songs are from uniform, lately; NaN before there are enough.",
            labels=["station", "direction"],
        )
        for station, window in list(self._windows.items()):
            latest = list(window)
            distances = distances_from_uniform(latest) if len(latest) >= LEAST_SONGS else (nan, nan)
            for direction, distance in zip(("stranger", "plainer"), distances, strict=True):
                drift.add_metric([station, direction], distance)
        yield drift
        yield from self._pool_families()

    def _pool_families(self) -> list[GaugeMetricFamily]:
        if self._pool is None:
            return []
        try:
            size, oldest_ms = self._pool()
        except Refusal:
            return self._shown_pool
        self._shown_pool = [
            GaugeMetricFamily("songstream_novel_pool_size", "Songs that new types may come from.", size)
        ]
        if oldest_ms is not None:
            text = "When the oldest of them was sung."
            name = "songstream_novel_pool_oldest_timestamp_seconds"
            self._shown_pool.append(GaugeMetricFamily(name, text, oldest_ms / 1000))
        return self._shown_pool
