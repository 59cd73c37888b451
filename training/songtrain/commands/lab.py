"""``songstream lab``: compare systems on the same songs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from songtrain.commands.lab_run import run
from songtrain.commands.lab_sweep import sweep

__all__ = ["lab"]

lab = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compare ways of finding song types on the same songs and seeds.",
)
lab.command()(run)
lab.command()(sweep)


@lab.command("list")
def list_systems(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print the file that declares them.")] = False,
) -> None:
    """Print the systems: where they come from, and the parts that they are made of."""
    from songtrain.lab.systems import SYSTEMS, shipped_declarations

    if as_toml:
        print(shipped_declarations(), end="")
        return
    if as_json:
        lines = [{"name": s.name, "source": s.source, "parts": s.chain, "note": s.note} for s in SYSTEMS.values()]
        print(json.dumps(lines))
        return
    for system in SYSTEMS.values():
        print(f"{system.name:18} {system.chain}\n{'':18} {system.source}{'; ' if system.note else ''}{system.note}")


@lab.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder of a `songstream lab run`.")],
    system: Annotated[str | None, typer.Option(help="System to show in detail; the best if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it is as one JSON line.")] = False,
) -> None:
    """Write report.html anew from the results in a folder."""
    from datetime import UTC, datetime

    from songtrain.lab.report import write_lab_report

    path = write_lab_report(out, datetime.now(UTC).replace(microsecond=0), system)
    print(json.dumps({"report": str(path)}) if as_json else path)
