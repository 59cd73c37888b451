"""Recordings and annotations become songs with features, cached on disk."""

__all__: list[str] = []
