"""What commands that ask about songs check of the stations and times they are asked for, and how they say what is wrong."""

from collections.abc import Collection, Iterable
from datetime import datetime

import typer

__all__ = ["check_interval", "unheard"]


def check_interval(start: datetime | None, end: datetime | None) -> None:
    """Raise typer.BadParameter where --from is not before --to; None is no bound, times are UTC."""
    if start and end and start >= end:
        raise typer.BadParameter(f"--from {start:%Y-%m-%dT%H:%M:%SZ} is not before --to {end:%Y-%m-%dT%H:%M:%SZ}")


def unheard(asked: Iterable[str], known: Collection[str], *, where: str) -> str:
    """Return what to say of the first station asked for that is not ``known``; empty when there is none such.

    ``where`` is what knows them: the server, or the store.
    """
    missing = next((name for name in asked if name not in known), None)
    there = ", ".join(sorted(known)) or "no station yet"
    return "" if missing is None else f"the {where} has nothing of a station {missing!r}; it has heard {there}"
