"""What is written in one transaction of the store: sessions move, songs are added once, and counted as they are added.

The transaction is the only one of its kind at that moment, in this server and any other on the same database.
"""

import json
from collections import ChainMap, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from sqlalchemy import Connection, CursorResult, bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from songcore.decisions import Decision, fold
from songserve.bundles.history import BundleEvent
from songserve.decision_log import DecisionLog
from songserve.decision_writing import Intent, decide
from songserve.placing import Placer
from songserve.records import (
    AudioFormat,
    ClockState,
    Commit,
    Retyping,
    SessionName,
    SessionOpening,
    SessionRecord,
    StoredSong,
)
from songserve.refusal import Refusal
from songserve.schema import WIDTHS_MS, buckets, bundle_events, clips, embeddings, gaps, retypings, sessions, songs
from songserve.tally import Tally

__all__ = ["OlderWriterError", "Statements", "Transaction", "bucket_start", "read_session"]

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

_BUCKET_KEY = buckets.primary_key.columns
KEYS_AT_ONCE = 200
"""Far below the number of parameters that SQLite takes."""

# Built once: building a statement costs more than running it.
_MINE = (sessions.c.uuid == bindparam("key")) & (sessions.c.writer_epoch == bindparam("epoch"))
_MOVE_SESSION = (
    update(sessions).where(_MINE).values({key: bindparam(key) for key in _PROGRESS if key != "writer_epoch"})
)
_LAST_SEQ = select(func.coalesce(func.max(songs.c.seq), 0))
_KEEP_CLIP = update(clips).where(clips.c.song == bindparam("key")).values(kept=bindparam("keep"))


@dataclass(frozen=True)
class Statements:
    """The statements that the two databases spell differently."""

    add_session: Any
    add_songs: Any
    add_clips: Any
    add_embeddings: Any
    add_retypings: Any
    put_buckets: Any
    add_gaps: Any

    @classmethod
    def of(cls, dialect: str) -> "Statements":
        """Return the statements for ``sqlite`` or ``postgresql``."""
        upsert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
        new, more = upsert(buckets), upsert(gaps)
        return cls(
            add_session=upsert(sessions),
            add_songs=upsert(songs).on_conflict_do_nothing(index_elements=["uid"]).returning(songs.c.uid),
            add_clips=upsert(clips).on_conflict_do_nothing(index_elements=["song"]),
            add_embeddings=upsert(embeddings).on_conflict_do_nothing(index_elements=["song"]),
            add_retypings=upsert(retypings)
            .on_conflict_do_nothing(index_elements=["song", "bundle"])
            .returning(retypings.c.song),
            put_buckets=new.on_conflict_do_update(
                index_elements=list(_BUCKET_KEY.keys()),
                set_={"recorded_s": new.excluded.recorded_s, "tally": new.excluded.tally},
            ),
            add_gaps=more.on_conflict_do_update(
                index_elements=["station", "reason"],
                set_={"declared_s": gaps.c.declared_s + more.excluded.declared_s},
            ),
        )


@dataclass
class _Bucket:
    """What a transaction adds to one row of `buckets`."""

    recorded_s: float = 0.0
    tally: Tally = field(default_factory=Tally)


class OlderWriterError(Exception):
    """Names the sessions of commits, of which at least one is of an older writer; nothing of the transaction is stored."""


class Transaction:
    """Runs the jobs of one transaction; `finish` writes what they have in common.

    A refused job has written nothing, so the others are not touched by it.
    """

    def __init__(self, connection: Connection, statements: Statements, log: DecisionLog, placer: Placer) -> None:
        self._connection, self._statements, self._log, self._placer = connection, statements, log, placer
        self._knows_decisions = False
        self._seq: int | None = None
        self._commits: list[tuple[Commit, list[StoredSong]]] = []
        self._buckets: defaultdict[tuple[int, str, int], _Bucket] = defaultdict(_Bucket)
        self.n_new_songs = 0
        self.new_decisions: list[Decision] = []

    def open_session(self, opening: SessionOpening) -> SessionRecord:
        """Create the session or take it over with a new epoch; raises Refusal FORMAT_CHANGED, or as `finish` does."""
        self._write_commits()
        uuid = str(opening.name.uuid)
        record = read_session(self._connection, uuid)
        if record is None:
            record = SessionRecord(opening, writer_epoch=1)
            start = {
                "uuid": uuid,
                "station": opening.name.station,
                "capture_start_ms": opening.capture_start_ms,
                "clock_source": opening.clock.source,
                "clock_error_s": opening.clock.error_s,
            }
            row = {**start, **asdict(opening.audio_format), **_progress(record)}
            self._connection.execute(self._statements.add_session, row)
            return record
        if record.opening.name != opening.name:  # how it began is nothing that another station is told
            raise Refusal(
                f"session {opening.name} began as that of another station; begin a new one", reason="FORMAT_CHANGED"
            )
        if record.opening != opening:
            raise Refusal(
                f"session {opening.name} began as {record.opening}; a session keeps its format and start time, "
                "begin a new one",
                reason="FORMAT_CHANGED",
            )
        epoch = record.writer_epoch + 1
        self._connection.execute(update(sessions).where(sessions.c.uuid == uuid).values(writer_epoch=epoch))
        last_end = self._connection.execute(select(func.max(songs.c.end_ms)).where(songs.c.session == uuid)).scalar()
        songs_until_ms = 0 if last_end is None else last_end - opening.capture_start_ms
        return replace(record, writer_epoch=epoch, songs_until_ms=songs_until_ms)

    def commit(self, commit: Commit) -> Sequence[StoredSong]:
        """Move the session and add what is new: the songs that are, which stand in the answer after `finish`."""
        new: list[StoredSong] = []
        self._commits.append((commit, new))
        return new

    def forget_clips(self, uids: Sequence[str]) -> set[str]:
        """Delete the rows of clips, except kept ones; return the songs of those deleted."""
        forget = delete(clips).where(clips.c.song.in_(uids), clips.c.kept.is_(False)).returning(clips.c.song)
        return set(self._connection.execute(forget).scalars())

    def keep_clip(self, uid: str, keep: bool) -> bool:
        """Set whether a clip is kept from deletion; False when the song has none."""
        return _n_rows(self._connection.execute(_KEEP_CLIP, {"key": uid, "keep": keep})) > 0

    def decide(self, intent: Intent) -> Decision | None:
        """Write what somebody wants to be decided, None when it is so already; raises as `decide` and `finish` do."""
        self._write_commits()
        decision = decide(self._connection, self._decisions(), intent, self._count)
        if decision is not None:
            self.new_decisions.append(decision)
        return decision

    def note_bundle_event(self, event: BundleEvent) -> BundleEvent:
        """Add what was done with a bundle; return it with its number."""
        row = {**asdict(event), "detail": json.dumps(event.detail)}
        del row["seq"]
        added = self._connection.execute(insert(bundle_events).returning(bundle_events.c.seq), row)
        return replace(event, seq=added.scalar_one())

    def add_retypings(self, found: Sequence[Retyping]) -> int:
        """Add results of another bundle; return how many songs had none of it."""
        if not found:
            return 0
        added = self._connection.execute(self._statements.add_retypings, [asdict(one) for one in found])
        return len(added.scalars().all())

    def finish(self) -> None:
        """Write the commits, and add songs and effort of all jobs to their buckets, each row once.

        Raises OlderWriterError when one of the commits is of a writer that another has taken the session from.
        """
        self._write_commits()
        keys = list(self._buckets)
        for first in range(0, len(keys), KEYS_AT_ONCE):
            wanted = tuple_(*_BUCKET_KEY).in_(keys[first : first + KEYS_AT_ONCE])
            for *key, recorded_s, tally in self._connection.execute(select(buckets).where(wanted)):
                bucket = self._buckets[tuple(key)]
                bucket.recorded_s += recorded_s
                bucket.tally.merge(Tally.read(tally))
        if keys:
            rows = [
                {
                    "width_ms": width_ms,
                    "station": station,
                    "start_ms": start_ms,
                    "recorded_s": bucket.recorded_s,
                    "tally": bucket.tally.write(),
                }
                for (width_ms, station, start_ms), bucket in self._buckets.items()
            ]
            self._connection.execute(self._statements.put_buckets, rows)

    def _buckets_of(self, station: str, time_ms: int) -> list[_Bucket]:
        return [self._buckets[width_ms, station, bucket_start(time_ms, width_ms)] for width_ms in WIDTHS_MS]

    def _count(self, song: StoredSong, n: int = 1) -> None:
        for bucket in self._buckets_of(song.station, song.start_ms):
            bucket.tally.count(song, n)

    def _decisions(self) -> tuple[Decision, ...]:
        """Return all decisions, those of this transaction included."""
        if not self._knows_decisions:
            # Before any is written here: what is not committed yet must not be remembered as if it were.
            self._log.read(self._connection)
            self._knows_decisions = True
        return (*self._log.decisions, *self.new_decisions)

    def _placed(self, wanted: Sequence[StoredSong], vectors: Mapping[str, bytes]) -> dict[str, StoredSong]:
        """Return the songs by uid, those of types that people split where they belong."""
        decisions = self._decisions()
        if self.new_decisions:
            # With a memory of its own, as this transaction may fail.
            found = Placer().place(self._connection, wanted, vectors, fold(decisions), decisions)
        else:
            found = self._placer.place(self._connection, wanted, vectors, self._log.view, decisions)
        return {song.uid: song for song in found}

    def _write_commits(self) -> None:
        """Write the commits noted so far, each kind of row at once: a statement for each costs more than its row."""
        commits, self._commits = self._commits, []
        if not commits:
            return
        moves = [
            {
                **_progress(commit.record),
                "key": str(commit.record.opening.name.uuid),
                "epoch": commit.record.writer_epoch,
            }
            for commit, _ in commits
        ]
        if _n_rows(self._connection.execute(_MOVE_SESSION, moves)) < len(moves):
            raise OlderWriterError(", ".join(str(commit.record.opening.name) for commit, _ in commits))
        self._add_songs(commits)
        vectors = [
            {"song": song.uid, "bundle": song.bundle, "vector": commit.embeddings[song.uid]}
            for commit, new in commits
            for song in new
            if song.uid in commit.embeddings
        ]
        if vectors:
            self._connection.execute(self._statements.add_embeddings, vectors)
        clip_rows = [asdict(clip) for commit, _ in commits for clip in commit.clips]
        if clip_rows:
            self._connection.execute(self._statements.add_clips, clip_rows)
        lost: defaultdict[tuple[str, str], float] = defaultdict(float)
        for commit, _ in commits:
            for reason, declared_s in commit.gap_s.items():
                lost[commit.record.opening.name.station, reason] += declared_s
            for hour_ms, recorded_s in commit.recorded_s.items():
                for bucket in self._buckets_of(commit.record.opening.name.station, hour_ms):
                    bucket.recorded_s += recorded_s
        gap_rows = [{"station": station, "reason": reason, "declared_s": s} for (station, reason), s in lost.items()]
        if gap_rows:
            self._connection.execute(self._statements.add_gaps, gap_rows)

    def _add_songs(self, commits: Sequence[tuple[Commit, list[StoredSong]]]) -> None:
        found = [song for commit, _ in commits for song in commit.songs]
        if not found:
            return
        wanted = self._placed(found, ChainMap(*(dict(commit.embeddings) for commit, _ in commits)))
        if self._seq is None:
            self._seq = self._connection.execute(_LAST_SEQ).scalar_one()
        # A number that a song does not take, as it was there before, stays unused.
        rows = [{**wanted[song.uid].row(), "seq": self._seq + index} for index, song in enumerate(found, 1)]
        self._seq += len(found)
        added = set(self._connection.execute(self._statements.add_songs, rows).scalars())
        for commit, new in commits:
            for song in commit.songs:
                if song.uid in added:
                    added.remove(song.uid)
                    new.append(wanted[song.uid])
                    self._count(wanted[song.uid])
            self.n_new_songs += len(new)


def bucket_start(time_ms: int, width_ms: int) -> int:
    """Return where the bucket begins that a time falls in; 0 for the one that holds everything."""
    return time_ms // width_ms * width_ms if width_ms else 0


def read_session(connection: Connection, uuid: str) -> SessionRecord | None:
    """Return a session as it stands, or None."""
    row = connection.execute(select(sessions).where(sessions.c.uuid == uuid)).mappings().one_or_none()
    if row is None:
        return None
    audio_format = AudioFormat(row["encoding"], row["sample_rate_hz"], row["n_channels"], row["channel"])
    clock = ClockState(row["clock_source"] or "unspecified", row["clock_error_s"])
    opening = SessionOpening(SessionName.of(row["station"], uuid), audio_format, row["capture_start_ms"], clock)
    return SessionRecord(opening=opening, **{key: row[key] for key in _PROGRESS})


def _progress(record: SessionRecord) -> dict[str, Any]:
    return {key: getattr(record, key) for key in _PROGRESS}


def _n_rows(result: Any) -> int:
    return cast("CursorResult[Any]", result).rowcount
