"""The ecosystem's RPC metrics, ``grpc_server_*``, so that existing dashboards work."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

from songserve.call_context import CallContext

__all__ = ["RpcMetrics"]

LABELS = ("grpc_type", "grpc_service", "grpc_method")
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class RpcMetrics(grpc.aio.ServerInterceptor):
    """Counts calls when they start and end, by method and code, and their messages."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started", "RPCs started.", LABELS, registry=registry)
        self._handled = Counter("grpc_server_handled", "RPCs completed.", (*LABELS, "grpc_code"), registry=registry)
        self._received = Counter("grpc_server_msg_received", "Messages received.", LABELS, registry=registry)
        self._sent = Counter("grpc_server_msg_sent", "Messages sent.", LABELS, registry=registry)
        self._handling = Histogram("grpc_server_handling_seconds", "RPC duration.", LABELS, registry=registry)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the method's handler, wrapped; other services and unknown methods are left alone, so labels are bounded."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/songserve."):
            return handler
        kind = next(name for name in _KINDS if getattr(handler, name) is not None)
        behaviour = getattr(handler, kind)
        _, service, method = handler_call_details.method.split("/")
        labels = (_TYPES[handler.request_streaming, handler.response_streaming], service, method)
        received, sent = self._received.labels(*labels), self._sent.labels(*labels)

        # The service's methods are coroutines that read and write streams by their context, never generators.
        async def measured(request: Any, context: Any) -> Any:
            self._started.labels(*labels).inc()
            if not handler.request_streaming:
                received.inc()
            began = time.monotonic()
            cancelled = True
            try:
                response = await behaviour(request, CallContext(context, received, sent))
                cancelled = False
            except grpc.aio.AbortError:
                cancelled = False
                raise
            finally:
                code = "CANCELLED" if cancelled else _code_name(context.code())
                self._handled.labels(*labels, code).inc()
                self._handling.labels(*labels).observe(time.monotonic() - began)
            if not handler.response_streaming:
                sent.inc()
            return response

        return handler._replace(**{kind: measured})


def _code_name(code: Any) -> str:
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODES.get(code or 0, "UNKNOWN")
