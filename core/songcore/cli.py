"""The ``songstream`` command: finds the sub-commands that the installed packages contribute, and loads one when asked."""

import json
import os
import sys
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from songcore.errors import SongError

__all__ = ["main"]

GROUP = "songstream.commands"


class _Commands(TyperGroup):
    """Sub-commands from entry points, so that no package needs to import another to be reachable."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature is click's
        return sorted(entry.name for entry in entry_points(group=GROUP))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # Among these the group looks for those that were meant by a name that is none.
        names: Any = dict.fromkeys(self.list_commands(ctx))
        self.commands = names
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the signature is click's
        for entry in entry_points(group=GROUP):
            if entry.name == cmd_name:
                return _load(entry)
        return None


def _load(entry: EntryPoint) -> Any:
    loaded = entry.load()
    if isinstance(loaded, typer.Typer):
        command: Any = typer.main.get_group(loaded)
    else:
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        single.command(entry.name)(loaded)
        command = typer.main.get_command(single)
    command.name = entry.name
    return command


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode="markdown",  # docstrings are prose: lines reflow
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hear birds, cut the sound into songs, name the song types, and keep the catalogue alive.",
)


@app.callback(invoke_without_command=True)
def _root(
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: as one JSON object.")] = False,
) -> None:
    """Hear birds, cut the sound into songs, name the song types, and keep the catalogue alive."""
    if show_version:
        number = version("songstream")
        print(json.dumps({"version": number}) if as_json else f"songstream {number}")
        raise typer.Exit
    if as_json:
        raise typer.BadParameter("--json here goes with --version; a command's own stands behind its name")


def main() -> None:
    """Run the command line; a known error is one line on standard error and exit code 1."""
    # What gRPC writes of its own comes beside the one line that says the same, and for each stranger at a server's port. It
    # is read when gRPC is imported, which no module does before a command is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A forked process, as those that Ray starts are before they become another program, would start gRPC's threads again,
    # which can crash it before it is one.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        app()
    except SongError as error:
        # Libraries' messages, which some of ours contain, may have several lines.
        print(f"songstream: {' '.join(str(error).split())} [{error.reason}]", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        print(
            f"songstream: this command needs the package {error.name!r}, which is not installed; "
            "install songstream[service], or songstream[training] for the training commands",
            file=sys.stderr,
        )
        sys.exit(1)
