"""Which settings a sweep tries: all of a grid, and numbers that a binary search proposes as it learns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from songcore.errors import ConfigError
from songtrain.lab.options import CLUSTERS
from songtrain.lab.parts import PARTS

__all__ = ["BinarySearch", "SearchRange", "grid_settings", "parse_grid", "parse_search"]


@dataclass(frozen=True)
class SearchRange:
    """A whole-numbered parameter, such as ``clusterer.n_clusters``, and where to look for its best value."""

    parameter: str
    low: int
    high: int


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return values by parameter of ``PART.PARAMETER=VALUE,VALUE``, or ``clusters=``: JSON with commas between, or else words.

    ``PART=NAME,NAME`` is other parts: reducers, clusterers or features.
    ConfigError GRID_INVALID tells which text is none.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        chosen = _values(values)
        if not equals or not (_is_parameter(name) or name.strip() in PARTS) or not chosen:
            raise ConfigError(
                f"--grid {text!r}: expected PART.PARAMETER=VALUE,VALUE as in reducer.n_components=32,64, PART=NAME,NAME as in "
                "clusterer=kmeans,dbscan, or clusters=32,64",
                reason="GRID_INVALID",
            )
        if name.strip() in grid:
            raise ConfigError(f"--grid names {name.strip()} twice; give all values at once", reason="GRID_INVALID")
        grid[name.strip()] = chosen
    return grid


def parse_search(text: str) -> SearchRange:
    """Return the range of ``PART.PARAMETER=LOW:HIGH`` or ``clusters=LOW:HIGH``; ConfigError GRID_INVALID when it is none."""
    name, _, limits = text.partition("=")
    low, _, high = limits.partition(":")
    if (
        not _is_parameter(name)
        or not low.strip().isdigit()
        or not high.strip().isdigit()
        or not 1 <= int(low) < int(high)
    ):
        raise ConfigError(
            f"--search {text!r}: expected PART.PARAMETER=LOW:HIGH as in clusterer.n_clusters=16:256, or clusters=16:256",
            reason="GRID_INVALID",
        )
    return SearchRange(name.strip(), int(low), int(high))


def grid_settings(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the grid's values, one empty one for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


class BinarySearch:
    """Looks for the number with the best score by halving the gaps beside the best one so far.

    It begins with both ends and their geometric mean. What it finds is the best number only if the score has one peak;
    silhouette often has several, so that its answer is a place to look at and not a choice.
    """

    def __init__(self, low: int, high: int) -> None:
        self._scores: dict[int, float] = {}
        self._first = (low, round((low * high) ** 0.5), high)

    @property
    def best(self) -> int | None:
        """The number with the best score so far, the smallest of equals."""
        return min(self._scores, key=lambda k: (-self._scores[k], k)) if self._scores else None

    def tell(self, number: int, score: float) -> None:
        """Take the score of a number; -inf for one that could not be tried."""
        self._scores[number] = score

    def ask(self) -> list[int]:
        """Return the numbers to try next, none when the search has ended."""
        missing = [number for number in dict.fromkeys(self._first) if number not in self._scores]
        if missing or self.best is None:
            return missing
        tried = sorted(self._scores)
        at = tried.index(self.best)
        gaps = [(tried[i], tried[i + 1]) for i in (at - 1, at) if 0 <= i < len(tried) - 1]
        between = [round((low * high) ** 0.5) for low, high in gaps]
        return [number for number in between if number not in self._scores]


def _is_parameter(name: str) -> bool:
    return "." in name or name.strip() == CLUSTERS


def _values(text: str) -> list[Any]:
    """Return the values between the commas, each once; a comma within JSON parts nothing."""
    try:
        values = json.loads(f"[{text}]")
    except ValueError:
        values = [_value(word.strip()) for word in text.split(",") if word.strip()]
    return list({json.dumps(value): value for value in values}.values())


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word
