"""One module per revision; their names are numbers that grow."""

__all__: list[str] = []
