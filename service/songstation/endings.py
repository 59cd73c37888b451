"""How calls end: what gRPC knows of that, as a `Failure`."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import grpc

from songstation.recovery import Failure
from songstation.wire import read_failure

__all__ = ["ending", "failure", "quietly"]

Call = Any
"""grpc.aio.StreamStreamCall of the two message types; the stubs give it no usable type."""


async def quietly(writing: Coroutine[Any, Any, None]) -> None:
    """Let a failed write pass: the reading side learns why the stream ended."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await writing


async def ending(call: Call) -> Failure:
    """Return how a call that is over ended."""
    code, details = await call.code(), await call.details()
    return read_failure(code.name, details or "", _status_details(await call.trailing_metadata()))


def failure(error: grpc.aio.AioRpcError) -> Failure:
    """Return how the call of an error ended."""
    return read_failure(error.code().name, error.details() or "", _status_details(error.trailing_metadata()))


def _status_details(trailing_metadata: Any) -> bytes | None:
    """Return the google.rpc.Status that gRPC carries in its trailers, if there is one."""
    for key, value in trailing_metadata or ():
        if key == "grpc-status-details-bin":
            return bytes(value)
    return None
