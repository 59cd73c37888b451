"""What whoever looks after a station should hear of: a dead microphone, too much gain, a wrong clock. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from songserve.sound import Level

__all__ = ["ClockWatch", "Notice", "NoticeKind", "SoundWatch", "bundle_changed", "is_far_ahead"]

NoticeKind = Literal["silence", "sound", "clipping", "clock", "gap", "bundle_changed", "rewound"]

SILENCE_S = 5.0
CLIPPED_SHARE = 1e-3
"""Of the samples of a step; a single click is nobody's fault."""
CLIPPING_PAUSE_S = 60.0
CLOCK_OFFSET_S = 30.0
CLOCK_CHANGE_S = 10.0
CLOCK_AHEAD_S = 86_400.0
"""Nothing was captured later than this from now, whatever the zone that a clock was set to by mistake."""


@dataclass(frozen=True)
class Notice:
    """One thing worth telling; samples are those it is about, 0 of them for none."""

    kind: NoticeKind
    message: str
    start_sample: int = 0
    n_samples: int = 0
    gap_reason: str = "unspecified"
    clock_offset_s: float = 0.0


def bundle_changed(digest: str, start_sample: int) -> Notice:
    """Return that another bundle listens to a session now."""
    return Notice("bundle_changed", f"the session goes on with bundle {digest}", start_sample)


def is_far_ahead(station_s: float, server_s: float) -> bool:
    """Whether a station's time, seconds since 1970, cannot be: it lies more than a day ahead of ours."""
    return station_s > server_s + CLOCK_AHEAD_S


class SoundWatch:
    """Follows the levels of one stream: tells silence when it has lasted, its end, and clipping once a minute."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        self._constant_since: int | None = None
        self._silent = False
        self._no_clipping_before = 0

    def follow(self, levels: Iterable[Level]) -> list[Notice]:
        """Take in the levels of what was listened to and return what is worth telling."""
        notices: list[Notice] = []
        for level in levels:
            notices += self._silence(level)
            notices += self._clipping(level)
        return notices

    def _silence(self, level: Level) -> list[Notice]:
        end = level.start_sample + level.n_samples
        if level.is_constant:
            self._constant_since = level.start_sample if self._constant_since is None else self._constant_since
            n_samples = end - self._constant_since
            if self._silent or n_samples < SILENCE_S * self._rate_hz:
                return []
            self._silent = True
            text = f"no sound at all for {n_samples / self._rate_hz:.0f} s: look at microphone and cable"
            return [Notice("silence", text, self._constant_since, n_samples)]
        was_silent, self._silent, self._constant_since = self._silent, False, None
        return [Notice("sound", "sound has come back", level.start_sample, level.n_samples)] if was_silent else []

    def _clipping(self, level: Level) -> list[Notice]:
        if level.n_clipped <= CLIPPED_SHARE * level.n_samples or level.start_sample < self._no_clipping_before:
            return []
        self._no_clipping_before = level.start_sample + round(CLIPPING_PAUSE_S * self._rate_hz)
        text = f"{level.n_clipped} of {level.n_samples} samples are at full scale: turn the gain down"
        return [Notice("clipping", text, level.start_sample, level.n_samples)]


class ClockWatch:
    """Compares the station's clock with ours; tells once that it is wrong, and again when by how much changes."""

    def __init__(self) -> None:
        self._told_s = 0.0
        self._told_ahead = False

    def compare(self, station_s: float, server_s: float) -> list[Notice]:
        """Take in the time of both clocks at one moment, seconds since 1970."""
        offset_s = station_s - server_s
        if abs(offset_s) <= CLOCK_OFFSET_S:
            self._told_s = 0.0
            return []
        if abs(offset_s - self._told_s) < CLOCK_CHANGE_S:
            return []
        self._told_s = offset_s
        return [self._notice(offset_s)]

    def captured_far_ahead(self, station_s: float, server_s: float) -> list[Notice]:
        """Take in that sound was captured so far ahead; told once, as a backlog of such sound comes faster than clocks run."""
        if self._told_ahead:
            return []
        self._told_ahead = True
        return [self._notice(station_s - server_s)]

    def _notice(self, offset_s: float) -> Notice:
        behind = "ahead of" if offset_s > 0 else "behind"
        text = f"the station's clock is {abs(offset_s):.0f} s {behind} the server's"
        return Notice("clock", text, clock_offset_s=offset_s)
