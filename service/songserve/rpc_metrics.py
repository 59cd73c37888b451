"""The ecosystem's RPC metrics, ``grpc_server_*``, so that existing dashboards work."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["RpcMetrics"]

LABELS = ("grpc_type", "grpc_service", "grpc_method")
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class RpcMetrics(grpc.aio.ServerInterceptor):
    """Counts calls when they start and end, by method and code; messages are not wrapped, which costs nothing each."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started", "RPCs started.", LABELS, registry=registry)
        self._handled = Counter("grpc_server_handled", "RPCs completed.", (*LABELS, "grpc_code"), registry=registry)
        self._handling = Histogram("grpc_server_handling_seconds", "RPC duration.", LABELS, registry=registry)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the method's handler, wrapped; unknown methods are left alone, so labels are bounded."""
        handler = await continuation(handler_call_details)
        # A method written as a generator cannot be wrapped by a coroutine; those are health's and reflection's streams.
        behaviour = handler and (handler.unary_unary or handler.stream_stream)
        if behaviour is None or not handler_call_details.method.startswith("/songserve."):
            return handler
        _, service, method = handler_call_details.method.split("/")
        labels = (_TYPES[handler.request_streaming, handler.response_streaming], service, method)

        async def measured(request: Any, context: Any) -> Any:
            self._started.labels(*labels).inc()
            began = time.monotonic()
            cancelled = True
            try:
                response = await behaviour(request, context)
                cancelled = False
            except grpc.aio.AbortError:
                cancelled = False
                raise
            finally:
                code = "CANCELLED" if cancelled else _code_name(context.code())
                self._handled.labels(*labels, code).inc()
                self._handling.labels(*labels).observe(time.monotonic() - began)
            return response

        if handler.unary_unary:
            return handler._replace(unary_unary=measured)
        return handler._replace(stream_stream=measured)


def _code_name(code: Any) -> str:
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODES.get(code or 0, "UNKNOWN")
