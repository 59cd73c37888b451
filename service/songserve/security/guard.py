"""The one place where gRPC calls are let in: every method of every service passes here, unary or stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isasyncgenfunction
from typing import Any

import grpc

from songserve.records import SessionName
from songserve.refusal import Refusal
from songserve.security.gate import Caller, Gate, caller, require_station
from songserve.security.roles import PUBLIC
from songserve.status import abort

__all__ = ["Guard"]

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Guard(grpc.aio.ServerInterceptor):
    """Admits calls through a gate, and looks again every ``recheck_s`` at those that last, so that revoking ends them."""

    def __init__(self, gate: Gate, *, recheck_s: float) -> None:
        self._gate, self._recheck_s = gate, recheck_s

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the method's handler behind the gate; a method that does not exist stays UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in PUBLIC:
            return handler
        kind = next(name for name in _KINDS if getattr(handler, name) is not None)
        behaviour = getattr(handler, kind)
        guarded = self._generator if isasyncgenfunction(behaviour) else self._coroutine
        return handler._replace(**{kind: guarded(method, behaviour)})

    def _coroutine(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                known = self._admit(method, context)
                caller.set(known)
                _check_session(known, request)
                if not self._gate.asks:
                    return await behaviour(request, context)
                return await self._watched(method, asyncio.ensure_future(behaviour(request, context)), context)
            except Refusal as refusal:
                await abort(context, refusal)

        return guarded

    def _generator(self, method: str, behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                caller.set(self._admit(method, context))
            except Refusal as refusal:
                await abort(context, refusal)
            async for response in behaviour(request, context):
                yield response

        return guarded

    async def _watched(self, method: str, work: "asyncio.Future[Any]", context: Any) -> Any:
        """Return what the work gives; it is ended, and Refusal raised, when its caller may not call any longer."""
        try:
            while True:
                done, _ = await asyncio.wait({work}, timeout=self._recheck_s)
                if done:
                    return work.result()
                self._admit(method, context)
        finally:
            if not work.done():
                work.cancel()
                # What it stores at the moment it stores whole.
                await asyncio.wait({work})

    def _admit(self, method: str, context: Any) -> Caller:
        metadata = dict(context.invocation_metadata() or ())
        authorization = metadata.get("authorization")
        names = context.auth_context().get("x509_subject_alternative_name", ())
        return self._gate.admit(
            method,
            authorization if isinstance(authorization, str) else None,
            frozenset(name.decode("ascii", "replace") for name in names),
        )


def _check_session(known: Caller, request: Any) -> None:
    """Raise Refusal unless a station's single request is about a session of its own; streams name theirs in the setup."""
    if known.role == "ingest" and hasattr(request, "DESCRIPTOR"):
        require_station(SessionName.parse(getattr(request, "session", "")).station)
