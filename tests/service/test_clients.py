"""What commands that ask a server say when it answers, refuses, or is not there."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from serving import ServerThread
from songcore.errors import ConfigError
from songserve.clients.connection import Connection, Server
from songserve.commands.remote import add_connection, connect
from songserve.v1 import songs_pb2, songs_pb2_grpc
from tokens import add_token


def reason_of(server: Server, request: Any) -> str:
    """Return why a question about a song is refused."""
    with Connection(server, timeout_s=20) as connection, pytest.raises(ConfigError) as refused:
        connection.call(connection.stub(songs_pb2_grpc.SongServiceStub).GetSong, request)
    return refused.value.reason


def test_a_refusal_keeps_its_reason(shared_server: ServerThread) -> None:
    """What the server says no with is the command's reason, and a port where nobody listens has one too."""
    request = songs_pb2.GetSongRequest(name="songs/0")
    assert reason_of(Server(shared_server.addresses.grpc), request) == "SONG_UNKNOWN"
    assert reason_of(Server("127.0.0.1:1"), request) == "SERVER_UNREACHABLE"


def test_the_options_of_a_group_lead_to_the_server(start_server: Any, tmp_path: Path) -> None:
    """A sub-command asks the server that the group's options or the environment name, with the token of the file."""
    book, token = tmp_path / "tokens.json", tmp_path / "token"
    token.write_text(add_token(book, "reader", "read"))
    token.chmod(0o600)
    server = start_server(token_file=book)
    group = typer.Typer()
    add_connection(group)

    @group.command()
    def ask(context: typer.Context) -> None:
        with connect(context) as connection:
            types = connection.stub(songs_pb2_grpc.SongServiceStub).ListSongTypes
            print(len(connection.call(types, songs_pb2.ListSongTypesRequest()).song_types))

    address = server.addresses.grpc
    given = CliRunner().invoke(group, ["--server", address, "--token-file", str(token), "ask"])
    assert given.stdout == "5\n", given.output
    named = CliRunner().invoke(group, ["ask"], env={"SONGSTREAM_SERVER": address})
    assert isinstance(named.exception, ConfigError)
    assert named.exception.reason == "TOKEN_MISSING"
