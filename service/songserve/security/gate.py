"""Decides about a call, from its method and the caller's credentials. Pure but for the token file."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime

from songserve.refusal import Refusal
from songserve.security.roles import Role, roles_of
from songserve.security.token_file import TokenFile

__all__ = ["Caller", "Gate", "caller", "require_station"]

_SCHEME = "bearer "
_MAX_AUTHORIZATION = 256


@dataclass(frozen=True)
class Caller:
    """Who calls."""

    role: Role | None = None
    """None where the server asks for no credentials: then everything is allowed."""
    stations: frozenset[str] = field(default=frozenset())
    """What a caller with the role ingest may call itself."""

    @property
    def name(self) -> str:
        """Who it is, for people; empty where nobody has to say."""
        return ", ".join(sorted(self.stations))


EVERYONE = Caller()
caller: ContextVar[Caller] = ContextVar("caller", default=EVERYONE)
"""Of the call that is being served."""


def require_station(station: str) -> None:
    """Raise Refusal STATION_MISMATCH when the call's credentials are those of another station."""
    known = caller.get()
    if known.role == "ingest" and station not in known.stations:
        raise Refusal(
            f"the credentials are those of {', '.join(sorted(known.stations)) or 'no station'}, not of {station}; give each "
            "station its own",
            reason="STATION_MISMATCH",
        )


class Gate:
    """Admits callers. Without ``tokens`` and ``certificates`` everyone may call everything that has a role."""

    def __init__(self, tokens: TokenFile | None, *, certificates: bool, now: Callable[[], float]) -> None:
        self._tokens, self._certificates, self._now = tokens, certificates, now

    @property
    def asks(self) -> bool:
        """Whether callers need credentials."""
        return self._tokens is not None or self._certificates

    def admit(self, method: str, authorization: str | None, names: frozenset[str]) -> Caller:
        """Return who calls ``method``; ``names`` are those of the client's certificate.

        Raises Refusal METHOD_UNMAPPED, ROLE_MISSING, TOKEN_MISSING, TOKEN_INVALID, TOKEN_EXPIRED, STATION_DISABLED or
        CERT_INVALID.
        """
        allowed = roles_of(method)
        if not allowed:
            raise Refusal(f"{method} has no role in this server, so nobody may call it", reason="METHOD_UNMAPPED")
        if not self.asks:
            return EVERYONE
        who = self._identify(authorization, names)
        if who.role not in allowed:
            raise Refusal(
                f"{method} needs the role {' or '.join(sorted(allowed))}; these credentials have {who.role}",
                reason="ROLE_MISSING",
            )
        return who

    def _identify(self, authorization: str | None, names: frozenset[str]) -> Caller:
        if self._tokens is None:
            # A certificate alone says which station it is, and nothing about other roles.
            return Caller("ingest", names)
        scheme, token = (authorization or "")[: len(_SCHEME)], (authorization or "")[len(_SCHEME) : _MAX_AUTHORIZATION]
        if scheme.lower() != _SCHEME:
            raise Refusal(
                "the call has no token; send metadata `authorization: Bearer <token>`, from `songstream token add`",
                reason="TOKEN_MISSING",
            )
        holder = self._tokens.book.bearer(token, datetime.fromtimestamp(self._now(), UTC))
        if holder.role == "ingest" and self._certificates and holder.name not in names:
            raise Refusal(
                f"the token is that of {holder.name}, the certificate names {', '.join(sorted(names)) or 'nobody'}",
                reason="CERT_INVALID",
            )
        return Caller(holder.role, frozenset({holder.name}))
