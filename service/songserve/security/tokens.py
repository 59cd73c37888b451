"""Tokens of stations and people: made once, shown once, remembered as a hash. Pure.

A token is ``sst_{id}_{secret}``: the id finds the entry, the secret's 256 random bits prove who calls. Only SHA-256 of the
whole token is kept; of so much randomness a plain hash cannot be guessed back, so no slow one is needed.
"""

import hmac
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from songcore.errors import ConfigError
from songcore.names import NAME
from songserve.refusal import Refusal
from songserve.security.roles import Role

__all__ = ["Holder", "Token", "TokenBook", "new_token"]

ID_BYTES, SECRET_BYTES = 6, 32
MAX_VALID = 2
"""Tokens of one holder that are valid at once: an old one while its successor is carried to the field."""
_TOKEN = re.compile(r"sst_([0-9a-f]{12})_[0-9a-f]{64}")


class Token(BaseModel):
    """What is kept of a token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def valid_at(self, now: datetime) -> bool:
        """Return whether it is still taken."""
        return self.expires is None or now < self.expires


class Holder(BaseModel):
    """A station, by its name, or a person or program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{NAME}$")
    role: Role
    disabled: bool = False
    tokens: tuple[Token, ...] = Field(max_length=MAX_VALID)


class TokenBook(BaseModel):
    """All holders. Every change gives a new book."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    holders: tuple[Holder, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        names = [holder.name for holder in self.holders]
        ids = [token.id for holder in self.holders for token in holder.tokens]
        if len(set(names)) < len(names) or len(set(ids)) < len(ids):
            raise ValueError("two holders have one name, or two tokens one id")
        return self

    def bearer(self, text: str, now: datetime) -> Holder:
        """Return whose token it is; raises Refusal TOKEN_INVALID, TOKEN_EXPIRED or STATION_DISABLED."""
        found = _TOKEN.fullmatch(text)
        for holder in self.holders:
            for token in holder.tokens:
                if found and token.id == found[1] and hmac.compare_digest(token.sha256, _hash(text)):
                    return _checked(holder, token, now)
        raise Refusal("the token is none of this server's, or was revoked; ask for a new one", reason="TOKEN_INVALID")

    def holder(self, name: str) -> Holder:
        """Return a holder, or raise ConfigError TOKEN_HOLDER_UNKNOWN."""
        for holder in self.holders:
            if holder.name == name:
                return holder
        raise ConfigError(f"nobody is called {name}; `songstream token list` shows all", reason="TOKEN_HOLDER_UNKNOWN")

    def added(self, name: str, role: Role, token: Token) -> Self:
        """Return the book with a new holder; raises ConfigError TOKEN_HOLDER_EXISTS."""
        if any(holder.name == name for holder in self.holders):
            raise ConfigError(
                f"{name} has a token; `songstream token rotate {name}` gives the next", reason="TOKEN_HOLDER_EXISTS"
            )
        return self._with(Holder(name=name, role=role, tokens=(token,)))

    def rotated(self, name: str, token: Token, *, overlap: timedelta) -> Self:
        """Return the book with a successor; the newest token before it stays valid for ``overlap``, older ones end now."""
        holder, now = self.holder(name), token.created
        valid = [old for old in holder.tokens if old.valid_at(now)]
        until = now + overlap
        kept = tuple(
            old.model_copy(update={"expires": min(until, old.expires or until)}) for old in valid[-1:] if overlap
        )
        return self._with(holder.model_copy(update={"tokens": (*kept, token)}))

    def revoked(self, name: str, token_id: str | None = None) -> Self:
        """Return the book without one token of a holder, or with no id without the holder; raises ConfigError."""
        holder = self.holder(name)
        kept = tuple(token for token in holder.tokens if token.id != token_id)
        if token_id is not None and len(kept) == len(holder.tokens):
            raise ConfigError(
                f"{name} has no token {token_id}; `songstream token list` shows all", reason="TOKEN_UNKNOWN"
            )
        if token_id is None:
            return self._with(None, without=name)
        return self._with(holder.model_copy(update={"tokens": kept}))

    def disabled(self, name: str, *, disabled: bool) -> Self:
        """Return the book with a holder shut out, tokens kept, or let in again."""
        return self._with(self.holder(name).model_copy(update={"disabled": disabled}))

    def _with(self, holder: Holder | None, *, without: str = "") -> Self:
        others = tuple(one for one in self.holders if one.name != (holder.name if holder else without))
        return self.model_copy(update={"holders": (*others, *((holder,) if holder else ()))})


def new_token(random_bytes: Callable[[int], bytes], now: datetime) -> tuple[str, Token]:
    """Return a new token's text, to be shown once, and what is kept of it."""
    token_id = random_bytes(ID_BYTES).hex()
    text = f"sst_{token_id}_{random_bytes(SECRET_BYTES).hex()}"
    return text, Token(id=token_id, sha256=_hash(text), created=now)


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _checked(holder: Holder, token: Token, now: datetime) -> Holder:
    if not token.valid_at(now):
        raise Refusal(f"the token {token.id} of {holder.name} expired; use its successor", reason="TOKEN_EXPIRED")
    if holder.disabled:
        raise Refusal(f"{holder.name} is disabled on this server; ask its operator", reason="STATION_DISABLED")
    return holder
