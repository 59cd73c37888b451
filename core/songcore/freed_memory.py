"""Gives memory back to the system that was freed, and that the C library keeps for what may come."""

import ctypes

__all__ = ["give_back"]


def give_back() -> bool:
    """Return free pages to the system; False where the C library has no way to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)  # without the interpreter's lock, a few milliseconds
    return True
