"""``songstream token``: who may call a server, and with which role."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from songcore.names import is_name
from songcore.printed_tables import add_id_column, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from songserve.security.tokens import Token, TokenBook

__all__ = ["token"]

token = typer.Typer(
    name="token",
    help="Make, replace and revoke the tokens of stations and people.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)

File = Annotated[Path, typer.Option("--file", envvar="SONGSTREAM_SERVE_TOKEN_FILE", help="The server's token file.")]
Name = Annotated[str, typer.Argument(help="The station's name, or that of a person or program.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@token.command()
def add(
    name: Name,
    file: File,
    role: Annotated[
        Literal["ingest", "read", "admin"],
        typer.Option(
            help="`ingest`: send sound as this station. `read`: look at songs, types and models. `admin`: `read`, and keep "
            "clips, finish sessions, decide on types, swap, shadow and retype with bundles, start and cancel reclusterings, "
            "which are processes on the server."
        ),
    ] = "ingest",
    *,
    as_json: Json = False,
) -> None:
    """Print a new holder's token, this once; the file keeps only its hash.

    The file is made if it is missing. A server that runs takes the token at once.
    """
    if not is_name(name):
        raise typer.BadParameter(f"name {name!r}; expected small letters, digits and hyphens, at most 63")
    _give(file, name, lambda book, new: book.added(name, role, new), as_json=as_json)


@token.command()
def rotate(
    name: Name,
    file: File,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=24 * 366, metavar="<hours>", help="How long the old token stays valid.")
    ] = 24,
    *,
    as_json: Json = False,
) -> None:
    """Print a holder's next token; the one before stays valid for a while, so that no sound waits.

    A token that was in the wrong hands is better replaced with `--overlap-hours 0`.
    """
    overlap = timedelta(hours=overlap_hours)
    _give(file, name, lambda book, new: book.rotated(name, new, overlap=overlap), as_json=as_json)


@token.command()
def revoke(
    name: Name,
    file: File,
    token_id: Annotated[str | None, typer.Option("--id", help="Only this token, by its id of `token list`.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Remove a holder with all tokens, or one token; open streams end within the server's `recheck_s`."""
    from songserve.security.token_file import change_tokens

    change_tokens(file, lambda book: book.revoked(name, token_id))
    if as_json:
        print(json.dumps({"name": name, "id": token_id, "revoked": True}))
    else:
        print(f"revoked {name if token_id is None else token_id}")


@token.command()
def disable(name: Name, file: File, *, as_json: Json = False) -> None:
    """Shut a holder out and keep the tokens; open streams end within the server's `recheck_s`."""
    from songserve.security.token_file import change_tokens

    change_tokens(file, lambda book: book.disabled(name, disabled=True))
    print(json.dumps({"name": name, "disabled": True}) if as_json else f"disabled {name}")


@token.command()
def enable(name: Name, file: File, *, as_json: Json = False) -> None:
    """Let a disabled holder in again."""
    from songserve.security.token_file import change_tokens

    change_tokens(file, lambda book: book.disabled(name, disabled=False))
    print(json.dumps({"name": name, "disabled": False}) if as_json else f"enabled {name}")


@token.command("list")
def list_tokens(file: File, *, as_json: Json = False) -> None:
    """List holders, roles and the ids of their tokens; the tokens themselves are nowhere kept."""
    from songserve.security.token_file import read_tokens

    book = read_tokens(file)
    if as_json:
        exclude = {"holders": {"__all__": {"tokens": {"__all__": {"sha256"}}}}}
        print(book.model_dump_json(exclude=exclude))
        return
    now = datetime.now(UTC)
    table = Table("name", "role")
    add_id_column(table, "token")
    for heading in ("made", "valid until"):
        table.add_column(heading)
    for holder in sorted(book.holders, key=lambda one: one.name):
        name = f"{holder.name} (disabled)" if holder.disabled else holder.name
        for one in holder.tokens:
            until = f"{one.expires:%Y-%m-%d %H:%MZ}" if one.expires else ""
            table.add_row(
                name, holder.role, one.id, f"{one.created:%Y-%m-%d}", until if one.valid_at(now) else "expired"
            )
        if not holder.tokens:
            table.add_row(name, holder.role, "none", "", "")
    print_table(table)


def _give(file: Path, name: str, put: "Callable[[TokenBook, Token], TokenBook]", *, as_json: bool) -> None:
    import secrets

    from songserve.security.token_file import change_tokens
    from songserve.security.tokens import new_token

    text, new = new_token(secrets.token_bytes, datetime.now(UTC))
    change_tokens(file, lambda book: put(book, new))
    if as_json:
        print(json.dumps({"name": name, "id": new.id, "token": text}))
    else:
        print(text)
        Console(stderr=True).print(
            f"the token of {name}, shown this once; put it into a file of mode 0600", style="yellow"
        )
