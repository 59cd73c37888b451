"""The store: one transaction per step, nothing twice, and a clear answer when the disk says no."""

import asyncio
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest

from songcore.errors import ConfigError
from songserve.database import DATABASE_NAME, DataDirectory
from songserve.queries import FrequencyFilter, SongFilter, SongQueries
from songserve.records import AudioFormat, Commit, SessionName, SessionOpening, SessionRecord, StoredSong
from songserve.refusal import Refusal
from songserve.store import Store

HOUR_MS = 3_600_000
START_MS = 490_000 * HOUR_MS


class Opened:
    """A data directory with its store and queries."""

    def __init__(self, path: Path, *, min_free_bytes: int = 0) -> None:
        self.directory = DataDirectory(path)
        self.n_transactions = 0
        self.store = Store(
            self.directory, group_window_s=0.01, min_free_bytes=min_free_bytes, observe=lambda *_: self._count()
        )
        self.queries = SongQueries(self.directory.readers)

    def _count(self) -> None:
        self.n_transactions += 1

    def close(self) -> None:
        """Close all."""
        self.store.close()
        self.directory.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Return an open store."""
    opened = Opened(tmp_path / "data")
    yield opened
    opened.close()


def opening(number: int = 1, station: str = "north") -> SessionOpening:
    """Return the opening of a session."""
    return SessionOpening(SessionName(station, UUID(int=number)), AudioFormat("linear16", 48_000, 1, None), START_MS)


def song(record: SessionRecord, start_s: float, type_id: str = "T0001", **fields: Any) -> StoredSong:
    """Return a song of a session."""
    name = record.opening.name
    start_ms = START_MS + round(start_s * 1000)
    values: dict[str, Any] = {
        "uid": str(uuid5(name.uuid, str(start_s))),
        "station": name.station,
        "session": str(name.uuid),
        "start_ms": start_ms,
        "end_ms": start_ms + 1000,
        "onset": round(start_s * 24_000),
        "offset": round(start_s * 24_000) + 24_000,
        "sample_rate_hz": 24_000,
        "type_id": type_id,
        "kind": "song",
        "similarity": 0.5,
        "novelty_score": 0.1,
        "p_value": 0.4,
        "is_novel": False,
        "forced_cut": False,
        "snr_db": 12.0,
        "bundle": "digest",
    }
    return StoredSong(**{**values, **fields})


def commit(record: SessionRecord, number: int, *songs: StoredSong, **fields: Any) -> Commit:
    """Return a commit up to chunk ``number``, of a second each."""
    moved = replace(
        record, committed_sequence_number=number, committed_sample=number * 48_000, state=b"state", **fields
    )
    return Commit(moved, songs, {START_MS: 1.0})


def reason(future: "Future[Any]") -> str:
    """Return the reason of a failed write."""
    with pytest.raises(Refusal) as refused:
        future.result(10)
    return refused.value.reason


def test_a_commit_is_there_after_reopening(tmp_path: Path) -> None:
    """Songs, watermark and state that were acknowledged are read back from the file."""
    first = Opened(tmp_path)
    record = first.store.open_session(opening()).result(10)
    new = first.store.commit(commit(record, 3, song(record, 1), song(record, 2))).result(10)
    assert len(new) == 2
    first.close()
    again = Opened(tmp_path)
    found = again.store.open_session(opening()).result(10)
    assert (found.writer_epoch, found.committed_sequence_number, found.state) == (2, 3, b"state")
    assert found.songs_until_ms == 3000
    page, following = again.queries.page(SongFilter(), None, 10)
    assert (page, following) == (list(new), None)
    again.close()


def test_a_song_is_stored_once_and_as_it_was_first(opened: Opened) -> None:
    """A replay inserts nothing, not even with another type, and says so."""
    record = opened.store.open_session(opening()).result(10)
    first = opened.store.commit(commit(record, 1, song(record, 1))).result(10)
    again = opened.store.commit(commit(record, 2, song(record, 1, "T0002"), song(record, 5))).result(10)
    assert [row.type_id for row in first] == ["T0001"]
    assert [row.start_ms for row in again] == [START_MS + 5000]
    assert opened.queries.type_counts() == {("T0001", "song", False): 2}


def test_an_older_writer_is_fenced_and_leaves_nothing(opened: Opened) -> None:
    """A commit of an older epoch fails whole, and others of its transaction do not."""
    older = opened.store.open_session(opening()).result(10)
    other = opened.store.open_session(opening(2, "south")).result(10)
    newer = opened.store.open_session(opening()).result(10)
    fenced = opened.store.commit(commit(older, 9, song(older, 1)))
    fine = opened.store.commit(commit(other, 1, song(other, 2)))
    assert reason(fenced) == "WRITER_FENCED"
    assert len(fine.result(10)) == 1
    assert opened.queries.type_counts() == {("T0001", "song", False): 1}
    found = opened.queries.session(str(newer.opening.name.uuid))
    assert found is not None
    assert found[0].committed_sequence_number == 0
    assert opened.queries.recorded_s() == {"south": 1.0}


def test_commits_of_many_streams_share_transactions(opened: Opened) -> None:
    """Two hundred commits at once need far fewer flushes."""
    records = [opened.store.open_session(opening(number)) for number in range(200)]
    commits = [opened.store.commit(commit(record.result(10), 1)) for record in records]
    for future in commits:
        future.result(10)
    assert opened.n_transactions < 100


def test_a_caller_that_leaves_stops_neither_its_commit_nor_the_store(opened: Opened) -> None:
    """Cancelling who waits for a write, as gRPC does when a client disconnects, leaves the writing thread at work."""

    async def leave() -> None:
        waiting = asyncio.ensure_future(asyncio.wrap_future(opened.store.open_session(opening(1))))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(leave())
    assert opened.store.open_session(opening(1)).result(10).writer_epoch == 2


def test_a_full_disk_acknowledges_nothing_and_recovers(opened: Opened) -> None:
    """When the database cannot grow the commit fails with DISK_LOW, is not there, and later commits work again."""
    record = opened.store.open_session(opening()).result(10)
    opened.store.commit(commit(record, 1, song(record, 1))).result(10)
    raw: Any = opened.store._connection.connection.dbapi_connection
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    raw.execute(f"PRAGMA max_page_count = {pages}")
    full = replace(commit(record, 2), record=replace(record, committed_sequence_number=2, state=bytes(200_000)))
    assert reason(opened.store.commit(full)) == "DISK_LOW"
    found = opened.queries.session(str(record.opening.name.uuid))
    assert found is not None
    assert found[0].committed_sequence_number == 1
    raw.execute("PRAGMA max_page_count = 1000000")
    opened.store.commit(full).result(10)


def test_a_reserve_of_disk_is_kept(tmp_path: Path) -> None:
    """Below the reserve nothing is written, not even a session."""
    opened = Opened(tmp_path, min_free_bytes=2**60)
    assert reason(opened.store.open_session(opening())) == "DISK_LOW"
    opened.close()


def test_a_locked_database_is_reported(opened: Opened) -> None:
    """While another program holds the file a commit fails with STORE_UNAVAILABLE, and later ones work."""
    record = opened.store.open_session(opening()).result(10)
    raw: Any = opened.store._connection.connection.dbapi_connection
    raw.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(opened.directory.path / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert reason(opened.store.commit(commit(record, 1))) == "STORE_UNAVAILABLE"
    other.execute("ROLLBACK")
    other.close()
    opened.store.commit(commit(record, 1)).result(10)


def test_a_data_directory_has_one_owner(opened: Opened) -> None:
    """A second server on the same directory is refused."""
    with pytest.raises(ConfigError) as refused:
        DataDirectory(opened.directory.path)
    assert refused.value.reason == "DATA_DIR_LOCKED"


def test_unusable_data_directories_are_explained(tmp_path: Path) -> None:
    """A file in the way, a database of a newer schema and one that is none each get their reason."""
    (tmp_path / "file").write_text("")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / DATABASE_NAME).write_text("not a database" * 1000)
    Opened(tmp_path / "newer").close()
    with sqlite3.connect(tmp_path / "newer" / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    found = {}
    for name in ("file", "text", "newer"):
        with pytest.raises(ConfigError) as refused:
            DataDirectory(tmp_path / name)
        found[name] = refused.value.reason
    assert found == {"file": "DATA_DIR_UNWRITABLE", "text": "DATABASE_INVALID", "newer": "SCHEMA_NEWER"}


def test_pages_hold_every_song_once(opened: Opened) -> None:
    """Paging by any size gives all songs in order of time, equal times included."""
    record = opened.store.open_session(opening()).result(10)
    songs = [song(record, second // 2, uid=str(UUID(int=second))) for second in range(20)]
    opened.store.commit(commit(record, 1, *songs)).result(10)
    for size in (1, 3, 19, 20, 21):
        found: list[StoredSong] = []
        after = None
        while True:
            page, after = opened.queries.page(SongFilter(), after, size)
            found += page
            if after is None:
                break
        assert found == songs


def test_filters_select(opened: Opened) -> None:
    """Station, session, type, novelty, kind and time each leave out the rest."""
    north = opened.store.open_session(opening()).result(10)
    south = opened.store.open_session(opening(2, "south")).result(10)
    opened.store.commit(commit(north, 1, song(north, 1), song(north, 2, "T0002", is_novel=True))).result(10)
    opened.store.commit(commit(south, 1, song(south, 3, "T0002"), song(south, 4, "N0001", kind="noise"))).result(10)

    def starts(wanted: SongFilter) -> list[int]:
        return [(row.start_ms - START_MS) // 1000 for row in opened.queries.page(wanted, None, 10)[0]]

    assert starts(SongFilter()) == [1, 2, 3]
    assert starts(SongFilter(include_noise=True)) == [1, 2, 3, 4]
    assert starts(SongFilter(station="south")) == [3]
    assert starts(SongFilter(session=str(UUID(int=1)))) == [1, 2]
    assert starts(SongFilter(type_id="T0002")) == [3]
    assert starts(SongFilter(only_novel=True)) == [2]
    assert starts(SongFilter(start_ms=START_MS + 2000, end_ms=START_MS + 3000)) == [2]


def test_frequencies_stand_beside_effort(opened: Opened) -> None:
    """Counts by type fall into their buckets, and hours in which nothing was heard are there with their seconds."""
    record = opened.store.open_session(opening()).result(10)
    songs = [song(record, 10), song(record, 20), song(record, 30, "T0002"), song(record, 40, is_novel=True)]
    songs += [song(record, 3700), song(record, 3800, "N0001", kind="noise")]
    effort = {START_MS: 3600.0, START_MS + HOUR_MS: 3600.0, START_MS + 2 * HOUR_MS: 60.0}
    opened.store.commit(replace(commit(record, 1, *songs), recorded_s=effort)).result(10)
    hours = opened.queries.frequencies(FrequencyFilter(bucket_ms=HOUR_MS))
    assert [(found.start_ms, found.recorded_s) for found in hours] == sorted(effort.items())
    assert [found.counts for found in hours] == [{"T0001": 2, "T0002": 1}, {"T0001": 1}, {}]
    assert [(found.n_novel, found.n_noise) for found in hours] == [(1, 0), (0, 1), (0, 0)]
    (whole,) = opened.queries.frequencies(FrequencyFilter())
    assert (whole.start_ms, whole.recorded_s, whole.counts) == (None, 7260.0, {"T0001": 3, "T0002": 1})
    later = FrequencyFilter(start_ms=START_MS + HOUR_MS, bucket_ms=2 * HOUR_MS, type_ids=["T0001"])
    assert [found.recorded_s for found in opened.queries.frequencies(later)] == [3660.0]
    assert opened.queries.frequencies(FrequencyFilter(stations=["south"])) == []
