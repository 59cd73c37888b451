"""What the kernel knows about its clock: whether something keeps it on time, and how far it may be off."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, get_args

from songcore.errors import ConfigError
from songstation.dialogue import ClockQuality

__all__ = ["ClockSetting", "Timex", "clock_quality", "read_kernel"]

ClockSetting = Literal["auto", "unsynced", "rtc", "ntp", "gnss"]
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


class Timex(ctypes.Structure):
    """The beginning of struct timex, adjtimex(2), and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def read_kernel(timex: Timex) -> int | None:
    """Fill the structure by adjtimex(2) and return what that returns, None where the system has no such call."""
    call = _adjtimex()
    return None if call is None else int(call(ctypes.byref(timex)))


@cache
def _adjtimex() -> Any:
    """Return the C library's call, or None where it has none: no Linux.

    Looked for once, in what this program has loaded already: `ctypes.util.find_library` starts other programs each time.
    """
    return getattr(ctypes.CDLL(None), "adjtimex", None)


def clock_quality(setting: ClockSetting, read: Callable[[Timex], int | None] = read_kernel) -> ClockQuality:
    """Return what sets the clock and its greatest error; ``auto`` tells a clock that is kept on time from one that is not.

    The kernel cannot tell what keeps it on time (then ``ntp``), so a station with a GNSS receiver says so by its setting.
    """
    if setting not in get_args(ClockSetting):
        raise ConfigError(f"clock {setting!r}; expected one of {', '.join(get_args(ClockSetting))}")
    told = _kernel(read)
    is_synced, error_s = told or (False, None)
    if setting != "auto":
        return ClockQuality(setting, error_s if is_synced else None)
    if told is None:
        return ClockQuality("unspecified", None)
    return ClockQuality("ntp", error_s) if is_synced else ClockQuality("unsynced", None)


def _kernel(read: Callable[[Timex], int | None]) -> tuple[bool, float] | None:
    """Return whether the clock is kept on time and its greatest error, or None where the kernel does not say."""
    timex = Timex()
    state = read(timex)
    if state is None or state < 0:
        return None
    is_synced = state != _TIME_ERROR and not timex.status & _STA_UNSYNC
    return is_synced, timex.maxerror / 1e6
