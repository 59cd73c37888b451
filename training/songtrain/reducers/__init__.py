"""Fewer dimensions: what lies between encoder and clusterer."""

__all__: list[str] = []
