"""Keeps sessions and songs: what is acknowledged is on disk first, and nothing is stored twice.

One thread writes. It gathers the commits of all sessions for a moment and stores them in one transaction, so that a
hundred streams cost a few disk flushes a second. Futures are resolved after the flush.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, CursorResult, bindparam, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError

from songserve.database import DataDirectory
from songserve.records import AudioFormat, Commit, SessionName, SessionOpening, SessionRecord, StoredSong
from songserve.refusal import Refusal
from songserve.schema import effort, sessions, songs

__all__ = ["Store", "WriteObserver", "read_session"]

log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_GROUP = 256

WriteObserver = Callable[[float, int], None]
"""Told after each transaction: seconds it took, jobs it held."""


@dataclass
class _Job:
    run: Callable[[Connection], Any]
    future: "Future[Any]"
    result: Any = None
    refusal: Refusal | None = None


class Store:
    """The writing side; reading is in `songserve.queries`.

    ``group_window_s`` is how long a transaction waits for company; below ``min_free_bytes`` of disk nothing is written.
    """

    def __init__(
        self, directory: DataDirectory, *, group_window_s: float, min_free_bytes: int, observe: WriteObserver
    ) -> None:
        self._directory, self._window_s, self._min_free = directory, group_window_s, min_free_bytes
        self._observe = observe
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._connection = directory.writer.connect()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def open_session(self, opening: SessionOpening) -> "Future[SessionRecord]":
        """Create the session or take it over: the record has a new writer epoch, older writers are fenced off.

        Fails with Refusal FORMAT_CHANGED, DISK_LOW or STORE_UNAVAILABLE.
        """
        return self._submit(lambda connection: _open_session(connection, opening))

    def commit(self, commit: Commit) -> "Future[tuple[StoredSong, ...]]":
        """Store one step of a session whole; gives the songs that were not stored before.

        Fails with Refusal WRITER_FENCED, DISK_LOW or STORE_UNAVAILABLE; then nothing of it is stored.
        """
        return self._submit(lambda connection: _commit(connection, commit))

    def check_disk(self) -> None:
        """Raise Refusal DISK_LOW when less than the reserve is free."""
        free = self._directory.free_bytes
        if free < self._min_free:
            raise Refusal(
                f"the data directory has {free // 2**20} MiB free and keeps {self._min_free // 2**20} MiB in reserve; "
                "make room, or keep the audio and come back",
                reason="DISK_LOW",
            )

    def close(self) -> None:
        """Write what was submitted and stop."""
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    def _submit(self, run: Callable[[Connection], T]) -> "Future[T]":
        future: Future[T] = Future()
        # From here on it cannot be cancelled: a caller that leaves must not stop the thread that writes for all.
        future.set_running_or_notify_cancel()
        self._jobs.put(_Job(run, future))
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
            self.check_disk()
            with self._connection.begin():
                for job in group:
                    _run(job, self._connection)
        except Exception as error:  # noqa: BLE001 - whatever happened, somebody waits for the answer
            refusal = error if isinstance(error, Refusal) else _store_refusal(error)
            for job in group:
                job.future.set_exception(refusal)
            return
        for job in group:
            if job.refusal:
                job.future.set_exception(job.refusal)
            else:
                job.future.set_result(job.result)
        self._observe(time.monotonic() - began, len(group))


def read_session(connection: Connection, uuid: str) -> SessionRecord | None:
    """Return a session as it stands, or None."""
    row = connection.execute(select(sessions).where(sessions.c.uuid == uuid)).mappings().one_or_none()
    if row is None:
        return None
    audio_format = AudioFormat(row["encoding"], row["sample_rate_hz"], row["n_channels"], row["channel"])
    opening = SessionOpening(SessionName.of(row["station"], uuid), audio_format, row["capture_start_ms"])
    return SessionRecord(opening=opening, **{key: row[key] for key in _PROGRESS})


_PROGRESS = (
    "writer_epoch",
    "committed_sequence_number",
    "committed_sample",
    "origin_sample",
    "heard_until_ms",
    "input_sample",
    "state",
    "finished",
)


# Built once: building a statement costs more than running it.
_MINE = (sessions.c.uuid == bindparam("key")) & (sessions.c.writer_epoch == bindparam("epoch"))
_MOVE_SESSION = (
    update(sessions).where(_MINE).values({key: bindparam(key) for key in _PROGRESS if key != "writer_epoch"})
)
_ADD_SONG = insert(songs).on_conflict_do_nothing()
_NEW_EFFORT = insert(effort)
_ADD_EFFORT = _NEW_EFFORT.on_conflict_do_update(
    index_elements=["station", "hour_ms"], set_={"recorded_s": effort.c.recorded_s + _NEW_EFFORT.excluded.recorded_s}
)


def _progress(record: SessionRecord) -> dict[str, Any]:
    return {key: getattr(record, key) for key in _PROGRESS}


def _run(job: _Job, connection: Connection) -> None:
    """Run one job of a group. A refusal comes before the job's first write, so the others are not touched by it."""
    try:
        job.result = job.run(connection)
    except Refusal as refusal:
        job.refusal = refusal


def _open_session(connection: Connection, opening: SessionOpening) -> SessionRecord:
    uuid = str(opening.name.uuid)
    record = read_session(connection, uuid)
    if record is None:
        record = SessionRecord(opening, writer_epoch=1)
        audio_format = asdict(opening.audio_format)
        start = {"uuid": uuid, "station": opening.name.station, "capture_start_ms": opening.capture_start_ms}
        connection.execute(insert(sessions).values(**start, **audio_format, **_progress(record)))
        return record
    if record.opening != opening:
        raise Refusal(
            f"session {opening.name} began as {record.opening}; a session keeps its station, format and start time, "
            "begin a new one",
            reason="FORMAT_CHANGED",
        )
    epoch = record.writer_epoch + 1
    connection.execute(update(sessions).where(sessions.c.uuid == uuid).values(writer_epoch=epoch))
    last_end = connection.execute(select(func.max(songs.c.end_ms)).where(songs.c.session == uuid)).scalar()
    songs_until_ms = 0 if last_end is None else last_end - opening.capture_start_ms
    return replace(record, writer_epoch=epoch, songs_until_ms=songs_until_ms)


def _commit(connection: Connection, commit: Commit) -> tuple[StoredSong, ...]:
    record = commit.record
    name = record.opening.name
    move = {**_progress(record), "key": str(name.uuid), "epoch": record.writer_epoch}
    if _n_rows(connection.execute(_MOVE_SESSION, move)) == 0:
        raise Refusal(
            f"a newer stream writes {name}; this one, of epoch {record.writer_epoch}, has ended", reason="WRITER_FENCED"
        )
    new = tuple(song for song in commit.songs if _n_rows(connection.execute(_ADD_SONG, song.row())))
    for hour_ms, recorded_s in commit.recorded_s.items():
        effort_row = {"station": name.station, "hour_ms": hour_ms, "recorded_s": recorded_s}
        connection.execute(_ADD_EFFORT, effort_row)
    return new


def _n_rows(result: Any) -> int:
    return cast("CursorResult[Any]", result).rowcount


def _store_refusal(error: Exception) -> Refusal:
    log.error("the store could not write: %s", error)
    cause = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    if "is full" in cause:
        return Refusal(
            f"the disk of the data directory is full ({cause}); make room, or keep the audio and come back",
            reason="DISK_LOW",
        )
    return Refusal(
        f"the store cannot be written now ({cause}); keep the audio and come back", reason="STORE_UNAVAILABLE"
    )
