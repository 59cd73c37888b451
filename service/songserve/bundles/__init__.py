"""The bundles of a server: those that are there, which one is active, and how another one takes its place."""

__all__: list[str] = []
