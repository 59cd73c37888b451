"""The report of a training run: one HTML page with every picture inside."""

__all__: list[str] = []
