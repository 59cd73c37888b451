"""Counters that are read from the store at every scrape, so that neither crashes nor repeats make them drift from it."""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from songserve.ingest_requests import GAP_REASONS
from songserve.refusal import Refusal
from songserve.tally import Tally, by_number

__all__ = ["StoreTotals"]

NOVEL, NOISE = "novel", "noise"


class StoreTotals(Collector):
    """Songs by type, effort by station and declared gaps by reason; labels are bounded by the functions given.

    Where the store cannot be read, a scrape shows what the one before showed.
    """

    def __init__(
        self,
        totals: Callable[[], tuple[Tally, Mapping[str, float]]],
        gaps: Callable[[], Mapping[str, float]],
        type_label: Callable[[str], str],
        station_label: Callable[[str], str],
    ) -> None:
        self._totals, self._gaps = totals, gaps
        self._type_label, self._station_label = type_label, station_label
        self._shown: tuple[CounterMetricFamily, ...] = ()

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the counters as the store has them now."""
        try:
            (tally, recorded_s), gaps = self._totals(), self._gaps()
        except Refusal:
            return self._shown
        songs = Counts({NOVEL: sum(tally.novel.values()), NOISE: sum(tally.noise.values())})
        # The most frequent types come first to the labels that there are.
        for type_id, n in by_number(tally.songs).items():
            songs[self._type_label(type_id)] += n
        seconds: dict[str, float] = {}
        for station, recorded in recorded_s.items():
            label = self._station_label(station)
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
