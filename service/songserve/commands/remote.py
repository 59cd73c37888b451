"""What commands that ask a running server share: its options, given once, before the sub-command, and their JSON."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from songserve.clients.connection import Connection

__all__ = ["add_connection", "connect", "plain_json", "print_json"]


def add_connection(commands: typer.Typer) -> None:
    """Give a group of commands the options by which `connect` finds and convinces the server."""
    commands.callback()(_options)


def connect(context: typer.Context) -> "Connection":
    """Return the connection that the options of the command's group describe."""
    from songserve.clients.connection import Connection, Server

    return Connection(context.ensure_object(Server))


def plain_json(value: Any, *, sort_keys: bool = False) -> str:
    """Return a value as JSON on one line, times to the millisecond."""
    return json.dumps(value, default=_plain, sort_keys=sort_keys)


def print_json(value: Any, *, sort_keys: bool = False) -> None:
    """Print a value as JSON on one line."""
    print(plain_json(value, sort_keys=sort_keys))


def _plain(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds")


def _options(
    context: typer.Context,
    server: Annotated[str, typer.Option(envvar="SONGSTREAM_SERVER", help="host:port of the server.")] = (
        "127.0.0.1:50051"
    ),
    ca: Annotated[
        Path | None,
        typer.Option(exists=True, help="Authority of the server's certificate, PEM [default: the public ones]."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(exists=True, help="A client certificate, PEM.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(exists=True, help="Its key, PEM.", show_default=False)] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(exists=True, envvar="SONGSTREAM_TOKEN_FILE", help="File with a token.", show_default=False),
    ] = None,
    *,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not encrypt beyond this machine.")] = False,
) -> None:
    from songserve.clients.connection import Server

    context.obj = Server(server, ca, certificate, key, token_file, insecure)
