"""JSON for programs: numbers as people would write them, times to the millisecond."""

import json
from datetime import UTC, datetime

from songcore.printed_json import plain_json


def test_numbers_have_no_noise() -> None:
    """What arithmetic leaves in the last digits goes, at any depth; small and large numbers, and what is none, stay."""
    given = {"a": 7.904000000000011, "b": [0.1 + 0.2, {"c": 1e-9}], "n": 2**53 + 1, "d": (86_400.12345678, None, True)}
    expected = {"a": 7.904, "b": [0.3, {"c": 1e-9}], "n": 2**53 + 1, "d": [86_400.1234568, None, True]}
    assert json.loads(plain_json(given)) == expected


def test_times_are_to_the_millisecond() -> None:
    """With their zone."""
    assert plain_json({"t": datetime(2026, 5, 1, 4, 30, 0, 250_999, UTC)}) == '{"t": "2026-05-01T04:30:00.250+00:00"}'
