"""Who listens, to what, and how patiently: what a field station is told once, when it starts."""

from dataclasses import dataclass

from songstation.link import LinkSettings

__all__ = ["StationPlan"]


@dataclass(frozen=True)
class StationPlan:
    """Who listens, and how patiently."""

    name: str
    client: str
    link: LinkSettings
    encoding: str = "linear16"
    chunk_s: float = 0.5
    """Of the source; what a torn record is estimated by when nothing of its header is left."""
    outage_s: float = 30.0
    """After a longer outage a new session begins, and what was heard meanwhile follows beside it."""
    clock_limit_s: float = 2.0
    """When the wall clock is further than this from the session's samples, a new session begins with the right time."""
    device_retry_s: float = 5.0
    device_answer_s: float = 60.0
    """A sound system that takes longer to open the device is stuck."""
    stop_grace_s: float = 10.0
    """So long the rest may take that is to be sent when the station is stopped."""
