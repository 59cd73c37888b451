"""Keeps sessions and songs: what is acknowledged is on disk first, and nothing is stored twice.

One thread writes. It gathers the commits of all sessions for a moment and stores them in one transaction, so that a
hundred streams cost a few disk flushes a second. Futures are resolved after the flush.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

from songcore.decisions import Decision, View
from songcore.errors import SongError
from songserve.bundles.history import BundleEvent
from songserve.database import DataDirectory
from songserve.decision_log import DecisionLog
from songserve.decision_writing import Intent
from songserve.engines import READ_ONLY
from songserve.placing import Placer
from songserve.records import Commit, Retyping, SessionOpening, SessionRecord, StoredSong
from songserve.refusal import Refusal
from songserve.writing import OlderWriterError, Statements, Transaction

__all__ = ["Store", "WriteObserver", "store_refusal"]

log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_GROUP = 256

WriteObserver = Callable[[float, int], None]
"""Told after each transaction: seconds it took, jobs it held."""


@dataclass
class _Job:
    run: Callable[[Transaction], Any]
    future: "Future[Any]"
    frees_disk: bool
    result: Any = None
    refusal: SongError | None = None


class Store:
    """The writing side; reading is in `songserve.queries`.

    ``group_window_s`` is how long a transaction waits for company; below ``min_free_bytes`` of disk nothing is written
    but what makes room.
    """

    def __init__(
        self, directory: DataDirectory, *, group_window_s: float, min_free_bytes: int, observe: WriteObserver
    ) -> None:
        self._directory, self._window_s, self._min_free = directory, group_window_s, min_free_bytes
        self._observe = observe
        self._log, self._placer = DecisionLog(), Placer()
        self._watchers: set[Callable[[], object]] = set()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._statements = Statements.of(directory.writer.dialect.name)
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def open_session(self, opening: SessionOpening) -> "Future[SessionRecord]":
        """Create the session or take it over: the record has a new writer epoch, older writers are fenced off.

        Fails with Refusal FORMAT_CHANGED, DISK_LOW, STORE_UNAVAILABLE or STORE_CORRUPT.
        """
        return self._submit(lambda transaction: transaction.open_session(opening))

    def commit(self, commit: Commit) -> "Future[Sequence[StoredSong]]":
        """Store one step of a session whole; gives the songs that were not stored before.

        Fails with Refusal WRITER_FENCED, DISK_LOW, STORE_UNAVAILABLE or STORE_CORRUPT; then nothing of it is stored, unless
        a PostgreSQL went away in the middle of the answer: the next `open_session` tells.
        """
        return self._submit(lambda transaction: transaction.commit(commit))

    def forget_clips(self, uids: Sequence[str]) -> "Future[set[str]]":
        """Delete the rows of clips, except kept ones; gives the songs whose files are the caller's to delete now."""
        return self._submit(lambda transaction: transaction.forget_clips(uids), frees_disk=True)

    def keep_clip(self, uid: str, *, keep: bool) -> "Future[bool]":
        """Set whether a clip is kept from deletion; gives False when the song has none."""
        return self._submit(lambda transaction: transaction.keep_clip(uid, keep))

    def decide(self, intent: Intent) -> "Future[Decision | None]":
        """Add a decision; gives None when it is so already. Fails with what `songserve.decision_writing` raises."""
        return self._submit(lambda transaction: transaction.decide(intent))

    @property
    def view(self) -> View:
        """How things stand after people's decisions, as far as the writing thread has seen."""
        return self._log.view

    def note_bundle_event(self, event: BundleEvent) -> "Future[BundleEvent]":
        """Keep what was done with a bundle; gives the event with its number."""
        return self._submit(lambda transaction: transaction.note_bundle_event(event))

    def add_retypings(self, found: Sequence[Retyping]) -> "Future[int]":
        """Keep what another bundle makes of songs; gives how many had no result of that bundle before."""
        return self._submit(lambda transaction: transaction.add_retypings(found))

    def subscribe(self, stored: Callable[[], object]) -> Callable[[], None]:
        """Call ``stored`` in the writing thread after each transaction with new songs or decisions; returns what ends that."""
        self._watchers.add(stored)
        return lambda: self._watchers.discard(stored)

    def check_disk(self, *, n_reserves: int = 1) -> None:
        """Raise Refusal DISK_LOW when less than so many times the reserve is free."""
        free, needed = self._directory.free_bytes, n_reserves * self._min_free
        if free < needed:
            raise Refusal(
                f"the data directory has {free // 2**20} MiB free, and {needed // 2**20} MiB are needed; "
                "make room, or keep the audio and come back",
                reason="DISK_LOW",
            )

    def close(self) -> None:
        """Write what was submitted and stop."""
        self._jobs.put(None)
        self._thread.join()

    def _submit(self, run: Callable[[Transaction], T], *, frees_disk: bool = False) -> "Future[T]":
        future: Future[T] = Future()
        # From here on it cannot be cancelled: a caller that leaves must not stop the thread that writes for all.
        future.set_running_or_notify_cancel()
        self._jobs.put(_Job(run, future, frees_disk))
        return future

    def _write(self) -> None:
        running = True
        while running:
            job = self._jobs.get()
            group = [job] if job else []
            running = job is not None
            deadline = time.monotonic() + self._window_s
            while running and len(group) < MAX_GROUP:
                try:
                    job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
                except Empty:
                    break
                running = job is not None
                if job:
                    group.append(job)
            if group:
                self._write_group(group)

    def _write_group(self, group: list[_Job]) -> None:
        began = time.monotonic()
        try:
            group = self._with_room(group)
            if not group:
                return
            with self._directory.writer.begin() as connection:
                transaction = Transaction(connection, self._statements, self._log, self._placer)
                for job in group:
                    _run(job, transaction)
                transaction.finish()
        except Exception as error:  # noqa: BLE001 - whatever happened, somebody waits for the answer
            self._answer_failure(group, error)
            return
        self._log.extend(transaction.new_decisions)
        for job in group:
            if job.refusal:
                job.future.set_exception(job.refusal)
            else:
                job.future.set_result(job.result)
        self._observe(time.monotonic() - began, len(group))
        if transaction.n_new_songs or transaction.new_decisions:
            for stored in list(self._watchers):
                with suppress(RuntimeError):  # of an event loop that ended meanwhile
                    stored()

    def _with_room(self, group: list[_Job]) -> list[_Job]:
        """Return the jobs that there is room for: on a full disk those that free some; the others are answered."""
        try:
            self.check_disk()
        except Refusal as refusal:
            for job in group:
                if not job.frees_disk:
                    job.future.set_exception(refusal)
            return [job for job in group if job.frees_disk]
        return group

    def _answer_failure(self, group: list[_Job], error: Exception) -> None:
        # When a value or an older writer is to blame and not the database, that must not cost the others their commit.
        is_read_only = getattr(getattr(error, "orig", None), "sqlstate", None) == READ_ONLY
        if len(group) > 1 and not is_read_only and not isinstance(error, Refusal | OperationalError):
            for job in group:
                job.result = job.refusal = None
                self._write_group([job])
            return
        if isinstance(error, OlderWriterError):
            error = Refusal(f"a newer stream writes {error}; this one has ended", reason="WRITER_FENCED")
        refusal = error if isinstance(error, Refusal) else store_refusal(error)
        for job in group:
            job.future.set_exception(refusal)


def _run(job: _Job, transaction: Transaction) -> None:
    try:
        job.result = job.run(transaction)
    except SongError as refusal:
        job.refusal = refusal


def store_refusal(error: Exception, *, doing: str = "written") -> Refusal:
    """Return what to tell a caller when the database said no: DISK_LOW, STORE_CORRUPT or STORE_UNAVAILABLE."""
    log.error("the store cannot be %s: %s", doing, error)
    cause = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if "is full" in cause or state == "53100":
        return Refusal(
            f"the disk of the database is full ({cause}); make room, or keep the audio and come back",
            reason="DISK_LOW",
        )
    if "malformed" in cause or "not a database" in cause or state in {"XX001", "XX002"}:
        return Refusal(
            f"the database is damaged ({cause}); keep the audio, run `songstream db check`, restore a backup",
            reason="STORE_CORRUPT",
        )
    return Refusal(
        f"the store cannot be {doing} now ({cause}); keep the audio and come back", reason="STORE_UNAVAILABLE"
    )
