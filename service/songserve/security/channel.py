"""Limits that gRPC itself keeps, of messages and connections."""

from songserve.settings import ServeSettings

__all__ = ["channel_options"]

MAX_PING_STRIKES = 2
MIN_PING_INTERVAL_MS = 10_000


def channel_options(settings: ServeSettings) -> list[tuple[str, int]]:
    """Return the options of the server's port."""
    metadata_bytes = settings.max_metadata_kb * 1024
    options = [
        # Counted after decompression: a message that unpacks to more is refused before it is unpacked whole.
        ("grpc.max_receive_message_length", settings.max_message_kb * 1024),
        # Without the second, gRPC refuses more and more of what lies a quarter above the first.
        ("grpc.max_metadata_size", metadata_bytes),
        ("grpc.absolute_max_metadata_size", metadata_bytes),
        ("grpc.max_concurrent_streams", settings.max_calls_per_connection),
        # With bandwidth probing, a stream that the server does not read parks megabytes in its memory.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", settings.lookahead_kb * 1024),
        # Two servers on one port would share the stations at random.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
    ]
    if settings.max_connection_age_s:
        options += [
            ("grpc.max_connection_age_ms", round(settings.max_connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", round(settings.connection_grace_s * 1000)),
        ]
    return options
