"""Scores, collapse checks and novelty calibration."""

__all__: list[str] = []
