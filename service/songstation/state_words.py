"""The state that a station writes, as `station status` tells it to people. Pure."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["told_fields", "verdict"]


def verdict(state: Mapping[str, Any]) -> str:
    """Return in a line how the station is: whether it runs, hears, is let in, and how much waits to be sent."""
    if not state["running"]:
        return f"not running (last seen {_time(state['time'])})"
    hears = "hears" if state["device"] else f"hears nothing: {state['account']['last_trouble'] or 'no device'}"
    waits = f"{_length(state['waiting_s'])} of sound waiting" if state["waiting_s"] else "nothing waiting"
    links = "" if state["is_connected"] else f"{_link(state)}, "
    return f"runs, {hears}, {links}{waits}"


def told_fields(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give what the station told of itself, and how it is called; what there is nothing to say of is left out."""
    yield "device", f"{state['device']}, {state['sample_rate_hz']:,} Hz" if state["device"] else "none"
    yield "server", _link(state)
    yield "session", state["session"] or "none"
    if state["sessions_waiting"]:
        yield "earlier sessions", f"{state['sessions_waiting']:,} that the server does not have as a whole"
    oldest = f", the oldest from {_time(state['oldest_waiting'])}" if state["oldest_waiting"] else ""
    yield "waiting", f"{_length(state['waiting_s'])}{oldest}" if state["waiting_s"] else "nothing"
    yield "spool", f"{_bytes(state['spool_bytes'])}, {_bytes(state['disk_free_bytes'])} free on its disk"
    yield "clock", _clock(state)
    if metrics := state.get("metrics") or state.get("metrics_trouble"):
        yield "metrics", metrics
    account = state["account"]
    lost = ", ".join(f"{_length(lost_s)} by {reason}" for reason, lost_s in account["lost_s"].items())
    failed = ", ".join(f"{n:,} by {reason}" for reason, n in account["n_streams_failed"].items())
    yield "since its start", f"{_length(account['captured_s'])} captured, of which lost: {lost or 'nothing'}"
    yield "", f"{account['n_songs']:,} songs, {account['n_novel']:,} of them novel; {account['n_sessions']:,} sessions"
    if failed:
        yield "", f"streams that failed: {failed}"
    if account["last_chunk"]:
        yield "last sound", _time(account["last_chunk"])
    if account["last_trouble"]:
        yield "last trouble", account["last_trouble"]


def _link(state: Mapping[str, Any]) -> str:
    if state["is_connected"]:
        return "connected"
    return f"not let in: {state['refused']}" if state["refused"] else "not connected"


def _clock(state: Mapping[str, Any]) -> str:
    clock = state["clock"]
    said = "unknown" if clock["source"] == "unspecified" else clock["source"]
    within = "" if clock["error_s"] is None else f", within {clock['error_s']:.3g} s"
    return f"{said}{within}; {state['clock_offset_s']:+.3f} s from its samples"


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"
