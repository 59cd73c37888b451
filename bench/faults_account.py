"""The books of one run: what lies in the spool, what the store has, and whether they agree. Only reads files, at any time."""

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from songserve.database import DATABASE_NAME
from songstation.commands.station_run import STATE_FILE
from songstation.spool_records import HEADER_BYTES, Kind, scan

__all__ = ["Books", "Kept", "Place"]

_OPENING_BYTES = 1024
"""More than the first record of a file has, which names its session."""
_SLACK_S = 1e-3
"""Effort is a sum of floating-point seconds."""


@dataclass(frozen=True, order=True)
class Place:
    """Samples of a session, half-open."""

    begin: int
    end: int


@dataclass
class Kept:
    """One session as the spool has it, or had it before it was deleted."""

    uuid: str
    start: str
    rate_hz: int
    end: int = 0
    """Samples captured, lost ones included."""
    losses: dict[Place, str] = field(default_factory=dict)
    """Declared lost, or damaged on the disk; with the reason."""
    held: list[Place] = field(default_factory=list)
    """What lies in the spool now, file by file, losses included."""

    def lost_before(self, sample: int) -> int:
        """Return the samples lost before one."""
        return sum(max(0, min(place.end, sample) - place.begin) for place in self.losses)

    def gone_before(self) -> int:
        """Return up to which sample something is not in the spool any more."""
        begin = self.end
        for place in sorted(self.held, reverse=True):
            if place.end < begin:
                break
            begin = min(begin, place.begin)
        return begin


@dataclass
class _Stored:
    committed: dict[str, int]
    finished: dict[str, bool]
    recorded_s: float
    songs: list[tuple[str, int, int, int]]
    """Session, onset, offset, rate."""


class Books:
    """Keeps what it saw of the spool, and writes down each disagreement in ``problems``."""

    def __init__(self, spool: Path, data_dir: Path) -> None:
        self.spool, self.data_dir = spool, data_dir
        self.sessions: dict[str, Kept] = {}
        """In the order in which they were captured."""
        self.problems: list[str] = []
        self.n_checks = 0

    def n_withheld(self) -> int:
        """Return the samples lost to a full disk that the station declares with its next record, or when it is stopped."""
        try:
            state = json.loads((self.spool / STATE_FILE).read_text())
        except (OSError, ValueError):
            return 0
        if state["session"] not in self.sessions:
            return 0
        # The station counts all sessions that it has.
        in_files = sum(kept.end for kept in self.sessions.values() if kept.held or kept.uuid == state["session"])
        return max(0, int(state["captured_samples"]) - in_files)

    @property
    def n_captured(self) -> int:
        """Return the samples of all sessions."""
        return sum(kept.end for kept in self.sessions.values())

    def check(self, n_given: int) -> None:
        """Compare station and store; ``n_given`` samples were given to the station so far, and it may be behind."""
        self.n_checks += 1
        # What the station believes first, then the store, then the spool: each only grows.
        believed, stored = self._believed(), self._stored()
        self.read()
        if stored is None:
            return
        self._take_deleted(stored)
        for uuid, sample in believed.items():
            if sample > stored.committed.get(uuid, 0):
                self._wrong(f"{uuid}: acknowledged to {sample}, stored to {stored.committed.get(uuid, 0)}")
        lost_s = 0.0
        for uuid, sample in stored.committed.items():
            kept = self.sessions.get(uuid)
            if kept is None:
                if sample:
                    self._wrong(f"{uuid}: stored to {sample}, never captured")
                continue
            if sample > kept.end:
                self._wrong(f"{uuid}: stored to {sample}, captured to {kept.end}")
            lost_s += kept.lost_before(sample) / kept.rate_hz
        committed_s = sum(sample / self.sessions[uuid].rate_hz for uuid, sample in stored.committed.items() if sample)
        if abs(committed_s - lost_s - stored.recorded_s) > _SLACK_S:
            self._wrong(
                f"committed {committed_s:.3f} s, of which {lost_s:.3f} s lost; effort is {stored.recorded_s:.3f} s"
            )
        self._check_spooled()
        if self.n_captured > n_given:
            self._wrong(f"captured {self.n_captured} samples of {n_given}")
        self._check_songs(stored.songs)

    def read(self) -> None:
        """Take in what the spool has now."""
        for kept in self.sessions.values():
            kept.held = []
        for path in sorted(self.spool.glob("*.spool")):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            self._take(content)

    def unfinished(self) -> list[str]:
        """Return the sessions that the store does not have as a whole, with how far it is."""
        stored = self._stored()
        if stored is None:
            return ["no store"]
        return [
            f"{uuid}: {stored.committed.get(uuid, 0)} of {kept.end}, finished {stored.finished.get(uuid)}"
            for uuid, kept in self.sessions.items()
            if kept.end and not (stored.finished.get(uuid) and stored.committed[uuid] == kept.end)
        ]

    def committed(self, uuid: str) -> int:
        """Return how far the store is with a session."""
        stored = self._stored()
        return stored.committed.get(uuid, 0) if stored else 0

    def _wrong(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _take(self, content: bytes) -> None:
        found = list(scan(content))
        if len(content) < _OPENING_BYTES and not (found and found[0].intact):
            return  # being begun
        if not found or found[0].record.kind is not Kind.SESSION or not found[0].intact:
            self._wrong("a file of the spool does not begin with its session")
            return
        first = found[0]
        facts = json.loads(content[HEADER_BYTES : HEADER_BYTES + first.n_data])
        uuid = str(first.record.session)
        kept = self.sessions.setdefault(uuid, Kept(uuid, facts["start"], facts["sample_rate_hz"]))
        number, sample = first.record.number, first.record.start_sample
        for one in found[1:]:
            record = one.record
            if record.start_sample < sample or record.number < number:
                continue
            if not one.intact and one.end >= len(content):
                break  # being written
            if record.start_sample > sample:
                kept.losses[Place(sample, record.start_sample)] = "SPOOL_CORRUPT"
            number, sample = record.last_number + 1, record.start_sample + record.n_samples
            if record.kind is Kind.LOSS:
                kept.losses[Place(record.start_sample, sample)] = record.reason or ""
            elif not one.intact:
                kept.losses[Place(record.start_sample, sample)] = "SPOOL_CORRUPT"
        kept.end = max(kept.end, sample)
        kept.held.append(Place(first.record.start_sample, sample))

    def _believed(self) -> dict[str, int]:
        """Return how far the station believes the store to be with each session."""
        try:
            cursor: dict[str, Any] = json.loads((self.spool / "cursor").read_bytes())
        except FileNotFoundError:
            return {}
        for uuid, standing in cursor.items():
            if standing["name"]:
                self._wrong(f"{uuid}: its rest was sent as {standing['name']}")
        return {str(UUID(uuid)): standing["committed_sample"] for uuid, standing in cursor.items()}

    def _stored(self) -> _Stored | None:
        """Return what the store has at one moment, also of a server that was killed; None before there is one."""
        path = self.data_dir / DATABASE_NAME
        try:
            database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        except sqlite3.OperationalError:
            return None
        try:
            database.execute("BEGIN")
            rows = database.execute("SELECT uuid, committed_sample, finished FROM sessions").fetchall()
            effort = database.execute("SELECT total(recorded_s) FROM buckets WHERE width_ms = 0").fetchone()[0]
            songs = database.execute('SELECT session, onset, "offset", sample_rate_hz FROM songs').fetchall()
        except sqlite3.OperationalError:  # its tables are being made
            return None
        finally:
            database.close()
        return _Stored({row[0]: row[1] for row in rows}, {row[0]: bool(row[2]) for row in rows}, effort, songs)

    def _take_deleted(self, stored: _Stored) -> None:
        """Take in what was captured, committed and deleted since the spool was last read."""
        for uuid, sample in stored.committed.items():
            if uuid in self.sessions and not self.sessions[uuid].held:
                self.sessions[uuid].end = max(self.sessions[uuid].end, sample)

    def _check_spooled(self) -> None:
        """Find captured sound that is neither committed nor in the spool, which was read before this looks at the store."""
        stored = self._stored()
        for uuid, kept in self.sessions.items():
            committed = stored.committed.get(uuid, 0) if stored else 0
            if kept.gone_before() > committed:
                self._wrong(
                    f"{uuid}: captured to {kept.end}, committed to {committed}, and the spool has nothing of what lies before "
                    f"{kept.gone_before()}"
                )

    def _check_songs(self, songs: list[tuple[str, int, int, int]]) -> None:
        before = ("", 0)
        for session, onset, offset, _ in sorted(songs):
            if session == before[0] and onset < before[1]:
                self._wrong(f"{session}: a song at {onset} begins before the one before has ended")
            before = session, offset
