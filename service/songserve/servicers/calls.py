"""What every call has in common: an error becomes a status, and long calls are admitted and read with patience."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, TypeAlias, TypeVar

import grpc

from songcore.errors import SongError
from songserve.refusal import Refusal
from songserve.runtime import Runtime
from songserve.status import abort, internal_error

__all__ = ["Context", "admitted", "answering", "no_answer_taken", "read_first", "read_next", "write_next"]

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""What gRPC knows of a call."""

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")


def answering(
    method: Callable[[Servicer, Request, Context], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """Turn whatever a servicer's method raises into the call's status."""

    @wraps(method)
    async def answer(self: Servicer, request: Request, context: Context) -> Response:
        try:
            return await method(self, request, context)
        except grpc.aio.AbortError:
            raise
        except SongError as error:
            ended = error
        except Exception as error:
            log.exception("a call failed")
            ended = internal_error(error)
        # Waits for a client that takes nothing, and shall not hold all that the call used so long.
        ended.__traceback__ = ended.__context__ = None
        return await abort(context, ended)

    return answer


@asynccontextmanager
async def admitted(runtime: Runtime) -> AsyncIterator[None]:
    """Count a long call while it lasts; raises Refusal DRAINING or STREAM_LIMIT."""
    runtime.admit()
    runtime.n_calls += 1
    try:
        yield
    finally:
        runtime.n_calls -= 1


async def read_first(context: Context, runtime: Runtime) -> Any:
    """Return the first message, or raise Refusal SETUP_TIMEOUT or SETUP_INVALID."""
    try:
        async with asyncio.timeout(runtime.settings.setup_timeout_s):
            message = await context.read()
    except TimeoutError:
        wait_s = runtime.settings.setup_timeout_s
        raise Refusal(f"no setup came within {wait_s:g} s", reason="SETUP_TIMEOUT") from None
    if message is grpc.aio.EOF or message.WhichOneof("message") != "setup":
        raise Refusal("the first message must be a setup", reason="SETUP_INVALID")
    return message


async def read_next(context: Context, runtime: Runtime) -> Any:
    """Return the next message or None at the end, or raise Refusal IDLE."""
    try:
        async with asyncio.timeout(runtime.settings.idle_timeout_s):
            message = await context.read()
    except TimeoutError:
        wait_s = runtime.settings.idle_timeout_s
        raise Refusal(f"nothing came for {wait_s:g} s, not even a heartbeat", reason="IDLE") from None
    return None if message is grpc.aio.EOF else message


async def write_next(context: Context, runtime: Runtime, message: Any) -> None:
    """Send a message, or raise Refusal IDLE when the client takes none: what the call holds is not held for ever."""
    try:
        async with asyncio.timeout(runtime.settings.idle_timeout_s):
            await context.write(message)
    except TimeoutError:
        raise no_answer_taken(runtime) from None


def no_answer_taken(runtime: Runtime) -> Refusal:
    """Return what ends a call whose client reads nothing."""
    return Refusal(f"the client took no answer for {runtime.settings.idle_timeout_s:g} s", reason="IDLE")
