"""Find song types among embeddings."""

__all__: list[str] = []
