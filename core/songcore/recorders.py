"""What recorders say about their recordings."""

import re
from datetime import UTC, datetime

__all__ = ["start_time_in_name"]

# AudioMoth's own names only, which are UTC; names with a prefix (Song Meter) are in the recorder's local time. The T
# marks a recording started by a trigger.
_AUDIOMOTH = re.compile(r"(\d{8}_\d{6})T?\.wav", re.IGNORECASE)


def start_time_in_name(name: str) -> datetime | None:
    """Return the UTC time of the first sample that an AudioMoth file name, ``YYYYMMDD_HHMMSS.WAV``, states, or None."""
    match = _AUDIOMOTH.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
