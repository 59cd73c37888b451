"""Training: recordings in, a bundle out. Only this package imports torch and ray; it builds on songcore alone."""

__all__: list[str] = []
