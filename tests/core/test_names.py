"""What names may be."""

import pytest

from songcore.names import is_name


@pytest.mark.parametrize("name", ["meadow", "0", "station-7", "a-", "a" * 63])
def test_a_name(name: str) -> None:
    """Small letters, digits and hyphens, up to 63."""
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "-a", "Meadow", "a.b", "a/b", "a b", "ä", "meadow\n", "..", "a" * 64])
def test_no_name(name: str) -> None:
    """Nothing else, not even a line's end: it becomes part of paths and labels."""
    assert not is_name(name)
