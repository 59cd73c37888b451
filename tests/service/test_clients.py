"""What commands that ask a server say when it answers, refuses, or is not there."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from certificates import Authority
from serving import ServerThread
from songcore.bundle import Bundle
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
    assert str(named.exception).endswith("; give --token-file or SONGSTREAM_TOKEN_FILE")


def test_the_options_of_a_group_may_stand_behind_the_sub_command() -> None:
    """Where people look for them; what is no option of the group, and all behind two hyphens, is the sub-command's."""
    group = typer.Typer()
    add_connection(group)

    @group.command()
    def ask(context: typer.Context, words: list[str], limit: int = 1) -> None:
        print(context.obj.address, context.obj.insecure, words, limit)

    def told(*arguments: str) -> str:
        done = CliRunner().invoke(group, arguments)
        return done.stdout.strip() or done.output

    expected = "h:1 True ['a', 'b'] 2"
    assert told("--server", "h:1", "--insecure", "ask", "a", "--limit", "2", "b") == expected
    assert told("ask", "a", "--server", "h:1", "--limit", "2", "--insecure", "b") == expected
    assert told("ask", "--server=h:1", "--limit", "2", "--insecure", "a", "b") == expected
    assert told("ask", "--server", "h:1", "--", "a", "--insecure") == "h:1 False ['a', '--insecure'] 1"
    assert "does not exist" in told("ask", "a", "--ca", "/none")
    assert "requires an argument" in told("ask", "a", "--ca")
    assert "--limit" in told("ask", "--help")


def test_who_speaks_in_clear_is_told_of_certificates(bundle: Bundle, tmp_path: Path) -> None:
    """Which option a server with one needs; not told to who has given it."""
    authority = Authority(tmp_path / "authority")
    files = authority.certificate("127.0.0.1")
    tls: dict[str, Any] = {"tls_certificate": files.certificate, "tls_key": files.key, "tls_client_ca": authority.ca}
    with ServerThread(bundle, tmp_path / "data", **tls) as server:
        for ca, is_told in ((None, True), (authority.ca, False)):
            with Connection(Server(server.addresses.grpc, ca=ca), timeout_s=20) as connection:
                stub = connection.stub(songs_pb2_grpc.SongServiceStub)
                with pytest.raises(ConfigError) as refused:
                    connection.call(stub.GetSong, songs_pb2.GetSongRequest(name="songs/0"))
            assert refused.value.reason == "SERVER_UNREACHABLE"
            assert str(refused.value).endswith("; a server with a certificate needs --ca") == is_told
