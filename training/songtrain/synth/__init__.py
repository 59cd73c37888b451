"""Seasons of singing nightingales with complete truth, deterministic from a seed."""

__all__: list[str] = []
