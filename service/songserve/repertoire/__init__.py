"""What scientists ask of a store: how large the repertoire is, how well it is known, how it is sung."""

__all__: list[str] = []
