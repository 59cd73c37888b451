"""Memory that was freed goes back to the system."""

import sys
from pathlib import Path

import pytest

from songcore.freed_memory import give_back


def resident_mb() -> float:
    """Return the memory of this process."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_pages_between_what_is_still_held_are_given_back() -> None:
    """A hundred megabytes of freed chunks, with something that stays between them, leave the process."""
    chunks = [bytes(1) * 96_000 for _ in range(1000)]
    kept = chunks[::10]
    full = resident_mb()
    del chunks
    if not give_back():
        pytest.skip("this C library does not give memory back")
    assert resident_mb() < full - 50
    assert len(kept) == 100
