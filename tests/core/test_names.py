"""What names may be."""

import pytest

from songcore.names import is_name


@pytest.mark.parametrize("name", ["meadow", "0", "station-7", "a-", "a" * 63])
def test_a_name(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "-a", "Meadow", "a.b", "a/b", "a b", "ä", "meadow\n", "..", "a" * 64])
def test_no_name(name: str) -> None:
    assert not is_name(name)
