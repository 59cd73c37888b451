"""The training loop, alone and on Ray Train."""

__all__: list[str] = []
