"""Clips: the very samples that were sent, on the disk before their row, and never more of them than allowed."""

import asyncio
import os
import resource
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import UUID

import numpy as np
import pytest
import soundfile
from sqlalchemy import update

from bundles import soundscape
from fake_models import FakeModel
from serving import ServerThread, session_name, setup, stream_all
from songcore.arrays import FloatArray
from songcore.bundle import Bundle
from songcore.errors import InputError
from songcore.features import unpack_features
from songcore.stream import Song
from songserve.batching import Lane
from songserve.clips import ClipSound, ClipTape
from songserve.clips_retention import ClipRetention
from songserve.clips_shelf import ClipShelf, WantedClip, clip_path, features_path
from songserve.clips_writing import NewClip
from songserve.intake import Chunk, Gap, Work
from songserve.records import AudioFormat, Commit, StoredSong
from songserve.runtime import Runtime
from songserve.schema import clips
from songserve.session import Heard, Step
from songserve.store import Store
from songserve.times import DAY_MS
from stores import FEATURES, PCM, RATE, START_MS, Opened, Shelf, commit, opening, reason, song

SONG_RATE = 24_000
MODEL = FakeModel(sample_rate_hz=SONG_RATE)
MONO = AudioFormat("linear16", RATE, 1, None)
SOUND = ClipSound(700, PCM[: RATE // 2], RATE, FEATURES)


def chunk(first: int, last: int) -> Chunk:
    """Return samples first to last as a chunk."""
    return Chunk(1, first, last - first, PCM[first:last].tobytes(), 0)


def heard(items: Sequence[Chunk | Gap], songs: Sequence[tuple[int, int]] = (), needed: int = 0) -> Heard:
    """Return a step's result; songs at the bundle's rate, ``needed`` at the sender's."""
    found = tuple(Song(onset, offset, False, 20.0, np.empty((0, 64), np.float32)) for onset, offset in songs)
    return Heard(Step(Work(tuple(items)), due=False), found, (MODEL,) * len(found), MODEL, 0, None, needed)


def tape(audio_format: AudioFormat = MONO) -> ClipTape:
    """Return a tape with half a second before and a quarter after."""
    return ClipTape(audio_format, pre_roll_s=0.5, post_roll_s=0.25)


@pytest.mark.parametrize("size", [997, 24_000, 20 * RATE])
def test_a_clip_is_what_was_sent_around_the_song(size: int) -> None:
    """Whatever the chunks, the clip is the sender's samples from the pre-roll to the post-roll, bit for bit."""
    recorder = tape()
    borders = [*range(0, 10 * RATE, size), 10 * RATE]
    for first, last in pairwise(borders[:-1]):
        assert recorder.follow(heard([chunk(first, last)], needed=max(0, last - 5 * RATE))) == {}
    last_chunk = chunk(borders[-2], borders[-1])
    (sound,) = recorder.follow(heard([last_chunk], [(6 * SONG_RATE, 8 * SONG_RATE)])).values()
    assert (sound.start_sample, sound.sample_rate_hz) == (round(5.5 * RATE), RATE)
    np.testing.assert_array_equal(sound.samples, PCM[round(5.5 * RATE) : round(8.25 * RATE)])


def test_a_clip_ends_where_the_sound_ends() -> None:
    """At the begin of the stream and at its latest sample a clip is shorter."""
    (sound,) = tape().follow(heard([chunk(0, RATE)], [(100, SONG_RATE - 100)])).values()
    assert sound.start_sample == 0
    np.testing.assert_array_equal(sound.samples, PCM[:RATE])


def test_a_clip_does_not_reach_over_a_gap() -> None:
    """Songs on both sides of a gap have the sound of their own side."""
    gap = Gap(2, 2, 2 * RATE, RATE)
    items: list[Chunk | Gap] = [chunk(0, 2 * RATE), gap, chunk(3 * RATE, 5 * RATE)]
    songs = [(SONG_RATE, 2 * SONG_RATE), (3 * SONG_RATE + 10, 4 * SONG_RATE)]
    before, after = tape().follow(heard(items, songs)).values()
    np.testing.assert_array_equal(before.samples, PCM[RATE // 2 : 2 * RATE])
    assert after.start_sample == 3 * RATE
    np.testing.assert_array_equal(after.samples, PCM[3 * RATE : round(4.25 * RATE)])


def test_a_tape_holds_no_more_than_is_needed() -> None:
    """Of an hour in which a song may begin two seconds back, less than four seconds are in memory."""
    recorder = tape()
    for second in range(3600):
        data = bytes(2 * RATE)
        recorder.follow(heard([Chunk(1, second * RATE, RATE, data, 0)], needed=max(0, second - 1) * RATE))
        assert recorder.n_held <= 3.5 * RATE


def test_other_formats_become_16_bit_mono() -> None:
    """Float channels are mixed as the model hears them, and clipped where 16 bits end."""
    stereo = np.array([[0.5, -0.25], [1.5, 1.5], [0.0, 0.5]], "<f4").repeat(RATE, axis=0)
    recorder = tape(AudioFormat("float32", RATE, 2, None))
    item = Chunk(1, 0, len(stereo), stereo.tobytes(), 0)
    (sound,) = recorder.follow(heard([item], [(SONG_RATE // 2 + 6000, 2 * SONG_RATE)])).values()
    assert set(sound.samples) == {4096, 32767, 8192}


def test_without_recording_nothing_is_held() -> None:
    """Where no clips are wanted a tape costs nothing."""
    recorder = ClipTape(MONO, pre_roll_s=0.5, post_roll_s=0.5, recording=False)
    assert recorder.follow(heard([chunk(0, RATE)], [(0, SONG_RATE)])) == {}
    assert recorder.n_held == 0


@pytest.fixture
def shelf(opened: Opened) -> Shelf:
    """Return an empty shelf on each database."""
    return Shelf(opened)


def test_a_clip_is_a_flac_that_says_what_it_is(shelf: Shelf) -> None:
    """The file holds the samples bit for bit, at their rate, and the name of its song; the row describes it."""
    one = song(shelf.record, 5)
    (clip,) = shelf.store(one)
    with shelf.shelf.open(clip) as file:
        assert len(file.read()) == clip.n_bytes
    with soundfile.SoundFile(shelf.shelf.path(one.start_ms, one.uid)) as file:
        np.testing.assert_array_equal(file.read(dtype="int16"), PCM[: RATE // 2])
        assert (file.samplerate, file.title, file.subtype) == (RATE, f"songs/{one.uid}", "PCM_16")
    assert shelf.opened.queries.clip(one.uid) == clip
    assert (clip.start_sample, clip.n_samples) == (700, RATE // 2)


def test_what_the_encoder_saw_lies_beside_the_clip(shelf: Shelf) -> None:
    """Features come back as they went, to half precision; another file in their place is refused with a reason."""
    one = song(shelf.record, 5)
    (clip,) = shelf.store(one)
    file = features_path(shelf.shelf.path(one.start_ms, one.uid))
    assert file.stat().st_size == clip.feature_bytes
    np.testing.assert_allclose(unpack_features(file.read_bytes()), FEATURES, atol=0.003)
    for damaged in (b"", file.read_bytes()[:-30], b"PK" + bytes(100)):
        with pytest.raises(InputError) as refused:
            unpack_features(damaged)
        assert refused.value.reason == "FEATURES_DAMAGED"


class Disk:
    """What the system was told to put on the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushed: list[Path] = []
        self.beside: list[set[str]] = []
        """The names in the folder of each, or in itself where it is one, at that moment."""
        self.files = dict[int, bytes]()
        """Content by inode."""
        self.names = set[Path]()
        self._really = os.fsync
        monkeypatch.setattr("os.fsync", self._flush)

    def _flush(self, handle: int) -> None:
        self._really(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        folder = path if path.is_dir() else path.parent
        self.flushed.append(path)
        self.beside.append({one.name for one in folder.iterdir()})
        if path.is_dir():
            self.names |= set(path.iterdir())
        else:
            self.files[path.stat().st_ino] = path.read_bytes()

    def holds(self, path: Path) -> bool:
        """Return whether a power cut would leave the file as it is, by its name."""
        return self.files.get(path.stat().st_ino) == path.read_bytes() and path in self.names


def test_new_folders_of_clips_are_on_the_disk_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row never names a clip that a power cut takes away with its folder; folders that were there cost nothing."""
    disk = Disk(monkeypatch)
    songs = [song(shelf.record, second) for second in (0, 2, 4)]
    top = shelf.opened.directory.path
    hour = shelf.shelf.path(songs[0].start_ms, songs[0].uid).parent
    above = [hour.parent, top / "clips", top]
    (first,) = shelf.store(songs[0])
    assert disk.flushed[:3] == above
    assert disk.flushed[-1] == hour
    disk.flushed.clear()
    (second,) = shelf.store(songs[1])
    assert set(disk.flushed).isdisjoint(above)
    for clip in (first, second):
        shelf.shelf.delete(clip)
    assert not hour.parent.exists()
    disk.flushed.clear()
    shelf.store(songs[2])
    assert disk.flushed[:3] == above


def test_clips_are_put_on_the_disk_together(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are written before the first is waited for, each is flushed before its name appears, each folder once."""
    shelf.store(song(shelf.record, 0))
    disk = Disk(monkeypatch)
    songs = [song(shelf.record, second) for second in (1, 2, 3, 3600)]
    shelf.shelf.write([(one, SOUND) for one in songs])
    paths = [shelf.shelf.path(one.start_ms, one.uid) for one in songs]
    hour, next_hour = paths[0].parent, paths[-1].parent
    finished = [file for path in paths for file in (features_path(path), path)]
    files, folders = disk.flushed[3:-2], disk.flushed[-2:]  # the first three are above the second hour
    assert files == [file.with_name(f"{file.name}.tmp") for file in finished]
    assert {file.name for file in files if file.parent == hour} < disk.beside[3]
    assert folders == [hour, next_hour]
    assert all(disk.holds(file) for file in finished)


def test_a_clip_that_fails_costs_only_itself(shelf: Shelf) -> None:
    """Whether its time, sound, features or the place of its file is the matter: the others of its batch are written."""
    good = [song(shelf.record, second) for second in (1, 2, 3)]
    bad = [song(shelf.record, 4, start_ms=2**60), *(song(shelf.record, second) for second in (5, 6, 7))]
    in_the_way = features_path(shelf.shelf.path(bad[2].start_ms, bad[2].uid))
    (in_the_way / "x").mkdir(parents=True)
    two_channels = ClipSound(0, PCM[:RATE].reshape(-1, 2), RATE, FEATURES)
    wanted = [
        (bad[0], SOUND),
        (good[0], SOUND),
        (bad[1], two_channels),
        (good[1], SOUND),
        (bad[2], SOUND),
        (bad[3], replace(SOUND, features=cast("FloatArray", None))),
        (good[2], SOUND),
    ]
    clips = shelf.shelf.write(wanted)
    assert [clip.song if clip else None for clip in clips] == [
        None,
        good[0].uid,
        None,
        good[1].uid,
        None,
        None,
        good[2].uid,
    ]
    assert sorted(shelf.outcomes) == ["failed"] * 4 + ["written"] * 3
    assert shelf.files() == sorted([in_the_way.name, *(one.uid for one in good)])


def test_a_clip_whose_name_is_not_on_the_disk_is_taken_back(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the folder cannot be flushed its files go again, so that the song, heard anew, does not keep what may be lost."""
    (stored,) = shelf.store(song(shelf.record, 0))
    really = os.fsync

    def flush(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError("the disk is ill")
        really(handle)

    monkeypatch.setattr("os.fsync", flush)
    assert shelf.shelf.write([(song(shelf.record, second), SOUND) for second in (1, 2)]) == [None, None]
    assert (shelf.files(), shelf.outcomes) == ([stored.song], ["written", "failed", "failed"])


def test_a_clip_that_the_disk_took_in_part_is_none(shelf: Shelf) -> None:
    """What writes it does not tell that the disk took no more when it closed the file."""
    (whole,) = shelf.store(song(shelf.record, 0))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.n_bytes - 100, limit[1]))
    try:
        assert shelf.shelf.write([(song(shelf.record, 1), SOUND)]) == [None]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (shelf.files(), shelf.outcomes) == ([whole.song], ["written", "failed"])


def test_a_step_of_many_songs_waits_for_its_turn(shelf: Shelf) -> None:
    """The clips of a backlog's hundred songs are written a few at a time, all of them: live songs come in between."""
    songs = [song(shelf.record, second) for second in range(100)]
    asked: list[int] = []

    async def write(work: Callable[[Sequence[WantedClip]], object], part: Sequence[WantedClip], lane: Lane) -> object:
        asked.append(len(part))
        assert lane == "backfill"
        return work(part)

    server = SimpleNamespace(clips=shelf.shelf, clip_writing=SimpleNamespace(run=write))
    sounds = {(one.onset, one.offset): SOUND for one in songs}
    stored = asyncio.run(
        Runtime.with_clips(cast("Runtime", server), commit(shelf.record, 1, *songs), sounds, lane="backfill")
    )
    assert [clip.song for clip in stored.clips] == [one.uid for one in songs]
    assert max(asked) < 20


def test_a_song_of_two_streams_at_once_has_one_clip(shelf: Shelf) -> None:
    """While a newer stream takes a session over, both may have heard the song: whichever row is stored, it has its file."""
    one = song(shelf.record, 5)
    longer = ClipSound(0, PCM[:RATE], RATE, FEATURES)
    first, second = shelf.shelf.write([(one, SOUND), (one, longer)])
    assert first == second
    assert first is not None
    assert shelf.shelf.path(one.start_ms, one.uid).stat().st_size == first.n_bytes
    assert (shelf.files(), shelf.outcomes) == ([one.uid], ["written"])


def test_songs_of_many_streams_are_on_the_disk_before_their_rows(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that looks at what it is given finds every clip finished and flushed; streams share the flushes of folders."""
    disk = Disk(monkeypatch)
    safe: dict[str, bool] = {}

    class Looking(Store):
        def commit(self, commit: Commit) -> "Future[Sequence[StoredSong]]":
            for clip in commit.clips:
                path = clip_path(tmp_path / "clips", clip.song_start_ms, clip.song)
                safe[clip.song] = all(disk.holds(file) for file in (path, features_path(path)))
            return super().commit(commit)

    samples, _ = soundscape([0, 1, 2, 3], 5)
    with (
        ServerThread(bundle, tmp_path, make_store=Looking, max_streams_per_station=0) as server,
        ThreadPoolExecutor(10) as streams,
    ):
        first = [setup(session_name(number=number)) for number in range(1, 11)]
        answers = list(streams.map(lambda one: stream_all(server.channel, samples, [SONG_RATE], one), first))
    n_songs = sum(answer.HasField("song") for one in answers for answer in one)
    assert len(safe) == n_songs >= 40
    assert all(safe.values())
    hours = {path.parent for path in tmp_path.glob("clips/*/*/*.flac")}
    assert sum(path in hours for path in disk.flushed) < n_songs


def test_a_song_heard_again_keeps_its_clip(shelf: Shelf) -> None:
    """After a reconnect less sound lies before a song: the longer clip stays, also when its row was not stored."""
    one = song(shelf.record, 5)
    first = shelf.shelf.write([(one, ClipSound(700, PCM[:RATE], RATE, FEATURES))])
    again = shelf.shelf.write([(one, ClipSound(900, PCM[200:RATE], RATE, FEATURES))])
    assert first == again
    assert shelf.outcomes == ["written", "kept"]


def test_a_folder_stays_while_a_clip_is_written_into_it(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog's song whose hour loses its last clip at that moment, by age or quota, has its own all the same."""
    (old,) = shelf.store(song(shelf.record, 0))
    write = NewClip.write

    def late(clip: NewClip) -> None:
        shelf.shelf.delete(old)
        write(clip)

    monkeypatch.setattr(NewClip, "write", late)
    (clip,) = shelf.store(song(shelf.record, 1))
    assert (shelf.files(), shelf.outcomes) == ([clip.song], ["written", "written"])
    shelf.shelf.delete(clip)
    assert not shelf.shelf.path(clip.song_start_ms, clip.song).parent.parent.exists()


def test_a_clip_written_while_it_is_deleted_is_whole(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same song's, before: deleting takes both of its files, and none of those that come after them."""
    one = song(shelf.record, 0)
    (old,) = shelf.store(one)
    again = threading.Thread(target=shelf.shelf.write, args=([(one, SOUND)],))
    unlink = Path.unlink

    def slowly(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.suffix == ".flac":
            again.start()
            again.join(1)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", slowly)
        shelf.shelf.delete(old)
    again.join()
    assert (shelf.files(), shelf.outcomes) == ([one.uid], ["written", "written"])


def test_a_clip_that_cannot_be_written_leaves_the_song(shelf: Shelf) -> None:
    """No room, a file in the way or a time that no calendar has: the song is stored, and nothing half-written is left."""
    shelf.room = False
    assert shelf.store(song(shelf.record, 1)) == []
    shelf.room = True
    folder = shelf.shelf.path(START_MS, "x").parent.parent
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    assert shelf.store(song(shelf.record, 2)) == []
    folder.unlink()
    assert shelf.store(song(shelf.record, 3, start_ms=2**60)) == []
    assert shelf.outcomes == ["disk_low", "failed", "failed"]
    assert shelf.opened.queries.totals()[0].songs == {"T0001": 3}
    assert shelf.files() == []


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", set()),
        ("novel", {"novel", "uncertain"}),
        ("songs", {"song", "novel", "uncertain"}),
        ("all", {"song", "novel", "uncertain", "noise"}),
    ],
)
def test_the_choice_says_which_songs_have_clips(opened: Opened, choice: str, expected: set[str]) -> None:
    """Each setting takes its songs and no others."""
    shelf = Shelf(opened, choice=choice)
    kinds = {
        "song": song(shelf.record, 1),
        "novel": song(shelf.record, 1, novelty="novel"),
        "uncertain": song(shelf.record, 1, novelty="uncertain"),
        "noise": song(shelf.record, 1, kind="noise"),
    }
    assert {name for name, one in kinds.items() if shelf.shelf.wants(one)} == expected


def test_what_a_crash_left_is_deleted_and_nothing_else(shelf: Shelf) -> None:
    """Files without a row and unfinished ones go; clips with their rows stay."""
    stored = song(shelf.record, 1)
    shelf.store(stored)
    lost = song(shelf.record, 2)
    shelf.shelf.write([(lost, ClipSound(0, PCM[:RATE], RATE, FEATURES))])
    shelf.shelf.path(lost.start_ms, str(UUID(int=9))).with_suffix(".flac.tmp").write_bytes(b"half")
    assert shelf.clean() == 3
    assert shelf.files() == [stored.uid]
    assert shelf.clean() == 0


def test_clips_of_another_store_are_left_alone(shelf: Shelf) -> None:
    """A server that is started on the wrong database does not delete the clips of the right one."""
    one = song(shelf.record, 2)
    shelf.shelf.write([(one, ClipSound(0, PCM[:RATE], RATE, FEATURES))])
    assert shelf.shelf.clean(str(UUID(int=1)), lambda _: {}) == 2  # the first store of the folder is its owner
    shelf.shelf.write([(one, ClipSound(0, PCM[:RATE], RATE, FEATURES))])
    assert shelf.clean() == 0
    assert shelf.files() == [one.uid]


def test_a_clip_with_a_row_is_not_deleted_whatever_directory_that_names(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a directory lost its name clips stay, and the log says which name makes them readable; what has no row goes."""
    known, unknown = song(shelf.record, 1), song(shelf.record, 2)
    (clip,) = shelf.store(known)
    shelf.shelf.write([(unknown, SOUND)])
    moved = ClipShelf(
        shelf.opened.directory.path / "clips", "other", choice="songs", has_room=lambda: True, observe=lambda _: None
    )
    store, _ = shelf.opened.queries.position()
    assert moved.clean(store, shelf.opened.queries.clip_shelves) == 2
    assert shelf.files() == [known.uid]
    (told,) = [record.getMessage() for record in caplog.records if record.name == "songserve.clips_shelf"]
    assert told.startswith("1 clips in ")
    assert f"write {clip.shelf} into {shelf.opened.directory.path / 'shelf'}" in told


def test_a_directory_with_clips_of_its_own_is_not_told_to_be_another(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose song came to another server as well is told of, without the advice to take that one's name."""
    here, there = song(shelf.record, 1), song(shelf.record, 2)
    shelf.store(here, there)
    with shelf.opened.directory.writer.begin() as connection:
        connection.execute(update(clips).where(clips.c.song == there.uid).values(shelf=str(UUID(int=7))))
    assert shelf.clean() == 0
    assert sorted(shelf.files()) == sorted([here.uid, there.uid])
    (told,) = [record.getMessage() for record in caplog.records if record.name == "songserve.clips_shelf"]
    assert told.startswith("1 clips in ")
    assert "write" not in told


def test_the_advice_about_another_store_s_clips_is_safe(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    """Clips that come after the database of a backup are taken over; with strangers among them after what the log advises."""
    known, unknown = song(shelf.record, 1), song(shelf.record, 2)
    shelf.store(known)
    owner = shelf.opened.directory.path / "clips" / "store"
    owner.write_text(f"{UUID(int=1)}\n")
    shelf.shelf.write([(unknown, SOUND)])
    assert shelf.clean() == 0
    (told,) = [record.getMessage() for record in caplog.records if record.name == "songserve.clips_shelf"]
    assert "2 files there are of songs without a clip in this one" in told
    assert told.endswith(f"delete {owner}")
    owner.unlink()
    assert shelf.clean() == 2
    assert shelf.files() == [known.uid]
    caplog.clear()
    owner.write_text(f"{UUID(int=1)}\n")
    assert shelf.clean() == 0
    assert owner.read_text() == f"{shelf.opened.queries.position()[0]}\n"
    assert not [record for record in caplog.records if record.name == "songserve.clips_shelf"]


def retention(shelf: Shelf, **limits: int) -> tuple[ClipRetention, list[tuple[str, int]]]:
    """Return a retention with limits, and the list of what it deletes."""
    deleted: list[tuple[str, int]] = []
    values = {"max_days": 1000, "max_bytes": 2**40, **limits}
    return (
        ClipRetention(
            shelf.shelf,
            shelf.opened.queries,
            shelf.opened.store,
            observe=lambda reason, n: deleted.append((reason, n)),
            **values,
        ),
        deleted,
    )


def test_old_clips_go_and_kept_ones_stay(shelf: Shelf) -> None:
    """Clips of songs beyond the age are deleted with their rows, but for one that was marked; their songs stay."""
    songs = [song(shelf.record, day * 86_400) for day in range(10)]
    shelf.store(*songs)
    assert shelf.opened.store.keep_clip(songs[2].uid, keep=True).result(10)
    keeper, deleted = retention(shelf, max_days=4)
    keeper.sweep(START_MS + 9 * DAY_MS)
    assert shelf.files() == sorted(one.uid for one in (songs[2], *songs[5:]))
    assert deleted == [("age", 4)]
    assert set(shelf.opened.queries.clip_shelves([one.uid for one in songs])) == set(shelf.files())
    assert len(list(shelf.opened.directory.path.glob("clips/*/"))) == 6
    assert shelf.opened.queries.totals()[0].songs == {"T0001": 10}


def test_old_clips_go_although_the_disk_is_full(shelf: Shelf, database_url: str | None) -> None:
    """Where nothing else may be written, in the same transaction even, deleting makes room."""
    songs = [song(shelf.record, day * 86_400) for day in range(3)]
    shelf.store(*songs)
    shelf.opened.close()
    with Opened(shelf.opened.directory.path, database_url=database_url, min_free_bytes=2**60) as full:
        refused, gone = full.store.open_session(opening()), full.store.forget_clips([songs[0].uid])
        assert (reason(refused), gone.result(10)) == ("DISK_LOW", {songs[0].uid})
        keeper = ClipRetention(
            shelf.shelf, full.queries, full.store, max_days=1, max_bytes=2**40, observe=lambda *_: None
        )
        keeper.sweep(START_MS + 2 * DAY_MS + 1)
        assert full.queries.clip_totals(shelf.shelf.shelf)[0] == 1


def test_the_oldest_clips_go_when_there_are_too_many(shelf: Shelf) -> None:
    """Clips beyond the quota are deleted from the oldest on, as few as do; kept ones are passed over."""
    songs = [song(shelf.record, minute * 60) for minute in range(10)]
    clips = shelf.store(*songs)
    shelf.opened.store.keep_clip(songs[0].uid, keep=True).result(10)
    keeper, deleted = retention(shelf, max_bytes=sum(clip.total_bytes for clip in clips[4:]))
    left = keeper.sweep(START_MS + DAY_MS)
    assert shelf.files() == sorted(one.uid for one in (songs[0], *songs[5:]))
    assert deleted == [("quota", 4)]
    assert left == sum(clip.total_bytes for clip in (clips[0], *clips[5:]))
    nothing, _ = retention(shelf, max_bytes=0)
    assert nothing.sweep(START_MS + DAY_MS) == clips[0].total_bytes
    assert shelf.files() == [songs[0].uid]


def test_a_clip_that_is_marked_while_it_is_swept_stays(shelf: Shelf) -> None:
    """Marking and deleting at once end in a marked clip with its file, or in none: never in a row without its file."""
    songs = [song(shelf.record, minute * 60) for minute in range(40)]
    shelf.store(*songs)
    nothing, _ = retention(shelf, max_bytes=0)
    sweeping = threading.Thread(target=nothing.sweep, args=(START_MS + DAY_MS,))
    sweeping.start()
    marks = [shelf.opened.store.keep_clip(one.uid, keep=True) for one in songs]
    marked = {one.uid for one, mark in zip(songs, marks, strict=True) if mark.result(10)}
    sweeping.join()
    assert set(shelf.files()) == marked
    assert set(shelf.opened.queries.clip_shelves([one.uid for one in songs])) == marked
