"""Networks that turn a song's features into one vector."""

__all__: list[str] = []
