"""What commands that ask a running server share: its options, given before or behind the sub-command."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from songserve.clients.connection import Connection

__all__ = ["Ca", "Certificate", "Insecure", "Key", "TokenFile", "add_connection", "connect"]

Ca = Annotated[
    Path | None,
    typer.Option(exists=True, help="Authority of the server's certificate, PEM [default: the public ones]."),
]
Certificate = Annotated[Path | None, typer.Option(exists=True, help="A client certificate, PEM.", show_default=False)]
Key = Annotated[Path | None, typer.Option(exists=True, help="Its key, PEM.", show_default=False)]
TokenFile = Annotated[
    Path | None,
    typer.Option(exists=True, envvar="SONGSTREAM_TOKEN_FILE", help="File with a token.", show_default=False),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Do not encrypt beyond this machine.")]


class _ServerGroup(TyperGroup):
    """A group of commands whose own options may also stand behind the sub-command, where people look for them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own: list[str] = []
        rest: list[str] = []
        words = iter(args)
        for word in words:
            name, has_value, _ = word.partition("=")
            option: Any = next((one for one in self.params if name in one.opts), None)
            if option is None:
                rest.append(word)
                # Behind this mark no word is an option.
                rest += words if word == "--" else ()
            else:
                own.append(word)
                if not (has_value or option.is_flag):
                    value = list(islice(words, 1))
                    own += value
                    # Without one it stands last, and the group says what it lacks.
                    rest = rest if value else []
        return super().parse_args(ctx, [*own, *rest])


def add_connection(commands: typer.Typer) -> None:
    """Give a group of commands the options by which `connect` finds and convinces the server."""
    commands.callback(cls=_ServerGroup)(_options)


def connect(context: typer.Context) -> "Connection":
    """Return the connection that the options of the command's group describe."""
    from songserve.clients.connection import Connection, Server

    return Connection(context.ensure_object(Server))


def _options(
    context: typer.Context,
    server: Annotated[str, typer.Option(envvar="SONGSTREAM_SERVER", help="host:port of the server.")] = (
        "127.0.0.1:50051"
    ),
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    token_file: TokenFile = None,
    *,
    insecure: Insecure = False,
) -> None:
    from songserve.clients.connection import Server

    context.obj = Server(server, ca, certificate, key, token_file, insecure)
