"""How values are written into cells of tables. Pure."""

from datetime import datetime

__all__ = ["NOVEL", "cell", "utc"]

NOVEL = "novel"
"""Label of a song that is like nothing the bundle knows; its nearest type is in the other columns."""


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
