"""What one station may take of the server: streams, sound for each second, sessions a day. Pure: the time is an argument."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from songserve.refusal import Refusal

__all__ = ["Budget", "StationLimits", "StationShares"]

DAY_S = 86_400
N_REMEMBERED = 1024
"""Stations without a stream whose budgets are kept; beyond, those that have saved all up again are forgotten."""


@dataclass(frozen=True)
class StationShares:
    """The limits of one station; 0 for none."""

    n_streams: int = 0
    live_speed: float = 0.0
    """Seconds of sound for each second, in the long run."""
    backfill_speed: float = 0.0
    burst_s: float = 0.0
    """Seconds of sound that may come at once after a quiet time."""
    n_sessions_per_day: int = 0
    """New ones: so many may come at once after a quiet day, and as many in the course of each day."""


class Budget:
    """What may come: grows with time, is spent by what comes (a token bucket), and says how long to wait for more.

    Of sound it counts seconds and not bytes, so that it means the same for each format.
    """

    def __init__(self, speed: float, burst: float) -> None:
        self._speed, self._burst = speed, burst
        self._saved, self._at = burst, float("-inf")

    def spend(self, amount: float, now: float) -> float:
        """Take off what came; return the seconds until the next may come, 0 while something is left or without a limit."""
        if self._speed == 0:
            return 0.0
        self._refill(now)
        self._saved -= amount
        return max(0.0, -self._saved / self._speed)

    def holds(self, amount: float, now: float) -> bool:
        """Whether so much is left, as it always is without a limit."""
        self._refill(now)
        return self._speed == 0 or self._saved >= amount

    def full(self, now: float) -> bool:
        """Whether it is as a new one."""
        self._refill(now)
        return self._saved == self._burst

    def _refill(self, now: float) -> None:
        if self._speed:
            self._saved = min(self._burst, self._saved + self._speed * max(0.0, now - self._at))
            self._at = max(self._at, now)


@dataclass
class _Station:
    budgets: dict[str, Budget]
    new_sessions: Budget
    sessions: Counter[UUID] = field(default_factory=Counter)


class StationLimits:
    """Counts the streams, the sound and the sessions of each station."""

    def __init__(self, shares: StationShares | None = None) -> None:
        self.shares = shares or StationShares()
        self._stations: dict[str, _Station] = {}

    @contextmanager
    def streaming(self, station: str, session: UUID, now: float) -> Iterator[None]:
        """Count a stream while it lasts; raises Refusal STREAM_LIMIT when the station has as many sessions as it may.

        Another stream of the same session takes the place of the first, which is fenced off.
        """
        known = self._station(station, now)
        others = sum(uuid != session for uuid in known.sessions)
        if self.shares.n_streams and others >= self.shares.n_streams:
            raise Refusal(
                f"{station} streams {others} sessions, the most that a station may at once; finish one",
                reason="STREAM_LIMIT",
            )
        known.sessions[session] += 1
        try:
            yield
        finally:
            known.sessions[session] -= 1
            if not known.sessions[session]:
                del known.sessions[session]

    def may_begin_session(self, station: str, now: float) -> bool:
        """Whether the station may begin a new session."""
        return self._station(station, now).new_sessions.holds(1, now)

    def session_begun(self, station: str, now: float) -> None:
        """Count a new session."""
        self._station(station, now).new_sessions.spend(1, now)

    def budget(self, station: str, lane: str, now: float) -> Budget:
        """Return what all streams of a station in a lane share."""
        return self._station(station, now).budgets[lane]

    def _station(self, name: str, now: float) -> _Station:
        if name not in self._stations:
            if len(self._stations) >= N_REMEMBERED:
                self._forget(now)
            speeds = {"live": self.shares.live_speed, "backfill": self.shares.backfill_speed}
            budgets = {lane: Budget(speed, self.shares.burst_s) for lane, speed in speeds.items()}
            n_sessions = self.shares.n_sessions_per_day
            self._stations[name] = _Station(budgets, Budget(n_sessions / DAY_S, n_sessions))
        return self._stations[name]

    def _forget(self, now: float) -> None:
        self._stations = {
            name: station
            for name, station in self._stations.items()
            if station.sessions
            or not all(budget.full(now) for budget in (station.new_sessions, *station.budgets.values()))
        }
