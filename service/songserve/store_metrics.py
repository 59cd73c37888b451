"""Counters that are read from the store at every scrape, so that neither crashes nor repeats make them drift from it."""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from songserve.ingest_requests import GAP_REASONS
from songserve.labels import Labels
from songserve.refusal import Refusal
from songserve.tally import Tally

__all__ = ["StoreTotals"]

NOVEL, NOISE = "novel", "noise"


class StoreTotals(Collector):
    """Songs by type, effort by station and declared gaps by reason, with bounded labels.

    Where the store cannot be read, a scrape shows what the one before showed.
    """

    def __init__(
        self,
        totals: Callable[[], tuple[Tally, Mapping[str, float]]],
        gaps: Callable[[], Mapping[str, float]],
        types_in_order: Callable[[], Iterable[str]],
        types: Labels,
        stations: Labels,
    ) -> None:
        self._totals, self._gaps, self._types_in_order = totals, gaps, types_in_order
        self._types, self._stations = types, stations
        self._shown: tuple[CounterMetricFamily, ...] = ()

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the counters as the store has them now."""
        try:
            (tally, recorded_s), gaps = self._totals(), self._gaps()
            counts = {type_id: n for type_id, n in sorted(tally.songs.items()) if n}
            # By when they came, which no restart changes. By their numbers, types would change places and so have jumps.
            if self._types.would_take(counts):
                self._types.take(self._types_in_order())
        except Refusal:
            return self._shown
        songs = Counts({NOVEL: sum(tally.novel.values()), NOISE: sum(tally.noise.values())})
        for type_id, n in counts.items():
            songs[self._types.of(type_id)] += n
        seconds: dict[str, float] = {}
        for station, recorded in recorded_s.items():
            label = self._stations.of(station)
            seconds[label] = seconds.get(label, 0.0) + recorded
        # Every reason from the beginning: only so does the first loss of one increase its counter.
        declared = {**dict.fromkeys(GAP_REASONS.values(), 0.0), **gaps}
        self._shown = (
            _family("songs", "Songs stored, by type, novel, noise, or other.", "song_type", +songs),
            CounterMetricFamily("songstream_songs_forced_cut", "Songs cut at the maximum length.", tally.n_cut),
            _family("recorded_seconds", "Seconds of audio committed, gaps excluded: the effort.", "station", seconds),
            _family("ingest_declared_gap_seconds", "Seconds declared lost, once committed.", "reason", declared),
        )
        return self._shown


def _family(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"songstream_{name}", text, labels=[label])
    for value, total in values.items():
        family.add_metric([value], total)
    return family
