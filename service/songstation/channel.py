"""The one long-lived channel to the server."""

from types import TracebackType
from typing import Self

import grpc

from songcore.credentials import Credentials, Tls
from songstation.eventual import Eventual

__all__ = ["Channel"]

# One channel for the life of the program: it reconnects by itself, and each closed one leaks a little memory.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 250),
    # Our own delays decide when to try; gRPC must not sit out a longer one of its own.
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


class Channel:
    """The channel to ``host:port``, opened when it is first needed; closes as an asynchronous context manager.

    Unencrypted without ``credentials``, which are waited for where they are not there yet. Until then nothing goes to the
    server, not even a connection. A connection from which nothing came for ``keepalive_s``, and no answer to a ping in half
    of that, is replaced. Nothing else would replace one that is dead without a word: a new stream goes out on the same one.
    """

    def __init__(
        self, server: str, credentials: Credentials | Eventual[Credentials] | None = None, *, keepalive_s: float = 20.0
    ) -> None:
        self._server, self._credentials, self._keepalive_s = server, credentials, keepalive_s
        self._channel: grpc.aio.Channel | None = None

    async def opened(self) -> grpc.aio.Channel:
        """Return the open channel, the same each time, once there are credentials for it."""
        given = self._credentials
        credentials = await given.get() if isinstance(given, Eventual) else given
        if self._channel is None:
            self._channel = _open(self._server, credentials.tls if credentials else None, self._keepalive_s)
        return self._channel

    async def close(self) -> None:
        """Close it, if it was opened."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _open(server: str, tls: Tls | None, keepalive_s: float) -> grpc.aio.Channel:
    ping_ms = round(1000 * keepalive_s)
    options = [
        *_CHANNEL_OPTIONS,
        ("grpc.keepalive_time_ms", ping_ms),
        ("grpc.keepalive_timeout_ms", ping_ms // 2),
        # Pings of other kinds wait a minute for their answer, and the keepalive's with them.
        ("grpc.http2.ping_timeout_ms", ping_ms // 2),
        ("grpc.http2.bdp_probe", 0),
        # By its name a delay, but what it bounds is how long connecting may take: over a slow link, and with TLS, seconds.
        ("grpc.min_reconnect_backoff_ms", ping_ms),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(server, options=options)
    secure = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    return grpc.aio.secure_channel(server, secure, options=options)
