"""JSON as commands print it: for programs, a value on a line."""

import json
from datetime import datetime
from typing import Any

__all__ = ["plain_json", "print_json"]


def plain_json(value: Any, *, sort_keys: bool = False) -> str:
    """Return a value as JSON on one line, times to the millisecond, and numbers without what arithmetic left of noise."""
    return json.dumps(_tidy(value), sort_keys=sort_keys)


def print_json(value: Any, *, sort_keys: bool = False) -> None:
    """Print a value as JSON on one line."""
    print(plain_json(value, sort_keys=sort_keys))


def _tidy(value: Any) -> Any:
    match value:
        case dict():
            return {key: _tidy(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_tidy(inner) for inner in value]
        case float():
            # 7.904000000000011 is 7.904; twelve digits tell the samples of a year apart.
            return float(f"{value:.12g}")
        case datetime():
            return value.isoformat(timespec="milliseconds")
    return value
