"""The sub-commands that training contributes to ``songstream``."""

__all__: list[str] = []
