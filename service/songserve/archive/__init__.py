"""Archives of recordings, classified without a server: found, spread over processes, resumed, written as tables."""

__all__: list[str] = []
