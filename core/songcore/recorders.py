"""What recorders say about when their recordings began: in the file's header, in GUANO metadata, in the file's name.

A time is a datetime; without a time zone (naive) it is local time of a zone that the recorder does not tell.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import BinaryIO
from zoneinfo import ZoneInfo

__all__ = ["is_skipped", "read_guano", "read_timezone", "stated_start", "utc_start"]

# The T marks a recording started by a trigger. These names are UTC, and of no other recorder.
_AUDIOMOTH = re.compile(r"(\d{8})_(\d{6})T?\.wav", re.IGNORECASE)
# Song Meters and the like: PREFIX_YYYYMMDD_HHMMSS, in the recorder's local time unless an offset follows.
_LOCAL = re.compile(r"(?:.*[_ -])?(\d{8})[_T](\d{6})(Z|[+-]\d{2}:?\d{2})?\.\w+", re.IGNORECASE | re.ASCII)
# Day before month.
_COMMENT = re.compile(
    r"Recorded at (\d{2}:\d{2}:\d{2})(?:\.\d+)? (\d{2}/\d{2}/\d{4}) \(UTC(?:([+-]\d{1,2})(?::(\d{2}))?)?\)", re.ASCII
)
_GUANO_TIME = re.compile(
    r"^Timestamp:\s*(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,6})\d*)?\s*(Z|[+-]\d{2}:?\d{2})?\s*$",
    re.IGNORECASE | re.MULTILINE | re.ASCII,
)
_OFFSET = re.compile(r"([+-])(\d{1,2}):?(\d{2})", re.ASCII)
_YEARS = range(1970, 2200)
"""Others are no recording's, and sums with them could leave the calendar."""

MAX_CHUNKS = 100
MAX_GUANO_BYTES = 65_536
"""Of a WAV file, how much is looked at for GUANO metadata, whatever its header says."""


def stated_start(name: str, *, comment: str = "", guano: str = "") -> datetime | None:
    """Return when a recording began: AudioMoth's comment before GUANO metadata before the file's name, or None.

    One that tells its zone goes before one that does not, whose time is returned naive when no other is there.
    """
    found = [time for time in (_comment_time(comment), _guano_time(guano), _name_time(name)) if time is not None]
    return next((time for time in found if time.tzinfo is not None), found[0] if found else None)


def utc_start(start: datetime | None, zone: tzinfo | None) -> datetime | None:
    """Return a stated start in UTC, a naive one as local time of ``zone``; None where that is not known.

    Of an hour that the clocks of the zone go through twice, the first is meant; one that they skip counts as if they had not
    gone forward yet.
    """
    if start is None or (start.tzinfo is None and zone is None):
        return None
    return (start if start.tzinfo is not None else start.replace(tzinfo=zone)).astimezone(UTC)


def is_skipped(start: datetime | None, zone: tzinfo | None) -> bool:
    """Return whether a stated start is a local time that the clocks of ``zone`` skip, as they go forward to summer time.

    A clock that shows such a time does not follow the zone: while summer time lasts, what it says of others is wrong as well.
    """
    if start is None or zone is None or start.tzinfo is not None:
        return False
    return start.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) != start


def read_timezone(text: str) -> tzinfo:
    """Return the zone of an IANA name (``Europe/Berlin``), of an offset (``+02:00``), or UTC (``Z``); raises ValueError."""
    try:
        return _offset(text) or ZoneInfo(text)
    except (ValueError, OSError, LookupError):  # the last is ZoneInfoNotFoundError
        raise ValueError(
            f"{text!r} is no time zone of this machine; expected a name such as Europe/Berlin, or an offset such as +02:00"
        ) from None


def read_guano(file: BinaryIO) -> str:
    """Return the GUANO metadata of a seekable WAV file, empty where there is none or it cannot be found.

    Reads no more than `MAX_CHUNKS` headers and `MAX_GUANO_BYTES`, whatever sizes the file claims. Raises OSError.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return ""
    position = len(head)
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        size = int.from_bytes(header[4:], "little")
        if header[:4] == b"guan":
            return file.read(min(size, MAX_GUANO_BYTES)).decode("utf-8", "replace")
        position += 8 + size + size % 2
    return ""


def _comment_time(comment: str) -> datetime | None:
    match = _COMMENT.search(comment)
    if match is None:
        return None
    time, day, hours, minutes = match.groups()
    return _time(f"{day} {time}", "%d/%m/%Y %H:%M:%S", f"{hours}:{minutes or '00'}" if hours else "Z")


def _guano_time(guano: str) -> datetime | None:
    match = _GUANO_TIME.search(guano)
    if match is None:
        return None
    day, time, fraction, offset = match.groups()
    return _time(f"{day} {time}.{fraction or '0'}", "%Y-%m-%d %H:%M:%S.%f", offset)


def _name_time(name: str) -> datetime | None:
    name = name.rpartition("/")[2]
    if match := _AUDIOMOTH.fullmatch(name):
        return _time(match[1] + match[2], "%Y%m%d%H%M%S", "Z")
    # Names are short; what comes with a longer one is not searched.
    match = _LOCAL.fullmatch(name[-300:])
    return _time(match[1] + match[2], "%Y%m%d%H%M%S", match[3]) if match else None


def _time(text: str, form: str, offset: str | None) -> datetime | None:
    """Return the time, naive without an offset; None for one that is none."""
    try:
        time = datetime.strptime(text, form).replace(tzinfo=_offset(offset) if offset else None)
    except ValueError:
        return None
    return time if time.year in _YEARS else None


def _offset(text: str) -> timezone | None:
    """Return the zone of an offset; None for what is no offset, ValueError for one of a day or more."""
    if text.upper() == "Z":
        return UTC
    match = _OFFSET.fullmatch(text)
    if match is None:
        return None
    if int(match[3]) >= 60:
        raise ValueError(f"offset {text} has {match[3]} minutes")
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)
