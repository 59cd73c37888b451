"""The store: one transaction per step, nothing twice, and a clear answer when the disk says no."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import select

from songcore.errors import ConfigError
from songserve.database import DataDirectory
from songserve.frequencies import Frequency, FrequencyFilter
from songserve.queries import SongFilter
from songserve.records import StoredSong
from songserve.schema import embeddings
from songserve.times import DAY_MS
from stores import HOUR_MS, START_MS, Opened, commit, opening, reason, song

MIDNIGHT_MS = START_MS // DAY_MS * DAY_MS


def test_a_song_is_stored_with_its_embedding(opened: Opened) -> None:
    """What the encoder made of a song is in the same transaction as the song, once, under the bundle that made it."""
    record = opened.store.open_session(opening()).result(10)
    one, vector = song(record, 1, bundle="a" * 64), np.arange(3, dtype="<f4").tobytes()
    for number, again in ((1, one), (2, replace(one, bundle="b" * 64))):
        step = replace(commit(record, number, again), embeddings={one.uid: vector})
        opened.store.commit(step).result(10)
    with opened.directory.readers.connect() as connection:
        rows = connection.execute(select(embeddings)).all()
    assert [tuple(row) for row in rows] == [(one.uid, "a" * 64, vector)]


def test_the_pool_is_what_new_types_may_come_from(opened: Opened) -> None:
    """Novel and uncertain songs of good quality are in the pool, in lists and in numbers; all others are not."""
    record = opened.store.open_session(opening()).result(10)
    states = [(n, q) for n in ("known", "uncertain", "novel") for q in ("good", "faint", "ungraded")]
    songs = [song(record, at, novelty=n, quality=q) for at, (n, q) in enumerate(states, 1)]
    opened.store.commit(commit(record, 1, *songs)).result(10)
    page, _ = opened.queries.page(SongFilter(only_pool=True), None, 100)
    assert page == [songs[3], songs[6]]
    assert opened.queries.pool() == (2, songs[3].start_ms)


def test_a_commit_is_there_after_reopening(tmp_path: Path, database_url: str | None) -> None:
    """Songs, watermark and state that were acknowledged are read back."""
    first = Opened(tmp_path, database_url=database_url)
    record = first.store.open_session(opening()).result(10)
    new = first.store.commit(commit(record, 3, song(record, 1), song(record, 2))).result(10)
    assert len(new) == 2
    first.close()
    again = Opened(tmp_path, database_url=database_url)
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
    assert opened.queries.totals()[0].songs == {"T0001": 2}


def test_an_older_writer_is_fenced_and_leaves_nothing(opened: Opened) -> None:
    """A commit of an older epoch fails whole, and others of its transaction do not."""
    older = opened.store.open_session(opening()).result(10)
    other = opened.store.open_session(opening(2, "south")).result(10)
    newer = opened.store.open_session(opening()).result(10)
    fenced = opened.store.commit(commit(older, 9, song(older, 1)))
    fine = opened.store.commit(commit(other, 1, song(other, 2)))
    assert reason(fenced) == "WRITER_FENCED"
    assert len(fine.result(10)) == 1
    assert opened.queries.totals()[0].songs == {"T0001": 1}
    found = opened.queries.session(str(newer.opening.name.uuid))
    assert found is not None
    assert found[0].committed_sequence_number == 0
    assert opened.queries.totals()[1] == {"south": 1.0}


def test_an_older_writer_among_the_commits_before_an_opening_is_fenced(opened: Opened) -> None:
    """An opening in the same transaction neither takes the blame for an older writer nor answers it as if it were stored."""
    older = opened.store.open_session(opening()).result(10)
    opened.store.open_session(opening()).result(10)
    fenced = opened.store.commit(commit(older, 9, song(older, 1)))
    newest = opened.store.open_session(opening())
    assert reason(fenced) == "WRITER_FENCED"
    assert newest.result(10).writer_epoch == 3
    assert opened.queries.totals()[0].songs == {}


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


def test_declared_gaps_add_up(opened: Opened) -> None:
    """Over commits of one transaction and of several, by reason; an older writer's add nothing."""
    first, second = (opened.store.open_session(opening(number)).result(10) for number in (1, 2))
    steps = [replace(commit(record, 1), gap_s={"paused": 0.5, "device_lost": 2.0}) for record in (first, second)]
    for done in [opened.store.commit(step) for step in steps]:
        done.result(10)
    opened.store.commit(replace(commit(first, 2), gap_s={"paused": 0.25})).result(10)
    opened.store.open_session(opening(1)).result(10)
    assert reason(opened.store.commit(replace(commit(first, 3), gap_s={"paused": 8.0}))) == "WRITER_FENCED"
    assert opened.queries.declared_gaps() == {"paused": 1.25, "device_lost": 4.0}


def test_a_reserve_of_disk_is_kept(tmp_path: Path) -> None:
    """Below the reserve nothing is written, not even a session."""
    opened = Opened(tmp_path, min_free_bytes=2**60)
    assert reason(opened.store.open_session(opening())) == "DISK_LOW"
    opened.close()


def test_a_data_directory_has_one_owner(opened: Opened) -> None:
    """A second server on the same directory is refused, and told what a server could do instead."""
    with pytest.raises(ConfigError) as refused:
        DataDirectory(opened.directory.path, beside_server="choose another")
    path = opened.directory.path
    assert (refused.value.reason, str(refused.value)) == (
        "DATA_DIR_LOCKED",
        f"a server uses the data directory {path}; choose another",
    )
    with pytest.raises(ConfigError, match=r"; stop it first$"):
        DataDirectory(path)


def test_a_value_that_the_database_refuses_costs_only_its_own_commit(opened: Opened) -> None:
    """A number that no column takes fails alone, though the commits of other sessions share its transaction."""
    bad = opened.store.open_session(opening()).result(10)
    good = opened.store.open_session(opening(2, "south")).result(10)
    refused = opened.store.commit(commit(replace(bad, input_sample=2**70), 1, song(bad, 1)))
    stored = opened.store.commit(commit(good, 1, song(good, 2)))
    assert reason(refused) == "STORE_UNAVAILABLE"
    assert len(stored.result(10)) == 1
    assert opened.queries.totals()[1] == {"south": 1.0}


def test_a_page_token_holds_while_songs_come_in(opened: Opened) -> None:
    """Songs stored between two pages move nothing: each song that was there is on exactly one page."""
    record = opened.store.open_session(opening()).result(10)
    there = [song(record, second) for second in range(0, 20, 2)]
    opened.store.commit(commit(record, 1, *there)).result(10)
    found: list[StoredSong] = []
    after = None
    for number in range(2, 100):
        page, after = opened.queries.page(SongFilter(), after, 3)
        found += page
        if after is None:
            break
        opened.store.commit(commit(record, number, song(record, 1 + 2 * number), song(record, 0.5 * number))).result(10)
    assert [one for one in found if one in there] == there
    assert len({one.uid for one in found}) == len(found)


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
    opened.store.commit(commit(north, 1, song(north, 1), song(north, 2, "T0002", novelty="novel"))).result(10)
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
    songs = [song(record, 10), song(record, 20), song(record, 30, "T0002"), song(record, 40, novelty="novel")]
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


def test_frequencies_equal_a_plain_count(filled: tuple[Opened, list[StoredSong]]) -> None:
    """Whatever kept counts a question is answered from, it gives what counting the songs one by one gives."""
    opened, songs = filled
    for bounds in ((None, None), (24, 24 * 5), (7, 61), (30, None)):
        start, end = (None if hour is None else MIDNIGHT_MS + hour * HOUR_MS for hour in bounds)
        for bucket_ms in (None, HOUR_MS, 5 * HOUR_MS, DAY_MS, 3 * DAY_MS):
            wanted = FrequencyFilter(start_ms=start, end_ms=end, bucket_ms=bucket_ms)
            found = opened.queries.frequencies(wanted)
            counts = {(row.station, row.start_ms, kind): n for row in found for kind, n in row.counts.items()}
            assert counts == plain_counts(songs, start, end, bucket_ms)
            n_hours = sum(hour >= (bounds[0] or 0) and hour < (bounds[1] or 120) for hour in range(120))
            assert sum(row.recorded_s for row in found) == 2 * 10.0 * n_hours


def test_pages_of_frequencies_hold_every_bucket_once(opened: Opened) -> None:
    """Whatever a page's size, the pages together are the whole answer: no hour of effort is missing, none is there twice."""
    rng = np.random.default_rng(7)
    for number, station in enumerate(("a", "B", "a-b", "b0", "A1")):  # databases order them differently
        record = opened.store.open_session(opening(number, station)).result(10)
        hours = sorted(rng.choice(240, 60, replace=False))
        seconds = {MIDNIGHT_MS + int(hour) * HOUR_MS: float(hour + 1) for hour in hours}
        songs = [song(record, index, start_ms=start_ms) for index, start_ms in enumerate(seconds)]
        opened.store.commit(replace(commit(record, 1, *songs), recorded_s=seconds)).result(10)
    for start_ms in (None, MIDNIGHT_MS + 7 * HOUR_MS):
        for bucket_ms in (None, HOUR_MS, 5 * HOUR_MS, DAY_MS, 3 * DAY_MS):
            wanted = FrequencyFilter(start_ms=start_ms, bucket_ms=bucket_ms)
            whole = opened.queries.frequencies(wanted)
            assert len(whole) >= 5
            for size in (1, 4, len(whole)):
                assert list(in_pages(opened, wanted, size)) == whole


def in_pages(opened: Opened, wanted: FrequencyFilter, size: int) -> Iterator[Frequency]:
    """Give counts and effort page by page."""
    after = None
    for _ in range(1000):
        with opened.queries.reading_frequencies(wanted, after, size) as found:
            page = list(found)
        yield from page
        if len(page) < size:
            return
        after = page[-1].station, page[-1].start_ms


def plain_counts(
    songs: list[StoredSong], start: int | None, end: int | None, bucket_ms: int | None
) -> dict[tuple[str, int | None, str], int]:
    """Return the number of songs by station, bucket and type."""
    counts: Counter[tuple[str, int | None, str]] = Counter()
    for one in songs:
        if (start is None or one.start_ms >= start) and (end is None or one.start_ms < end) and not one.is_novel:
            bucket = None
            if bucket_ms is not None:
                bucket = (one.start_ms - (start or 0)) // bucket_ms * bucket_ms + (start or 0)
            counts[one.station, bucket, one.type_id] += 1
    return counts


@pytest.fixture
def filled(opened: Opened) -> tuple[Opened, list[StoredSong]]:
    """Return a store with five days of two stations, and its songs."""
    rng = np.random.default_rng(5)
    songs = []
    for number, station in enumerate(("north", "south")):
        record = opened.store.open_session(opening(number, station)).result(10)
        mine = [
            song(
                record,
                index,
                f"T{rng.integers(3):04d}",
                start_ms=MIDNIGHT_MS + int(at),
                novelty="known" if at % 7 else "novel",
            )
            for index, at in enumerate(rng.integers(0, 120 * HOUR_MS, 200))
        ]
        seconds = {MIDNIGHT_MS + hour * HOUR_MS: 10.0 for hour in range(120)}
        opened.store.commit(replace(commit(record, 1, *mine), recorded_s=seconds)).result(10)
        songs += mine
    return opened, songs
