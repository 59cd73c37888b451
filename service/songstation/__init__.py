"""The field station: capture, keep until it is committed, send; nothing here needs more than the base install."""

__all__: list[str] = []
