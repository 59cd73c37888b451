"""``songstream station``: looking after the program of a recorder in the field; `run` is that program."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from songcore.errors import ConfigError, InputError
from songcore.printed_tables import add_id_column, add_number_columns, print_fields, print_table
from songstation.commands.station_run import STATE_FILE, run

__all__ = ["station"]

station = typer.Typer(
    name="station",
    help="Run a recorder in the field: everything it hears reaches the server, or is declared lost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
spool = typer.Typer(
    help="Look at the sound that a station keeps, take it out as recordings, repair it.", no_args_is_help=True
)
token = typer.Typer(help="The token by which the server knows this station.", no_args_is_help=True)
station.add_typer(spool, name="spool")
station.add_typer(token, name="token")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SpoolDirectory = Annotated[
    Path, typer.Option("--spool", envvar="SONGSTREAM_STATION_SPOOL", help="Directory of the spool.")
]

station.command()(run)


@station.command()
def status(
    spool_dir: SpoolDirectory = Path("/var/lib/songstream-station"),
    *,
    as_json: Json = False,
) -> None:
    """Say how the station on this machine is, from the state that it writes every two seconds.

    The first line is the verdict. Exit status: 0 it runs and has a device; 1 not so.
    """
    from songstation.spool_files import is_locked
    from songstation.state_words import told_fields, verdict

    path = spool_dir / STATE_FILE
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no station has written {path} ({getattr(error, 'strerror', None) or error}); name the spool of `station run` by "
            "--spool",
            reason="STATE_MISSING",
        ) from error
    state["running"] = is_locked(spool_dir)
    if as_json:
        print(json.dumps(state))
    else:
        print(f"station {state['station']}: {verdict(state)}")
        print_fields(told_fields(state))
    if not (state["running"] and state["device"]):
        raise typer.Exit(1)


@spool.command("list")
def list_sessions(
    spool_dir: SpoolDirectory = Path("/var/lib/songstream-station"),
    *,
    as_json: Json = False,
) -> None:
    """List the sessions whose sound is here; also beside a station that runs."""
    from songstation.spool_export import listed

    sessions = listed(spool_dir)
    if as_json:
        print(json.dumps([{**asdict(one), "start": one.start.isoformat()} for one in sessions]))
        return
    table = Table()
    add_id_column(table, "session")
    table.add_column("from (UTC)")
    add_number_columns(table, "rate, Hz", "seconds", "lost", "committed", "MB")
    for one in sessions:
        row = (f"{one.seconds:.1f}", f"{one.lost_s:.1f}", f"{one.committed_s:.1f}", f"{one.n_bytes / 1e6:.1f}")
        table.add_row(one.session, f"{one.start:%Y-%m-%d %H:%M:%S}", str(one.sample_rate_hz), *row)
    print_table(table)


@spool.command()
def export(
    session: Annotated[str, typer.Argument(help="Session by its UUID, as `list` names it, or `all`.")],
    to: Annotated[Path, typer.Option(help="Directory for the recordings.")] = Path(),
    spool_dir: SpoolDirectory = Path("/var/lib/songstream-station"),
    file_format: Annotated[Literal["wav", "flac"], typer.Option("--format", help="Of the recordings.")] = "flac",
    *,
    as_json: Json = False,
) -> None:
    """Write sessions as recordings named by their start, silence where sound was lost; the spool stays as it is.

    For a card that is brought home from a station without a network.
    """
    from songstation.spool_export import export as export_session
    from songstation.spool_export import listed

    names = [one.session for one in listed(spool_dir)] if session == "all" else [session]
    if not names:
        raise InputError(f"the spool {spool_dir} is empty", reason="SESSION_MISSING")
    for name in names:
        path = export_session(spool_dir, name, to, file_format)
        # Each as soon as it is there: hours of sound take minutes.
        print(json.dumps({"session": name, "file": str(path)}) if as_json else path, flush=True)


@spool.command()
def repair(
    spool_dir: SpoolDirectory = Path("/var/lib/songstream-station"),
    *,
    as_json: Json = False,
) -> None:
    """Cut the torn end off a spool after a crash and write down what was lost; `run` does the same when it starts."""
    from songstation.spool import Spool
    from songstation.spool_export import require_spool
    from songstation.spool_index import SpoolLimits

    require_spool(spool_dir)
    opened = Spool(spool_dir, SpoolLimits(2**62, grace_s=float("inf")), now_s=lambda: 0.0)
    opened.close()
    n_files, n_repaired = len(opened.index.segments), opened.n_repaired
    told = json.dumps({"n_files": n_files, "n_repaired": n_repaired})
    print(told if as_json else f"{n_files} files, {n_repaired} repaired")


@token.command("set")
def set_token(
    file: Annotated[Path, typer.Option("--file", envvar="SONGSTREAM_STATION_TOKEN_FILE", help="Where to keep it.")],
    *,
    as_json: Json = False,
) -> None:
    """Read the token from standard input, where no list of processes shows it, into a file that only this user reads.

    A station that runs takes the new token with its next stream.
    """
    from songcore.durable import replace_file

    text = sys.stdin.readline().strip()
    if not 0 < len(text) <= 1024 or not text.isascii() or not text.isprintable() or " " in text:
        raise InputError(
            "no token on standard input; expected the line that `songstream token add` printed",
            reason="TOKEN_UNREADABLE",
        )
    try:
        replace_file(file, f"{text}\n".encode())
    except OSError as error:
        raise ConfigError(
            f"the token file {file} cannot be written ({error.strerror}); its folder has to be there and to be this user's",
            reason="TOKENS_UNWRITABLE",
        ) from error
    if as_json:
        print(json.dumps({"file": str(file)}))
        return
    Console(stderr=True).print(f"the token is in {file}", style="green", markup=False)
