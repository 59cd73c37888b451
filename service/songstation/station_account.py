"""What a field station tells of itself: counters while it runs, and one picture of how it is. Plain values."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from songstation.dialogue import ClockQuality

__all__ = ["Account", "Picture"]


@dataclass
class Account:
    """Counters since the program began."""

    captured_s: float = 0.0
    """Seconds that the device gave or lost."""
    lost_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds declared lost, by reason."""
    n_sessions: int = 0
    n_streams_failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Streams that ended before their session, by gRPC's code or our own reason."""
    n_songs: int = 0
    n_novel: int = 0
    last_chunk: datetime | None = None
    last_trouble: str = ""


@dataclass(frozen=True)
class Picture:
    """How the station is at one moment."""

    station: str
    time: datetime
    device: str
    """Empty while there is none."""
    sample_rate_hz: int
    session: str
    is_connected: bool
    refused: str
    """How the server refuses this station or one of its sessions, or why there is no token yet to show it; empty otherwise."""
    sessions_waiting: int
    """Earlier sessions that the server does not have as a whole."""
    captured_samples: int
    committed_samples: int
    waiting_samples: int
    """Of the sessions whose files are there: captured = committed + waiting, the declared losses in both."""
    waiting_s: float
    oldest_waiting: datetime | None
    spool_bytes: int
    disk_free_bytes: int
    clock: ClockQuality
    clock_offset_s: float
    """How far the wall clock is ahead of the session's samples."""
    account: Account

    def to_dict(self) -> dict[str, Any]:
        """Return it with times as text, for JSON."""
        facts = asdict(replace(self, account=replace(self.account, lost_s={}, n_streams_failed={})))
        # asdict cannot copy these kinds of dictionaries.
        account = facts["account"]
        account |= {"lost_s": dict(self.account.lost_s), "n_streams_failed": dict(self.account.n_streams_failed)}
        facts["time"] = self.time.isoformat(timespec="milliseconds")
        facts["oldest_waiting"] = self.oldest_waiting.isoformat() if self.oldest_waiting else None
        last = self.account.last_chunk
        account["last_chunk"] = last.isoformat(timespec="milliseconds") if last else None
        return facts
