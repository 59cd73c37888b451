"""A connection to a server, and its refusals as errors that a command can print."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from songcore.credentials import advice, credentials_for
from songcore.errors import ConfigError

__all__ = ["Connection", "Server"]

Stub = TypeVar("Stub")
Response = TypeVar("Response")


@dataclass(frozen=True)
class Server:
    """Where a server is, and what it wants to see."""

    address: str = "127.0.0.1:50051"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    insecure: bool = False


class Connection:
    """A context manager; inside it `call` asks the server.

    While something is asked, a connection from which nothing came for ``keepalive_s``, and no answer to a ping in half of
    that, is given up, and the next question opens another. A server does not take pings more often than every 10 s.

    Raises ConfigError SETTING_INVALID for an address that is not host:port, TLS_UNREADABLE, TLS_UNWANTED, TOKEN_UNREADABLE or
    TOKEN_EXPOSED.
    """

    def __init__(self, server: Server, *, timeout_s: float = 60.0, keepalive_s: float = 20.0) -> None:
        self._address, self._timeout_s = server.address, timeout_s
        self._credentials = credentials_for(
            server.address,
            ca=server.ca,
            certificate=server.certificate,
            key=server.key,
            token_file=server.token_file,
            insecure=server.insecure,
        )
        tls = self._credentials.tls
        options = _channel_options(keepalive_s)
        if tls is None:
            self._channel = grpc.insecure_channel(server.address, options=options)
        else:
            secure = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
            self._channel = grpc.secure_channel(server.address, secure, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def stub(self, kind: Callable[[grpc.Channel], Stub]) -> Stub:
        """Return a service of the server, by the class of its stub."""
        return kind(self._channel)

    def call(self, method: Callable[..., Response], request: object, *, timeout_s: float | None = None) -> Response:
        """Return the answer; raises ConfigError with the server's reason, or SERVER_UNREACHABLE."""
        try:
            return method(request, timeout=timeout_s or self._timeout_s, metadata=self._credentials.metadata())
        except grpc.RpcError as error:
            raise self._refused(error) from error

    def stream(
        self, method: Callable[..., Iterable[Response]], request: object, *, timeout_s: float
    ) -> Iterator[Response]:
        """Give the answers of a call that goes on, for at most so long; raises as `call`."""
        answers: Any = method(request, timeout=timeout_s, metadata=self._credentials.metadata())
        try:
            yield from answers
        except grpc.RpcError as error:
            timed_out = answers.code() is grpc.StatusCode.DEADLINE_EXCEEDED and rpc_status.from_call(error) is None
            if not timed_out:
                raise self._refused(error) from error
        finally:
            answers.cancel()

    def _refused(self, error: Any) -> ConfigError:
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info = ErrorInfo()
            if detail.Unpack(info):
                return ConfigError(f"{error.details()}{advice(info.reason)}", reason=info.reason)
        plain = "; a server with a certificate needs --ca" if self._credentials.tls is None else ""
        return ConfigError(
            f"{self._address} does not answer ({error.code().name}: {error.details()}); is it the address of a server, "
            f"started with the same kind of encryption, and of this version?{plain}",
            reason="SERVER_UNREACHABLE",
        )


def _channel_options(keepalive_s: float) -> list[tuple[str, int]]:
    ping_ms = round(1000 * keepalive_s)
    return [
        ("grpc.keepalive_time_ms", ping_ms),
        ("grpc.keepalive_timeout_ms", ping_ms // 2),
        # Who watches sends nothing for hours, and after two pings without data gRPC would send no more of them in time.
        ("grpc.http2.max_pings_without_data", 0),
        # Pings of other kinds wait a minute for their answer, and the keepalive's with them.
        ("grpc.http2.ping_timeout_ms", ping_ms // 2),
        ("grpc.http2.bdp_probe", 0),
    ]
