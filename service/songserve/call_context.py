"""What the methods of the service get as the context of a call: gRPC's own, with two things added."""

import asyncio
from typing import Any

import grpc
from prometheus_client import Counter

__all__ = ["CallContext"]


class CallContext:
    """Counts the messages of a call, and lets it have a status also when its first answer is broken off.

    The first answer takes the initial metadata with it. gRPC remembers that they went when the answer was taken, and not when
    the task that wrote it is cancelled then or before; they would go again with the status, which fails, and a client would
    wait for ever. So the first answer goes to its end in a task of its own, and the status waits for it.
    """

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", received: Counter, sent: Counter) -> None:
        self._context, self._received, self._sent = context, received, sent
        self._first: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """Return the next message, or grpc.aio.EOF."""
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._received.inc()
        return message

    async def write(self, message: Any) -> None:
        """Send a message; returns when the client's side has taken it."""
        if self._first is None:
            self._first = asyncio.ensure_future(self._context.write(message))
            # Of an answer whose writer is gone nobody asks any more why it failed.
            self._first.add_done_callback(lambda first: first.cancelled() or first.exception())
            await asyncio.shield(self._first)
        else:
            await self._context.write(message)
        self._sent.inc()

    async def abort(self, *status: Any) -> None:
        """End the call with a code, details and metadata, behind the answer that is on its way; raises grpc.aio.AbortError."""
        if self._first is not None:
            await asyncio.wait({self._first})
        await self._context.abort(*status)
