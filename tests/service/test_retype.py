"""Stored songs named by another bundle: from what the encoder saw, from clips, beside a server, and in pieces."""

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from sqlalchemy import create_engine, select
from typer import Typer
from typer.testing import CliRunner

from bundles import DIMENSION, Family, soundscape
from serving import ServerThread, failure, stream_all
from songcore.bundle import Bundle
from songserve.commands.retype import retype
from songserve.database import CLIPS_FOLDER, DATABASE_NAME
from songserve.schema import retypings
from songserve.v1 import models_pb2, models_pb2_grpc

RATE = 48_000
N_SONGS = 6
command = Typer()
command.command()(retype)


@pytest.fixture
def store(bundle: Bundle, tmp_path: Path) -> Path:
    """Return the data directory of a server that heard a song of every type and has ended."""
    with ServerThread(bundle, tmp_path / "data", listen_window_ms=10.0) as server:
        stream_all(server.channel, soundscape([0, 1, 2, 3, 4, 5], 51, rate_hz=RATE)[0], [RATE], setup_48k())
    return tmp_path / "data"


def setup_48k() -> Any:
    """Return a setup at the rate of the sound."""
    from serving import setup

    return setup(rate=RATE)


def run(*arguments: str) -> Any:
    """Run the command and return its report."""
    result = CliRunner().invoke(command, [*arguments, "--device", "cpu", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def kept(store: Path, digest: str) -> dict[str, Any]:
    """Return the results of a bundle by song."""
    engine = create_engine(f"sqlite:///{store / DATABASE_NAME}")
    with engine.connect() as connection:
        rows = connection.execute(select(retypings).where(retypings.c.bundle == digest)).mappings().all()
    engine.dispose()
    return {row["song"]: row for row in rows}


def test_the_same_ears_take_what_the_encoder_saw(store: Path, family: Family) -> None:
    """In pieces and to the end, each song has one result more, of the child's types, and its own row is as it was."""
    child = str(family.shelf / family.child)
    first = run("--store", str(store), "--bundle", child, "--limit", "2")
    assert (first["features"], first["n_songs"]) == (2, 2)
    rest = run("--store", f"sqlite:///{store / DATABASE_NAME}", "--bundle", child)
    assert (rest["features"], rest["clip"], rest["gone"]) == (N_SONGS - 2, 0, 0)
    assert run("--store", str(store), "--bundle", child)["features"] == 0
    rows = kept(store, family.child)
    assert len(rows) == N_SONGS
    assert {row["type_id"][:2] for row in rows.values()} == {"AT"}
    vectors = [np.frombuffer(row["vector"], "<f4") for row in rows.values()]
    assert [len(vector) for vector in vectors] == [DIMENSION] * N_SONGS
    assert kept(store, family.first) == {}


def test_other_ears_listen_to_the_clips(store: Path, family: Family) -> None:
    """Every song is found in its clip again; one that retention took is gone, one that is damaged is said to be."""
    clips = sorted((store / CLIPS_FOLDER).glob("*/*/*.flac"))
    clips[0].unlink()
    clips[1].write_bytes(b"no flac")
    report = run("--store", str(store), "--bundle", str(family.shelf / family.other_ears))
    assert (report["clip"], report["gone"], report["damaged"]) == (N_SONGS - 2, 1, 1)
    assert {row["source"] for row in kept(store, family.other_ears).values()} == {"clip"}


def test_a_running_server_writes_the_results(bundle: Bundle, store: Path, family: Family) -> None:
    """Beside a server the command is refused the file, and hands its results to the server, which lists them."""
    child = str(family.shelf / family.child)
    with ServerThread(bundle, store) as server:
        refused = CliRunner().invoke(command, ["--store", str(store), "--bundle", child])
        assert getattr(refused.exception, "reason", "") == "DATA_DIR_LOCKED"
        report = run("--store", str(store), "--bundle", child, "--server", server.addresses.grpc)
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
        assert [one.song for one in found] == [f"songs/{song}" for song in sorted(kept(store, family.child))]
        wrong = models_pb2.AddRetypingsRequest(name=name, retypings=[models_pb2.Retyping(song="songs/x")])
        with pytest.raises(grpc.RpcError) as invalid:
            stub.AddRetypings(wrong)
        assert failure(invalid.value)[:2] == ("INVALID_ARGUMENT", "RETYPINGS_INVALID")
