"""Compares a bundle with the active one on the songs that come in; it decides nothing, and nothing waits for it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from songcore.assign import Assignment
from songcore.bundle import Bundle
from songcore.lineage import TypeChange
from songcore.stream import Song
from songserve.batching import Batcher
from songserve.hearing import Model

__all__ = ["Comparison", "Shadow", "ShadowTally"]

log = logging.getLogger(__name__)

BUSY = 0.2
"""Above this load of the batcher songs are left out."""
N_BINS = 100
"""Of p-values."""
MAX_PAIRS = 10_000
"""Of types, counted; there are few in the end, and a bundle that names at random must not fill the memory."""
Comparison = str
"""same, by_lineage, other; novel when either calls the song novel; left_out."""


class ShadowObserver(Protocol):
    """Told what was compared, for metrics."""

    def shadowed(self, outcome: Comparison, n_songs: int) -> None:
        """Count songs by what came out."""
        ...

    def shadow_drift(self, drift: float) -> None:
        """Take note of how far the p-values are apart."""
        ...


class ShadowTally:
    """Counts what two bundles make of the same songs; ``lineage`` is what retrainings between them did."""

    def __init__(self, lineage: Iterable[TypeChange] = ()) -> None:
        self._steps: dict[str, set[str]] = {}
        for entry in lineage:
            for other in entry.others:
                before, after = (entry.id, other) if entry.change == "retired" else (other, entry.id)
                self._steps.setdefault(before, set()).add(after)
        self.counts: Counter[Comparison] = Counter()
        self.n_novel_active = self.n_novel_candidate = self.n_novel_both = 0
        self.pairs: Counter[tuple[str, str]] = Counter()
        self._p_values = np.zeros((2, N_BINS), np.int64)
        self._shift = 0.0

    @property
    def n_songs(self) -> int:
        """Songs that both named."""
        return self.counts.total() - self.counts["left_out"]

    @property
    def p_value_drift(self) -> float:
        """Kolmogorov-Smirnov distance of the two distributions of p-values, from bins."""
        if not self.n_songs:
            return 0.0
        active, candidate = np.cumsum(self._p_values, axis=1) / self.n_songs
        return float(np.abs(active - candidate).max())

    @property
    def p_value_shift(self) -> float:
        """Mean of the candidate's p-value minus the active one's."""
        return self._shift / self.n_songs if self.n_songs else 0.0

    def count(self, active: Assignment, candidate: Assignment) -> Comparison:
        """Take in one song and return what came out."""
        outcome = self._compared(active, candidate)
        self.counts[outcome] += 1
        self.n_novel_active += active.is_novel
        self.n_novel_candidate += candidate.is_novel
        self.n_novel_both += active.is_novel and candidate.is_novel
        pair = active.type_id, candidate.type_id
        if outcome == "other" and (pair in self.pairs or len(self.pairs) < MAX_PAIRS):
            self.pairs[pair] += 1
        for row, name in enumerate((active, candidate)):
            self._p_values[row, min(N_BINS - 1, int(name.p_value * N_BINS))] += 1
        self._shift += candidate.p_value - active.p_value
        return outcome

    def leave_out(self, n_songs: int) -> None:
        """Count songs that were not compared."""
        self.counts["left_out"] += n_songs

    def row(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        return {
            "n_songs": self.n_songs,
            "counts": dict(self.counts),
            "n_novel_active": self.n_novel_active,
            "n_novel_candidate": self.n_novel_candidate,
            "n_novel_both": self.n_novel_both,
            "p_value_drift": self.p_value_drift,
            "p_value_shift": self.p_value_shift,
        }

    def _compared(self, active: Assignment, candidate: Assignment) -> Comparison:
        if active.is_novel or candidate.is_novel:
            return "novel"
        if active.type_id == candidate.type_id:
            return "same"
        known = candidate.type_id in self._heirs(active.type_id) or active.type_id in self._heirs(candidate.type_id)
        return "by_lineage" if known else "other"

    def _heirs(self, type_id: str) -> set[str]:
        found, waiting = set[str](), [type_id]
        while waiting:
            new = self._steps.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found


class Shadow:
    """Runs ``candidate`` beside ``active`` since ``start_ms``; both hear the same songs."""

    def __init__(
        self,
        batcher: Batcher[Song, Assignment],
        candidate: Bundle,
        active: Bundle,
        observer: ShadowObserver,
        *,
        start_ms: int,
    ) -> None:
        self._batcher, self._observer = batcher, observer
        self.candidate, self.active, self.start_ms = candidate, active, start_ms
        # The younger of the two knows what the other one knows of it.
        lineage = max(candidate.manifest.lineage, active.manifest.lineage, key=len)
        self.tally = ShadowTally(lineage)
        self._comparing: set[asyncio.Task[None]] = set()

    def offer(self, songs: Sequence[Song], models: Sequence[Model], names: Sequence[Assignment]) -> None:
        """Compare songs that the active bundle has named, if there is time for it."""
        own = [(song, name) for song, model, name in zip(songs, models, names, strict=True) if model is self.active]
        if not own:
            return
        if self._batcher.load > BUSY:
            self._leave_out(len(own))
            return
        task = asyncio.create_task(self._compare(own))
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)

    async def close(self) -> None:
        """Finish what is being compared."""
        await asyncio.gather(*self._comparing, return_exceptions=True)

    async def _compare(self, own: Sequence[tuple[Song, Assignment]]) -> None:
        try:
            theirs = await self._batcher.run(self.candidate.classify, [song for song, _ in own], lane="backfill")
        except Exception as error:  # noqa: BLE001 - whatever the candidate fails with, the active one serves on
            log.warning("the candidate %s failed on songs: %s", self.candidate.digest, error)
            self._leave_out(len(own))
            return
        for (_, name), their in zip(own, theirs, strict=True):
            self._observer.shadowed(self.tally.count(name, their), 1)
        self._observer.shadow_drift(self.tally.p_value_drift)

    def _leave_out(self, n_songs: int) -> None:
        self.tally.leave_out(n_songs)
        self._observer.shadowed("left_out", n_songs)
