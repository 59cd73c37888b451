"""Marks of tests that start Ray."""

import pytest

__all__ = ["ray_marks"]


def ray_marks(timeout_s: float) -> list[pytest.MarkDecorator]:
    """Return a file's marks: Ray leaves sockets, logs and subprocesses to the interpreter's end, and deprecates itself."""
    warnings = ("ResourceWarning", "DeprecationWarning", "FutureWarning", "pytest.PytestUnraisableExceptionWarning")
    ignored = [pytest.mark.filterwarnings(f"ignore::{name}") for name in warnings]
    return [pytest.mark.timeout(timeout_s), *ignored]
