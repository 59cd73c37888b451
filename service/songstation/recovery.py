"""What a station does when a stream ends before its session does. Pure: the random numbers are an argument."""

from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random

__all__ = ["Action", "Backoff", "Failure", "action_for", "asking_delay_s"]

_SPREAD = 0.2
"""Of the delay after a refusal: stations that were shut out together do not come back together."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a stream ended: gRPC's code by name, and the server's reason for it if it gave one."""

    code: str
    reason: str = ""
    message: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_s: float = 0.0
    """The server's wish."""

    def __str__(self) -> str:
        return f"{self.message or 'no answer'} [{self.reason or self.code}]"


class Action(Enum):
    """What to do next."""

    RETRY = auto()
    """Wait, then resume the session: time may heal it."""
    REWIND = auto()
    """Resume the session at once from where the server says; after a wait, if it has not moved since the last time."""
    RESEND = auto()
    """Resume the session; should the same chunk be refused again, declare it lost."""
    RETAKE = auto()
    """Resume the session at once; should it be taken over again soon, somebody else does it: stop."""
    NEW_SESSION = auto()
    """Put what is held into a new session."""
    ASK_LATER = auto()
    """The station is not let in until somebody changes that, here or there: wait long, then resume the session."""
    STOP = auto()
    """The setup is wrong, and sending it again cannot help."""


_BY_REASON = {
    "SEQUENCE_GAP": Action.REWIND,
    "CHUNK_CORRUPT": Action.RESEND,
    "SEQUENCE_REUSED": Action.NEW_SESSION,
    "SESSION_FINISHED": Action.NEW_SESSION,
    "FORMAT_CHANGED": Action.NEW_SESSION,
    "FINISH_MISMATCH": Action.NEW_SESSION,
    "GAP_TOO_LONG": Action.NEW_SESSION,
    "SESSION_BROKEN": Action.NEW_SESSION,
    "WRITER_FENCED": Action.RETAKE,
    "MESSAGE_TOO_LARGE": Action.STOP,
}
# By code where the reason is unknown: the caller is not let in, or the request itself is wrong. All other codes, those of
# tomorrow too, are worth another try soon.
_BY_CODE = {
    "UNAUTHENTICATED": Action.ASK_LATER,
    "PERMISSION_DENIED": Action.ASK_LATER,
    "INVALID_ARGUMENT": Action.STOP,
    "FAILED_PRECONDITION": Action.STOP,
    "ABORTED": Action.STOP,
}


def action_for(failure: Failure) -> Action:
    """Return what to do about a stream that failed; reason goes before code."""
    return _BY_REASON.get(failure.reason) or _BY_CODE.get(failure.code, Action.RETRY)


def asking_delay_s(rng: Random, about_s: float) -> float:
    """Return how long to wait before a server that refuses is asked again: about so long, a fifth more or less."""
    return about_s * rng.uniform(1 - _SPREAD, 1 + _SPREAD)


class Backoff:
    """Delays that grow, with full jitter, so that three hundred stations do not come back all at once.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/, "full jitter".
    """

    def __init__(self, rng: Random, *, first_s: float = 1.0, longest_s: float = 120.0) -> None:
        self._rng, self._first_s, self._longest_s = rng, first_s, longest_s
        self._n_failures = 0

    def reset(self) -> None:
        """Begin again with the shortest delays: the server has committed something."""
        self._n_failures = 0

    def next_delay_s(self, at_least_s: float = 0.0) -> float:
        """Return how long to wait before the next try; the server's own wish comes on top, up to the longest delay."""
        # Above 2^30 the bound has long been reached, and the power would overflow some day.
        bound_s = min(self._longest_s, self._first_s * 2 ** min(self._n_failures, 30))
        self._n_failures += 1
        return min(at_least_s, self._longest_s) + self._rng.uniform(0, bound_s)
