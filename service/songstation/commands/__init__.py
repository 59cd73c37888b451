"""Sub-commands of ``songstream`` that a field station has."""

__all__: list[str] = []
