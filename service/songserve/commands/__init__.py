"""The service's sub-commands of ``songstream``."""

__all__: list[str] = []
