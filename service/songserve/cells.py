"""Which formats of tables are asked for, and how values are written into their cells. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime

__all__ = ["NOVEL", "cell", "chosen_formats", "utc"]

NOVEL = "novel"
"""Label of a song that is like nothing the bundle knows; its nearest type is in the other columns."""


def chosen_formats(given: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return the formats that texts name, separated by commas, in lower case and each once.

    Raises ValueError for one that is not among ``known``, and for none.
    """
    chosen = [name.strip().lower() for text in given for name in text.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"unknown format {', '.join(unknown)!r}; expected any of {', '.join(known)}")
    if not chosen:
        raise ValueError(f"no format is named; expected any of {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def cell(value: object) -> str:
    """Return a value as text; None is empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, datetime):
        return utc(value)
    return "" if value is None else str(value)


def utc(time: datetime) -> str:
    """Return a UTC time to the millisecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"
