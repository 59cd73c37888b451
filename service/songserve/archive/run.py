"""A whole run over an archive: what is left to do, doing it, and the tables in the end."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo

from songcore.recorders import is_skipped, utc_start
from songserve.archive.pool import WorkerPool
from songserve.archive.recordings import FoundRecording
from songserve.archive.results import Journal, RecordingResult
from songserve.archive.tables import write_failed, write_tables
from songserve.archive.worker import BundleFacts, Job, Outcome

__all__ = ["RunSummary", "classify_archive"]


@dataclass(slots=True)
class RunSummary:
    """What the tables of a run hold, in numbers."""

    facts: BundleFacts
    n_recordings: int = 0
    n_resumed: int = 0
    """Recordings whose result of an earlier run was taken."""
    audio_s: float = 0.0
    """Of all recordings in the tables."""
    heard_s: float = 0.0
    """Of those classified in this run."""
    n_songs: int = 0
    n_novel: int = 0
    n_uncertain: int = 0
    n_noise: int = 0
    qualities: Counter[str] = field(default_factory=Counter)
    """Songs by quality, noise left out."""
    failed: list[Outcome] = field(default_factory=list)
    """Recordings that could not be read, or not to their end."""
    types: Counter[str] = field(default_factory=Counter)
    """Songs by type id, novel ones and noise left out."""
    n_zone_unknown: int = 0
    """Recordings that state a time without its zone, where none was given for them."""
    zone_impossible: list[str] = field(default_factory=list)
    """Recordings that state a time which the clocks of the zone that was given for them skip."""
    older_tables: list[str] = field(default_factory=list)
    """Left in the output folder by earlier runs, and not of these results."""
    similarity_sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def count(self, result: RecordingResult) -> None:
        """Add what one recording holds."""
        self.n_recordings += 1
        self.audio_s += result.duration_s
        for song in result.songs:
            self.n_songs += 1
            self.n_novel += song.novel
            self.n_uncertain += song.novelty == "uncertain"
            self.n_noise += song.kind == "noise"
            if song.kind == "song":
                self.qualities[song.quality] += 1
            if song.kind == "song" and not song.novel:
                self.types[song.type_id] += 1
                self.similarity_sums[song.type_id] += song.similarity


def classify_archive(
    job: Job,
    recordings: Sequence[FoundRecording],
    *,
    n_workers: int,
    formats: Sequence[str],
    resume: bool,
    report: Callable[[Outcome], None],
    zone: tzinfo | None = None,
) -> RunSummary:
    """Classify the recordings, write the tables to ``job.out`` and return what they hold.

    ``zone`` is that of recordings which state a time without one.
    ``report`` is called as each recording ends, finished ones of an earlier run included. Raises ConfigError or
    BundleError, and what is finished by then stays finished.
    """
    lock = Journal(job.out, bundle="", channel=job.channel)
    with lock.locked(), WorkerPool(job, min(n_workers, len(recordings))) as pool:
        facts = pool.describe()
        journal = Journal(job.out, bundle=facts.digest, channel=job.channel)
        summary = RunSummary(facts)
        left: list[FoundRecording] = []
        for recording in recordings:
            outcome = _kept(journal, recording) if resume else None
            if outcome is None:
                left.append(recording)
                continue
            summary.n_resumed += 1
            _take(summary, outcome, report)
        # The longest first, so that no worker is left alone with a long one at the end.
        left.sort(key=lambda recording: -recording.size_bytes)
        for outcome in pool.outcomes(left):
            summary.heard_s += outcome.duration_s
            _take(summary, outcome, report)
    results = _results(journal, recordings, summary, zone)
    summary.older_tables = write_tables(job.out, results, facts, formats, zone=zone)
    write_failed(job.out, summary.failed)
    return summary


def _kept(journal: Journal, recording: FoundRecording) -> Outcome | None:
    result = journal.load(recording)
    if result is None:
        return None
    return Outcome(recording, result.duration_s, len(result.songs), result.problem, kept=True)


def _take(summary: RunSummary, outcome: Outcome, report: Callable[[Outcome], None]) -> None:
    if outcome.problem is not None:
        summary.failed.append(outcome)
    report(outcome)


def _results(
    journal: Journal, recordings: Sequence[FoundRecording], summary: RunSummary, zone: tzinfo | None
) -> Iterator[RecordingResult]:
    lost = {outcome.recording.name for outcome in summary.failed if not outcome.kept}
    for recording in recordings:
        result = None if recording.name in lost else journal.load(recording)
        if result is not None:
            summary.count(result)
            summary.n_zone_unknown += result.start is not None and utc_start(result.start, zone) is None
            if is_skipped(result.start, zone):
                summary.zone_impossible.append(recording.name)
            yield result
