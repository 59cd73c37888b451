"""What was done with the bundles of a server, and what follows: which one is active, and how each of them stands. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BundleEvent", "EventKind", "History", "State"]

EventKind = Literal["started", "validated", "activated", "rolled_back", "failed", "shadowed"]
State = Literal["staged", "validating", "ready", "active", "draining", "retired", "failed"]

_SERVING = ("started", "activated", "rolled_back")


@dataclass(frozen=True)
class BundleEvent:
    """One thing that was done with a bundle."""

    shelf: str
    """Uuid of the server's data directory."""
    time_ms: int
    """UTC, milliseconds since 1970."""
    kind: EventKind
    bundle: str
    """Digest."""
    who: str = ""
    """Who asked; empty where callers need no credentials."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What followed, as JSON: of validated ``findings``, of failed ``reason`` and ``message``."""
    seq: int = 0
    """Order of the store; filled in when it is there."""


class History:
    """Follows the events of one server, oldest first."""

    def __init__(self, events: Iterable[BundleEvent] = ()) -> None:
        self._stack: list[BundleEvent] = []  # of the bundles that can be rolled back to; the last is active
        self._newest: dict[str, BundleEvent] = {}
        self._served = set[str]()
        self._started = ""
        self._serving_seq = 0
        for event in events:
            self.add(event)

    def add(self, event: BundleEvent) -> None:
        """Take note of an event that the store has."""
        if event.kind == "shadowed":
            return
        self._newest[event.bundle] = event
        if event.kind not in _SERVING:
            return
        if event.kind == "started":
            self._started = event.bundle
        if event.kind == "rolled_back":
            self._stack.pop()
            self._stack[-1:] = [event]
        elif event.bundle != self.active:
            self._stack.append(event)
        self._served.add(event.bundle)
        self._serving_seq = event.seq

    @property
    def active(self) -> str:
        """Digest of the bundle that serves; empty before anything was done."""
        return self._stack[-1].bundle if self._stack else ""

    @property
    def active_since_ms(self) -> int:
        """Since when it does."""
        return self._stack[-1].time_ms if self._stack else 0

    @property
    def before(self) -> str:
        """Digest of the bundle that a rollback leads to; empty for none."""
        return self._stack[-2].bundle if len(self._stack) > 1 else ""

    @property
    def started(self) -> str:
        """Digest of the bundle that the server was last given by hand when it started; empty for none."""
        return self._started

    @property
    def known(self) -> frozenset[str]:
        """Digests of all bundles that something was done with."""
        return frozenset(self._newest)

    def findings(self, digest: str) -> list[dict[str, Any]]:
        """Return what stood in a bundle's way when it was last looked at."""
        event = self._newest.get(digest)
        return list(event.detail.get("findings", ())) if event and event.kind in {"validated", "failed"} else []

    def state(self, digest: str, *, validating: bool = False, draining: bool = False) -> State:
        """Return how a bundle stands, given what goes on with it now."""
        if digest == self.active:
            return "active"
        if validating:
            return "validating"
        if draining:
            return "draining"
        event = self._newest.get(digest)
        if event is None:
            return "staged"
        if event.kind in _SERVING:
            return "retired"
        return "failed" if event.kind == "failed" or event.detail.get("findings") else "ready"

    def was_active(self, digest: str) -> bool:
        """Whether a bundle can be rolled back to, at once or later, or serves."""
        return any(event.bundle == digest for event in self._stack)

    def was_served(self, digest: str) -> bool:
        """Whether a bundle was ever active."""
        return digest in self._served

    def etag(self, digest: str) -> str:
        """Return what changes whenever the bundle or the active one does."""
        own = self._newest.get(digest)
        return f"{self._serving_seq}.{own.seq if own else 0}"
