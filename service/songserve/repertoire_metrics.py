"""What Prometheus can ask about the repertoire of a store: few numbers for all stations, looked up at each scrape."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from songcore.bundle import Bundle
from songcore.decisions import Decision
from songcore.repertoire import chao1, good_turing_coverage
from songserve.frequencies import FrequencyFilter
from songserve.queries import SongQueries
from songserve.refusal import Refusal
from songserve.retraining import decided_since, novel_excess, retraining_due
from songserve.times import DAY_MS

__all__ = ["RepertoireMetrics"]

RECENT_MS = 7 * DAY_MS
_PREFIX = "songstream"

Family = GaugeMetricFamily | CounterMetricFamily


class RepertoireMetrics(Collector):
    """Coverage, Chao1 and rare types of what is stored, decisions, and whether a retraining would pay.

    Where the store cannot be read, a scrape shows what the one before showed.
    """

    def __init__(self, queries: SongQueries, bundle: Callable[[], Bundle], now_ms: Callable[[], int]) -> None:
        self._queries, self._bundle, self._now_ms = queries, bundle, now_ms
        self._shown: tuple[Family, ...] = ()

    def collect(self) -> Iterable[Family]:
        """Return the numbers as they are now."""
        try:
            counts = [n for n in self._queries.totals()[0].songs.values() if n]
            decisions = self._queries.decisions()
            self._shown = (*_repertoire(counts), _decisions(decisions), *self._retraining(decisions))
        except Refusal:
            pass
        return self._shown

    def _retraining(self, decisions: Iterable[Decision]) -> tuple[Family, ...]:
        manifest = self._bundle().manifest
        made_ms = round(manifest.created_at.timestamp() * 1000)
        since_ms = max(self._now_ms() - RECENT_MS, made_ms)
        # Whole days, of which there are few to add up.
        recent = self._queries.frequencies(FrequencyFilter(start_ms=-(-since_ms // DAY_MS) * DAY_MS))
        n_novel = sum(one.n_novel for one in recent)
        n_songs = n_novel + sum(sum(one.counts.values()) for one in recent)
        excess = novel_excess(n_songs, n_novel, manifest.novelty.alpha)
        n_decisions = decided_since(decisions, self._queries.view.undone, made_ms)
        due = GaugeMetricFamily(f"{_PREFIX}_retraining_due", "1 where a retraining would pay.", labels=["reason"])
        for reason, is_due in retraining_due(excess, n_decisions).items():
            due.add_metric([reason], float(is_due))
        text = "Novel songs of the last days beyond what false alarms explain."
        return due, GaugeMetricFamily(f"{_PREFIX}_novel_songs_excess", text, excess.songs)


def _repertoire(counts: list[int]) -> tuple[Family, ...]:
    size = chao1(counts)
    bounds = GaugeMetricFamily(
        f"{_PREFIX}_repertoire_estimated_types",
        "Types there are at least, by Chao1, with its 95 % interval.",
        labels=["bound"],
    )
    for bound, value in (("low", size.low), ("estimate", size.estimate), ("high", size.high)):
        bounds.add_metric([bound], value)
    return (
        GaugeMetricFamily(f"{_PREFIX}_repertoire_types", "Types with songs stored.", float(size.n_heard)),
        bounds,
        GaugeMetricFamily(
            f"{_PREFIX}_repertoire_coverage",
            "Estimated probability that the next song with a type is of a type heard before.",
            good_turing_coverage(counts),
        ),
        GaugeMetricFamily(f"{_PREFIX}_repertoire_singletons", "Types with one song stored.", float(counts.count(1))),
    )


def _decisions(decisions: Iterable[Decision]) -> Family:
    family = CounterMetricFamily(f"{_PREFIX}_decisions", "Decisions of people, undone ones included.", labels=["kind"])
    kinds = [one.action.kind for one in decisions]
    for kind in ("name", "merge", "split", "noise", "song", "undo"):
        family.add_metric([kind], float(kinds.count(kind)))
    return family
