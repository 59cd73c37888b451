"""What stations, people, runs and bundles may be called: what fits a URL, a file, a metric's label and a line of a log."""

import re

__all__ = ["BUNDLE_NAME", "NAME", "is_name"]

NAME = r"[a-z0-9][a-z0-9-]{0,62}"
"""Of a station, of whoever holds a token, of a reclustering; at most as long as a label of the DNS."""

BUNDLE_NAME = r"[a-z0-9][a-z0-9.-]{0,62}"
"""The same with dots, as in versions."""


def is_name(text: str) -> bool:
    """Return whether the whole text is a `NAME`."""
    return re.fullmatch(NAME, text) is not None
