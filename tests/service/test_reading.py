"""Reading songs over a port: watching them come in, and hearing them."""

import io
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import numpy as np
import pytest
import soundfile

from bundles import soundscape
from postgres import PostgresServer
from serving import (
    ServerProcess,
    ServerThread,
    Stream,
    chunk_messages,
    failure,
    finish_message,
    pcm16,
    session_name,
    setup,
    stream_all,
)
from songcore.bundle import Bundle
from songserve.v1 import songs_pb2, songs_pb2_grpc

RATE = 24_000
SAMPLES = soundscape([0, 3, 5], 61)[0]


def stub(server: ServerThread | ServerProcess) -> Any:
    """Return the stub of SongService."""
    return songs_pb2_grpc.SongServiceStub(server.channel)


class Watcher:
    """A client of WatchSongs that keeps its songs and its token."""

    def __init__(self, server: ServerThread | ServerProcess, **request: Any) -> None:
        self.call = stub(server).WatchSongs(songs_pb2.WatchSongsRequest(**request), timeout=60)
        self.token = next(self.call).resume_token if not request.get("include_stored") else ""
        self.names: list[str] = []

    def read(self, n_songs: int) -> "Watcher":
        """Read until so many songs are there."""
        while len(self.names) < n_songs:
            response = next(self.call)
            self.names += [song.name for song in response.songs]
            self.token = response.resume_token
        return self


def sing(server: ServerThread | ServerProcess, number: int, station: str = "north") -> list[str]:
    """Stream three songs as a session of its own; return their names."""
    responses = stream_all(server.channel, SAMPLES, [RATE], setup(session_name(station, number)))
    return [response.song.song.name for response in responses if response.HasField("song")]


def listed(server: ServerThread | ServerProcess) -> list[Any]:
    """Return every song of the store."""
    return list(stub(server).ListSongs(songs_pb2.ListSongsRequest(page_size=1000, include_noise=True)).songs)


def refusal(call: Any) -> tuple[str, str]:
    """Return code and reason of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        list(call)
    return failure(failed.value)[:2]


def test_a_watch_sees_every_song_once_also_across_a_restart(
    bundle: Bundle, tmp_path: Path, database_url: str | None
) -> None:
    """Songs of two servers' lives, some while nobody watched, reach one who resumes exactly once and in order."""
    settings: dict[str, Any] = {"database_url": database_url} if database_url else {}
    with ServerThread(bundle, tmp_path, **settings) as server:
        watcher = Watcher(server)
        names = sing(server, 1)
        watcher.read(2)
        seen, token = watcher.names, watcher.token
        assert seen == names[: len(seen)]
        watcher.call.cancel()
        names += sing(server, 2)
    with ServerThread(bundle, tmp_path, **settings) as server:
        watcher = Watcher(server, resume_token=token, include_noise=False)
        names += sing(server, 3)
        # The first response of a watch that resumes may hold songs; Watcher takes its token only.
        everything = Watcher(server, include_stored=True).read(len(names))
        assert everything.names == names
        again = stub(server).WatchSongs(songs_pb2.WatchSongsRequest(resume_token=token), timeout=60)
        while len(seen) < len(names):
            seen += [song.name for song in next(again).songs]
    assert seen == names
    assert len(set(names)) == 9


def test_a_watch_ends_with_the_server_and_says_to_come_back(bundle: Bundle, tmp_path: Path) -> None:
    """Draining does not wait for those who watch."""
    with ServerThread(bundle, tmp_path) as server:
        watcher = Watcher(server)
        server.stop()
        assert refusal(watcher.call) == ("UNAVAILABLE", "DRAINING")


def test_a_watch_is_filtered_as_lists_are(server: ServerThread) -> None:
    """Songs of other stations are left out, and the token moves past them."""
    sing(server, 1, "north")
    names = sing(server, 2, "south")
    watcher = Watcher(server, include_stored=True, station="stations/south").read(3)
    assert watcher.names == names
    assert watcher.token.endswith(".6")


@pytest.mark.parametrize("token", ["x", f"{UUID(int=1)}.1", "{store}.99", "{store}.-1"])
def test_a_token_of_another_state_is_refused(shared_server: ServerThread, token: str) -> None:
    """What was never given, of another database or of its future, cannot be resumed."""
    store = Watcher(shared_server).token.split(".")[0]
    call = stub(shared_server).WatchSongs(songs_pb2.WatchSongsRequest(resume_token=token.format(store=store)))
    assert refusal(call) == ("INVALID_ARGUMENT", "RESUME_TOKEN_INVALID")


def test_a_watch_sees_what_another_server_stores(bundle: Bundle, tmp_path: Path, postgres: PostgresServer) -> None:
    """Two servers on one PostgreSQL: a client of the one sees the songs of the other, and is told where the clips are."""
    url = postgres.new_database()
    with (
        ServerThread(bundle, tmp_path / "a", database_url=url) as here,
        ServerThread(bundle, tmp_path / "b", database_url=url) as there,
    ):
        watcher = Watcher(here)
        names = sing(there, 1)
        assert watcher.read(3).names == names
        call = stub(here).GetSongClip(songs_pb2.GetSongClipRequest(name=names[0]))
        assert refusal(call) == ("FAILED_PRECONDITION", "CLIP_ELSEWHERE")
        assert len(read_clip(there, names[0])[1]) > RATE


def read_clip(server: ServerThread | ServerProcess, name: str) -> tuple[Any, Any]:
    """Return what a song's clip is, and its samples (n,) int16."""
    responses = list(stub(server).GetSongClip(songs_pb2.GetSongClipRequest(name=name)))
    data = b"".join(response.data for response in responses[1:])
    assert responses[0].clip.size_bytes == len(data)
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == responses[0].clip.sample_rate_hz
    return responses[0].clip, samples


def test_a_clip_is_the_sound_that_was_sent(server: ServerThread) -> None:
    """Of every song, over the wire: the station's own samples, with the rolls around the song."""
    sent = np.frombuffer(pcm16(SAMPLES), "<i2")
    sing(server, 1)
    songs = listed(server)
    assert len(songs) == 3
    for song in songs:
        clip, samples = read_clip(server, song.name)
        np.testing.assert_array_equal(samples, sent[clip.start_sample : clip.start_sample + clip.sample_count])
        assert clip.onset_s == pytest.approx(0.5, abs=1 / RATE)
        assert clip.start_sample / RATE + clip.onset_s == pytest.approx(song.onset_s)
        assert 0.25 <= clip.sample_count / RATE - clip.offset_s <= 0.5 + 1 / RATE


def test_a_clip_can_be_kept(server: ServerThread) -> None:
    """Keeping is told by the clip, and can be taken back."""
    name = sing(server, 1)[0]
    for keep in (True, True, False):
        assert stub(server).KeepSongClip(songs_pb2.KeepSongClipRequest(name=name, keep=keep)).kept is keep
        assert read_clip(server, name)[0].kept is keep


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("songs/../../etc/passwd", ("INVALID_ARGUMENT", "NAME_INVALID")),
        ("songs/%2e%2e%2fshelf", ("INVALID_ARGUMENT", "NAME_INVALID")),
        ("songs//etc/passwd", ("INVALID_ARGUMENT", "NAME_INVALID")),
        ("songs/..", ("INVALID_ARGUMENT", "NAME_INVALID")),
        ("songs/a\0b", ("INVALID_ARGUMENT", "NAME_INVALID")),
        (f"songs/{UUID(int=5)}", ("NOT_FOUND", "SONG_UNKNOWN")),
    ],
)
def test_no_name_leads_out_of_the_clips(shared_server: ServerThread, name: str, expected: tuple[str, str]) -> None:
    """What is no song's name is refused before any file is looked for."""
    assert refusal(stub(shared_server).GetSongClip(songs_pb2.GetSongClipRequest(name=name))) == expected


def test_without_clips_songs_are_stored_all_the_same(start_server: Any, tmp_path: Path) -> None:
    """A server set to keep none stores songs, writes no file and says that there is none."""
    server = start_server(clips="none")
    name = sing(server, 1)[0]
    assert refusal(stub(server).GetSongClip(songs_pb2.GetSongClipRequest(name=name))) == ("NOT_FOUND", "CLIP_UNKNOWN")
    assert not (tmp_path / "data" / "clips").exists()


def test_a_clip_that_somebody_deleted_or_linked_is_not_there(server: ServerThread, tmp_path: Path) -> None:
    """A missing file is no fault of the server; a link in its place is not followed."""
    names = sing(server, 1)
    paths = {path.stem: path for path in tmp_path.glob("data/clips/*/*/*.flac")}
    first, second = (paths[name.removeprefix("songs/")] for name in names[:2])
    first.unlink()
    second.unlink()
    second.symlink_to("/etc/passwd")
    for name in names[:2]:
        call = stub(server).GetSongClip(songs_pb2.GetSongClipRequest(name=name))
        assert refusal(call) == ("NOT_FOUND", "CLIP_UNKNOWN")


def test_a_killed_server_leaves_no_clip_without_a_song_and_no_song_without_its_clip(
    bundle_dir: Path, tmp_path: Path
) -> None:
    """SIGKILL in the middle of streams: after the next start files and songs are the same, and in the end all are there."""
    chunks = chunk_messages(SAMPLES, [RATE // 2])
    for attempt in range(3):
        with ServerProcess(bundle_dir, tmp_path) as server:
            assert clip_files(tmp_path) == {song.name.removeprefix("songs/") for song in listed(server)}
            stream = Stream(server.channel, setup())
            expected = stream.read().setup_ack.expected_sequence_number
            stream.send(*chunks[expected - 1 :])
            killer = threading.Timer(0.3 + 0.2 * attempt, server.process.kill)
            killer.start()
            with suppress(grpc.RpcError):
                list(stream)
            killer.join()
            stream.half_close()
    with ServerProcess(bundle_dir, tmp_path) as server:
        stream = Stream(server.channel, setup())
        expected = stream.read().setup_ack.expected_sequence_number
        stream.send(*chunks[expected - 1 :], finish_message(chunks))
        assert list(stream)[-1].ack.finished
        stream.half_close()
        songs = listed(server)
        assert len(songs) == 3
        assert clip_files(tmp_path) == {song.name.removeprefix("songs/") for song in songs}


def clip_files(data_dir: Path) -> set[str]:
    """Return the uids of all clips."""
    return {path.stem for path in data_dir.glob("clips/*/*/*")}
