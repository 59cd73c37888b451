"""Reads the store: one song, pages of songs, what came after, how far a session is, and how often each type is sung."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, exists, func, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from songcore.decisions import Decision, Split, View
from songserve.bundles.history import BundleEvent
from songserve.decision_log import DecisionLog
from songserve.frequencies import (
    Frequency,
    FrequencyFilter,
    FrequencyPosition,
    bucket_query,
    combined,
    stations_query,
)
from songserve.records import Retyping, SessionName, SessionRecord, StoredClip, StoredSong
from songserve.schema import (
    EVER,
    SONG_COLUMNS,
    buckets,
    bundle_events,
    clips,
    gaps,
    identity,
    retypings,
    sessions,
    songs,
)
from songserve.store import store_refusal
from songserve.tally import Tally
from songserve.verdicts import is_novel, is_of_type, is_sound
from songserve.writing import read_session

__all__ = ["Position", "SongFilter", "SongQueries"]

_SONG_KEYS = tuple(column.name for column in SONG_COLUMNS)
_LAST_SEQ = select(func.coalesce(func.max(songs.c.seq), 0))
_CLIP_BYTES = clips.c.n_bytes + clips.c.feature_bytes

_IN_POOL = (
    songs.c.novelty.in_(("uncertain", "novel")),
    songs.c.quality == "good",
    songs.c.placed_in.is_(None),
)
"""Songs that new types may come from: the index `songs_pool`."""

Position = tuple[int, str]
"""Start time in milliseconds and uid of a song: where a page ends."""


@dataclass(frozen=True)
class SongFilter:
    """Which songs, by people's decisions; None matches everything. Times are UTC milliseconds, half-open."""

    start_ms: int | None = None
    end_ms: int | None = None
    station: str | None = None
    session: str | None = None
    type_id: str | None = None
    only_novel: bool = False
    only_pool: bool = False
    include_noise: bool = False
    only_with_clip: bool = False


class SongQueries:
    """Questions to the store; every method raises Refusal STORE_UNAVAILABLE or STORE_CORRUPT when it cannot be read."""

    def __init__(self, readers: Engine) -> None:
        self._readers = readers
        self._log = DecisionLog()

    @property
    def view(self) -> View:
        """How things stood after people's decisions when the store was last asked for anything about songs."""
        return self._log.view

    def decisions(self) -> tuple[Decision, ...]:
        """Return everything that people decided, in order."""
        with self._reading() as connection:
            self._log.read(connection)
        return self._log.decisions

    def session(self, uuid: str) -> tuple[SessionRecord, int] | None:
        """Return a session and how many songs of it are stored, or None."""
        with self._reading() as connection:
            record = read_session(connection, uuid)
            count = select(func.count()).select_from(songs).where(songs.c.session == uuid)
            return None if record is None else (record, connection.execute(count).scalar_one())

    def knows_session(self, name: SessionName) -> bool:
        """Return whether anything was ever stored of a session."""
        with self._reading() as connection:
            found = connection.execute(select(sessions.c.uuid).where(sessions.c.uuid == str(name.uuid)))
            return found.first() is not None

    def song(self, uid: str) -> StoredSong | None:
        """Return one song, or None."""
        with self._reading() as connection:
            self._log.read(connection)
            row = connection.execute(select(*SONG_COLUMNS).where(songs.c.uid == uid)).mappings().one_or_none()
        return StoredSong(**row) if row else None

    def page(
        self, wanted: SongFilter, after: Position | None, size: int, newest_first: bool = False
    ) -> tuple[list[StoredSong], Position | None]:
        """Return up to ``size`` songs in order of start time, and where the next page begins after, None at the end."""
        place = tuple_(songs.c.start_ms, songs.c.uid)
        order = (songs.c.start_ms.desc(), songs.c.uid.desc()) if newest_first else (songs.c.start_ms, songs.c.uid)
        with self._reading() as connection:
            conditions = _song_conditions(wanted, self._log.read(connection))
            if after is not None:
                conditions.append(place < after if newest_first else place > after)
            ordered = select(*SONG_COLUMNS).where(*conditions).order_by(*order).limit(size + 1)
            found = [StoredSong(**row) for row in connection.execute(ordered).mappings()]
        page = found[:size]
        return page, (page[-1].start_ms, page[-1].uid) if len(found) > size else None

    def after(self, wanted: SongFilter, seq: int, size: int) -> tuple[list[StoredSong], int]:
        """Return up to ``size`` songs stored after number ``seq``, in the order of commits, and where to go on."""
        with self._reading() as connection:
            # First the end, then what lies before it: a song committed in between is found the next time.
            last = connection.execute(_LAST_SEQ).scalar_one()
            between = (songs.c.seq > seq) & (songs.c.seq <= last)
            conditions = _song_conditions(wanted, self._log.read(connection))
            ordered = select(*SONG_COLUMNS, songs.c.seq).where(between, *conditions)
            rows = connection.execute(ordered.order_by(songs.c.seq).limit(size)).mappings().all()
        found = [StoredSong(**{key: row[key] for key in _SONG_KEYS}) for row in rows]
        return found, rows[-1]["seq"] if len(rows) == size else max(seq, last)

    def position(self) -> tuple[str, int]:
        """Return the store's identity and the number of the last song."""
        with self._reading() as connection:
            return (
                connection.execute(select(identity.c.uuid)).scalar_one(),
                connection.execute(_LAST_SEQ).scalar_one(),
            )

    def clip(self, uid: str) -> StoredClip | None:
        """Return what is known of a song's clip, or None."""
        rows = self._all(select(clips).where(clips.c.song == uid))
        return StoredClip(**rows[0]) if rows else None

    def oldest_clips(self, shelf: str, *, before_ms: int | None, size: int) -> list[StoredClip]:
        """Return up to ``size`` clips that may be deleted, of songs before a time, the oldest first."""
        conditions = [clips.c.shelf == shelf, clips.c.kept.is_(False)]
        if before_ms is not None:
            conditions.append(clips.c.song_start_ms < before_ms)
        ordered = select(clips).where(*conditions).order_by(clips.c.song_start_ms, clips.c.song).limit(size)
        return [StoredClip(**row) for row in self._all(ordered)]

    def clip_totals(self, shelf: str) -> tuple[int, int]:
        """Return how many clips a data directory holds, and their bytes."""
        totals = select(func.count().label("n"), func.coalesce(func.sum(_CLIP_BYTES), 0).label("n_bytes"))
        (row,) = self._all(totals.where(clips.c.shelf == shelf))
        return int(row["n"]), int(row["n_bytes"])

    def clip_shelves(self, uids: Sequence[str]) -> dict[str, str]:
        """Return the data directory of each song's clip, by uid, for those of the songs that have one."""
        rows = self._all(select(clips.c.song, clips.c.shelf).where(clips.c.song.in_(uids)))
        return {row["song"]: row["shelf"] for row in rows}

    def bundle_events(self, shelf: str, *, before_seq: int | None = None, size: int | None = None) -> list[BundleEvent]:
        """Return what was done with the bundles of a server, the newest first: ``size`` of them before a number, or all."""
        conditions = [bundle_events.c.shelf == shelf]
        if before_seq is not None:
            conditions.append(bundle_events.c.seq < before_seq)
        rows = self._all(select(bundle_events).where(*conditions).order_by(bundle_events.c.seq.desc()).limit(size))
        return [BundleEvent(**{**row, "detail": json.loads(row["detail"])}) for row in rows]

    def latest_server(self, *, but: str) -> str | None:
        """Return the server that did something with a bundle last, of all but one; None where there is no other."""
        others = select(bundle_events.c.shelf).where(bundle_events.c.shelf != but)
        rows = self._all(others.order_by(bundle_events.c.seq.desc()).limit(1))
        return str(rows[0]["shelf"]) if rows else None

    def retypings(self, bundle: str, *, after: str | None, size: int) -> list[Retyping]:
        """Return up to ``size`` results of a bundle, of songs whose uid comes after one."""
        conditions = [retypings.c.bundle == bundle]
        if after is not None:
            conditions.append(retypings.c.song > after)
        ordered = select(retypings).where(*conditions).order_by(retypings.c.song).limit(size)
        return [Retyping(**row) for row in self._all(ordered)]

    def totals(self) -> tuple[Tally, dict[str, float]]:
        """Return how many songs of each type are stored, by people's decisions, and the seconds recorded by each station."""
        with self._reading() as connection:
            view = self._log.read(connection)
            rows = connection.execute(select(buckets).where(buckets.c.width_ms == EVER)).mappings().all()
        tally = Tally()
        for row in rows:
            tally.merge(Tally.read(row["tally"]))
        return tally.decided(view), {row["station"]: row["recorded_s"] for row in rows}

    def types_in_order(self) -> list[str]:
        """Return the song types in the order in which they came, each in the place that it has for ever.

        A type comes with the first song that the model named so and found known, or with the split that people made it by.
        """
        named = select(songs.c.type_id, func.min(songs.c.seq).label("seq")).group_by(songs.c.type_id)
        with self._reading() as connection:
            self._log.read(connection)
            rows = connection.execute(named.where(songs.c.kind == "song", songs.c.is_novel.is_(False))).all()
        came = [(row.seq, 0, row.type_id) for row in rows]
        splits = [one.action for one in self._log.decisions if isinstance(one.action, Split)]
        came += [(split.last_song, number, split.new_id) for number, split in enumerate(splits, 1)]
        return [type_id for *_, type_id in sorted(came)]

    def stations_in_order(self) -> list[str]:
        """Return the stations by when their first sessions began."""
        began = func.min(sessions.c.capture_start_ms)
        rows = self._all(select(sessions.c.station).group_by(sessions.c.station).order_by(began, sessions.c.station))
        return [row["station"] for row in rows]

    def declared_gaps(self) -> dict[str, float]:
        """Return the seconds that stations declared lost, by reason."""
        lost = select(gaps.c.reason, func.sum(gaps.c.declared_s).label("declared_s")).group_by(gaps.c.reason)
        return {row["reason"]: row["declared_s"] for row in self._all(lost)}

    def pool(self) -> tuple[int, int | None]:
        """Return how many songs are in the pool, and when the oldest began, UTC milliseconds."""
        with self._reading() as connection:
            still_song = is_sound("song", self._log.read(connection))
            totals = select(func.count(), func.min(songs.c.start_ms)).select_from(songs).where(*_IN_POOL, still_song)
            n_songs, oldest_ms = connection.execute(totals).one()
        return int(n_songs), oldest_ms

    def frequencies(self, wanted: FrequencyFilter) -> list[Frequency]:
        """Return counts, by people's decisions, and recorded seconds by station and bucket, ordered by both."""
        with self.reading_frequencies(wanted) as found:
            return list(found)

    @contextmanager
    def reading_frequencies(
        self, wanted: FrequencyFilter, after: FrequencyPosition | None = None, size: int | None = None
    ) -> Iterator[Iterator[Frequency]]:
        """Give what `frequencies` returns, up to ``size`` of it behind a position, each put together when it is taken."""
        with self._reading() as connection:
            view = self._log.read(connection)
            stations = wanted.stations or connection.execute(stations_query()).scalars().all()
            rows = connection.execute(bucket_query(wanted, stations, after, size))
            yield islice(combined(wanted, rows, view), size)

    def _all(self, statement: Any) -> Sequence[Any]:
        with self._reading() as connection:
            return connection.execute(statement).mappings().all()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._readers.connect() as connection:
                yield connection
        except (DBAPIError, NoConnectionError) as error:  # the latter: others held every connection for too long
            raise store_refusal(error, doing="read") from error


def _song_conditions(wanted: SongFilter, view: View) -> list[ColumnElement[bool]]:
    conditions = _time_conditions(songs.c.start_ms, wanted.start_ms, wanted.end_ms)
    if wanted.station is not None:
        conditions.append(songs.c.station == wanted.station)
    if wanted.session is not None:
        conditions.append(songs.c.session == wanted.session)
    if wanted.type_id is not None:
        conditions.append(is_of_type(wanted.type_id, view))
    if wanted.only_novel:
        conditions.append(is_novel(view))
    if wanted.only_pool:
        conditions += _IN_POOL
    if not wanted.include_noise:
        conditions.append(is_sound("song", view))
    if wanted.only_with_clip:
        conditions.append(exists().where(clips.c.song == songs.c.uid))
    return conditions


def _time_conditions(column: ColumnElement[int], start_ms: int | None, end_ms: int | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if start_ms is not None:
        conditions.append(column >= start_ms)
    if end_ms is not None:
        conditions.append(column < end_ms)
    return conditions
