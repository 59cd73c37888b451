"""Stored songs named by another bundle: from what the encoder saw, from clips, beside a server, in pieces; then swapped in."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from sqlalchemy import create_engine, select
from typer import Typer
from typer.testing import CliRunner

from bundles import DIMENSION, Family, soundscape
from serving import ServerThread, failure, session_name, setup, stream_all
from songcore.bundle import Bundle
from songserve.commands.retype import retype
from songserve.database import CLIPS_FOLDER, DATABASE_NAME
from songserve.schema import retypings
from songserve.v1 import models_pb2, models_pb2_grpc, songs_pb2, songs_pb2_grpc

RATE = 48_000
N_SONGS = 6
command = Typer()
command.command()(retype)


@dataclass(frozen=True)
class Kept:
    """What a server left: its data directory, and the URL of its PostgreSQL if that is where the songs are."""

    folder: Path
    database_url: str | None

    @property
    def url(self) -> str:
        """URL of the store."""
        return self.database_url or f"sqlite:///{self.folder / DATABASE_NAME}"

    @property
    def options(self) -> list[str]:
        """What the command is told of it."""
        return (
            ["--store", self.url, "--data-dir", str(self.folder)]
            if self.database_url
            else ["--store", str(self.folder)]
        )

    def serve(self, bundle: Bundle, /, **settings: Any) -> ServerThread:
        """Return a server on it."""
        return ServerThread(bundle, self.folder, database_url=self.database_url, **settings)


@pytest.fixture
def store(bundle: Bundle, tmp_path: Path, database_url: str | None) -> Kept:
    """Return what a server left that heard a song of every type, on each database."""
    kept = Kept(tmp_path / "data", database_url)
    with kept.serve(bundle, listen_window_ms=10.0) as server:
        stream_all(server.channel, soundscape([0, 1, 2, 3, 4, 5], 51, rate_hz=RATE)[0], [RATE], setup_48k())
    return kept


def setup_48k(session: str | None = None) -> Any:
    """Return a setup at the rate of the sound."""
    return setup(session, rate=RATE)


def run(*arguments: str) -> Any:
    """Run the command and return its report."""
    result = CliRunner().invoke(command, [*arguments, "--device", "cpu", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def results(store: Kept, digest: str) -> dict[str, Any]:
    """Return the results of a bundle by song."""
    engine = create_engine(store.url)
    with engine.connect() as connection:
        rows = connection.execute(select(retypings).where(retypings.c.bundle == digest)).mappings().all()
    engine.dispose()
    return {row["song"]: row for row in rows}


def test_the_same_ears_take_what_the_encoder_saw(store: Kept, family: Family) -> None:
    """In pieces and to the end, each song has one result more, of the child's types, and its own row is as it was."""
    child = str(family.shelf / family.child)
    first = run(*store.options, "--bundle", child, "--limit", "2")
    assert (first["features"], first["n_songs"]) == (2, 2)
    rest = run("--store", store.url, "--data-dir", str(store.folder), "--bundle", child)
    assert (rest["features"], rest["clip"], rest["gone"]) == (N_SONGS - 2, 0, 0)
    assert run(*store.options, "--bundle", child)["features"] == 0
    rows = results(store, family.child)
    assert len(rows) == N_SONGS
    assert {row["type_id"][:2] for row in rows.values()} == {"AT"}
    vectors = [np.frombuffer(row["vector"], "<f4") for row in rows.values()]
    assert [len(vector) for vector in vectors] == [DIMENSION] * N_SONGS
    assert results(store, family.first) == {}


def test_other_ears_listen_to_the_clips(store: Kept, family: Family) -> None:
    """Every song is found in its clip again; one that retention took is gone, one that is damaged is said to be."""
    clips = sorted((store.folder / CLIPS_FOLDER).glob("*/*/*.flac"))
    clips[0].unlink()
    clips[1].write_bytes(b"no flac")
    report = run(*store.options, "--bundle", str(family.shelf / family.other_ears))
    assert (report["clip"], report["gone"], report["damaged"]) == (N_SONGS - 2, 1, 1)
    assert {row["source"] for row in results(store, family.other_ears).values()} == {"clip"}


def test_a_running_server_writes_the_results(
    bundle: Bundle, store: Kept, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a server the command is refused its place, and hands its results to the server, which lists them."""
    child = str(family.shelf / family.child)
    with store.serve(bundle) as server:
        refused = CliRunner().invoke(command, [*store.options, "--bundle", child])
        assert getattr(refused.exception, "reason", "") == "DATA_DIR_LOCKED"
        assert "a server uses the data directory" in str(refused.exception)
        assert "name it with --server" in str(refused.exception)
        monkeypatch.setenv("SONGSTREAM_SERVER", server.addresses.grpc)
        report = run(*store.options, "--bundle", child, "--insecure")
        assert report["features"] == N_SONGS
        stub: Any = models_pb2_grpc.ModelBundleServiceStub(server.channel)
        name, token, found = f"modelBundles/{family.child}", "", []
        while True:
            request = models_pb2.ListRetypingsRequest(name=name, page_size=4, page_token=token)
            page = stub.ListRetypings(request)
            found += list(page.retypings)
            token = page.next_page_token
            if not token:
                break
        assert [one.song for one in found] == [f"songs/{song}" for song in sorted(results(store, family.child))]
        wrong = models_pb2.AddRetypingsRequest(name=name, retypings=[models_pb2.Retyping(song="songs/x")])
        with pytest.raises(grpc.RpcError) as invalid:
            stub.AddRetypings(wrong)
        assert failure(invalid.value)[:2] == ("INVALID_ARGUMENT", "RETYPINGS_INVALID")


def test_what_named_them_anew_is_swapped_in(bundle: Bundle, store: Kept, family: Family) -> None:
    """A bundle is activated, names what comes in, outlives a restart and is rolled back; the history tells all of it."""
    settings: dict[str, Any] = {"bundle": family.first_dir, "models_dir": family.shelf, "listen_window_ms": 10.0}
    child = f"modelBundles/{family.child}"
    with store.serve(bundle, **settings) as server:
        models_pb2_grpc.ModelBundleServiceStub(server.channel).ActivateModelBundle(
            models_pb2.ActivateModelBundleRequest(name=child)
        )
        sound = soundscape([0, 1, 2, 3, 4, 5], 52, rate_hz=RATE)[0]
        stream_all(server.channel, sound, [RATE], setup_48k(session_name("north", 2)))
    with store.serve(bundle, **settings) as server:
        songs: Any = songs_pb2_grpc.SongServiceStub(server.channel)
        heard = Counter(song.model_bundle for song in songs.ListSongs(songs_pb2.ListSongsRequest(page_size=100)).songs)
        assert heard == {f"modelBundles/{family.first}": N_SONGS, child: N_SONGS}
        stub: Any = models_pb2_grpc.ModelBundleServiceStub(server.channel)
        assert stub.GetModelBundle(models_pb2.GetModelBundleRequest(name="modelBundles/active")).digest == family.child
        assert stub.RollbackModelBundle(models_pb2.RollbackModelBundleRequest()).digest == family.first
        events = stub.ListModelBundleEvents(models_pb2.ListModelBundleEventsRequest()).events
        assert [event.kind for event in events] == ["rolled_back", "activated", "validated", "started"]
