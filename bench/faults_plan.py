"""What one seed does to server and station: drawn once, the same every time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

__all__ = ["KINDS", "Fault", "Plan", "draw"]

KINDS = {
    "reset": "the connection is reset at a random byte",
    "link_down": "no connection for a while",
    "stall": "every byte waits for a while",
    "black_hole": "bytes disappear, and nobody is told",
    "slow_link": "bandwidth, latency and small pieces",
    "lost_acks": "what the server says disappears, what the station says arrives",
    "kill_server": "SIGKILL, and a new process on the same data",
    "kill_station": "SIGKILL, and a new process on the same spool",
    "drain_server": "SIGTERM, and a new process on the same data",
    "freeze_server": "SIGSTOP for a while",
    "server_disk_full": "the file system of the data directory is full for a while",
    "station_disk_full": "the file system of the spool is full for a while",
    "disk_full_kill": "SIGKILL of the station while the file system of its spool is full, for a second or two by then",
    "torn_record": "SIGKILL of the station, the end of its newest file torn off",
    "flipped_record": "a bit of a record that the server does not have is flipped",
    "clock_step": "the station's wall clock is set, forward or back",
}
_RATE_HZ = 48_000


@dataclass(frozen=True)
class Fault:
    """One of `KINDS`, begun when so many seconds of sound were given to the station."""

    kind: str
    at_s: float
    lasts_s: float
    """Of the wall clock, before it is healed."""
    size: float
    """From 0 to 1: how many bytes, how far back, how little room."""


@dataclass(frozen=True)
class Plan:
    """All that differs between seeds."""

    seed: int
    songs: tuple[int, ...]
    speed: float
    """Of the sound that is given to the station."""
    chunk_s: float
    encoding: str
    station: Mapping[str, float] = field(default_factory=dict)
    """Settings of the station."""
    server: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    rate_hz: int = _RATE_HZ

    @property
    def station_name(self) -> str:
        """Each seed has its own."""
        return f"seed-{self.seed}"


def draw(seed: int, kinds: list[str], n_songs: int = 8) -> Plan:
    """Return the plan of a seed: two to four faults, one of them by turns so that each kind gets its share."""
    rng = Random(seed)  # noqa: S311 - a seed, no secret
    wanted = [kinds[seed % len(kinds)], *rng.choices(kinds, k=rng.randint(1, 3))]
    # A song of 1.2 s and the pause behind it are about 2.5 s.
    faults = sorted(
        (Fault(kind, rng.uniform(0.5, 2.4 * n_songs), rng.uniform(0.1, 1.2), rng.random()) for kind in wanted),
        key=lambda fault: fault.at_s,
    )
    return Plan(
        seed,
        songs=tuple(rng.randrange(6) for _ in range(n_songs)),
        speed=rng.choice([5.0, 8.0]),
        chunk_s=rng.choice([0.1, 0.25, 0.5]),
        encoding=rng.choice(["linear16", "linear16", "flac"]),
        station={"outage_s": rng.choice([0.5, 30.0]), "grace_s": rng.choice([0.0, 900.0])},
        server={
            "commit_interval_s": rng.choice([0.5, 2.0]),
            "lease_s": rng.choice([0.0, 0.0, 1.5]),
            "max_in_flight_chunks": rng.choice([4, 64]),
            "min_free_disk_mb": rng.choice([0, 4]),
        },
        faults=tuple(faults),
    )
