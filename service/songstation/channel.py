"""The one long-lived channel to the server."""

import grpc

from songcore.credentials import Credentials

__all__ = ["Channel", "open_channel"]

# One channel for the life of the program: it reconnects by itself, and each closed one leaks a little memory.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 250),
    # Our own delays decide when to try; gRPC must not sit out a longer one of its own.
    ("grpc.max_reconnect_backoff_ms", 5_000),
]

Channel = grpc.aio.Channel
"""What `open_channel` gives; closes as an asynchronous context manager."""


def open_channel(server: str, credentials: Credentials | None = None, *, keepalive_s: float = 20.0) -> Channel:
    """Return the channel to ``host:port``, unencrypted without credentials.

    A connection from which nothing came for ``keepalive_s``, and no answer to a ping in half of that, is replaced. Nothing
    else would replace one that is dead without a word: a new stream goes out on the same connection.
    """
    tls = credentials.tls if credentials else None
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
