"""The gRPC edge, one module per service: messages to domain calls, errors to statuses."""

__all__: list[str] = []
