"""Rows of a sweep as settings with mean scores, and which setting every score prefers."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from songtrain.lab.parts import COUNTS, PARTS, chain_of
from songtrain.lab.results import SCORES, Row
from songtrain.report.sweep_pictures import SweepPoint

__all__ = ["BETTER_WHEN_LOW", "SweepTable", "sweep_tables"]

BETTER_WHEN_LOW = ("davies_bouldin", "inertia", "inertia_share", "largest_share")
PREFERS = (
    *("ari", "nmi", "ami", "v_measure", "accuracy"),
    *("silhouette", "calinski_harabasz", "davies_bouldin", "stability_halves", "neighbour_agreement"),
)
"""Scores that can be asked which setting is best; inertia would always take the most clusters, collapse signs none."""


@dataclass(frozen=True)
class SweepTable:
    """All settings that were tried of one system, everything else being the same."""

    system: str
    chain: str
    """Its parts in words, without what was changed."""
    names: Sequence[str]
    """Parameters that were changed."""
    points: Sequence[SweepPoint]
    n_rows: int
    n_failed: int

    def best(self, score: str) -> SweepPoint | None:
        """Return the setting that the score prefers, None when it says the same of all or is not one to ask."""
        known = [point for point in self.points if score in point.scores]
        if score not in PREFERS or len({point.scores[score] for point in known}) < 2:
            return None
        sign = -1 if score in BETTER_WHEN_LOW else 1
        return max(known, key=lambda point: sign * point.scores[score])


def sweep_tables(rows: Sequence[Row]) -> list[SweepTable]:
    """Return a table per system, set of swept parameters and all that was not swept, settings in the order of their rows."""
    of: dict[tuple[str, tuple[str, ...], str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.parameters:
            of[row.system, tuple(sorted(row.parameters)), _rest(row)].append(row)
    return [_table(*key, own) for key, own in of.items()]


def _rest(row: Row) -> str:
    """Return the row's description without what its sweep changed."""
    told = json.loads(row.description or "{}")
    for name in row.parameters:
        kind, _, option = name.partition(".")
        if kind in PARTS and not option:
            # Another part, with parameters of its own.
            told.pop(kind, None)
            continue
        # A setting within one parameter counts as the whole of it.
        names = {kind: (option.partition(".")[0],)} if option else {"encoder": ("n_clusters",), "clusterer": COUNTS}
        for part in told.keys() & names.keys():
            told[part][1] = {key: value for key, value in told[part][1].items() if key not in names[part]}
    return json.dumps(told)


def _table(system: str, names: tuple[str, ...], rest: str, rows: Sequence[Row]) -> SweepTable:
    settings: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not row.error:
            settings[row.key[1]].append(row)
    points = [SweepPoint(own[0].parameters, _means(own)) for own in settings.values()]
    return SweepTable(system, chain_of(rest), names, points, len(rows), sum(bool(row.error) for row in rows))


def _means(rows: Sequence[Row]) -> dict[str, float]:
    columns = {name: [row.scores[name] for row in rows if name in row.scores] for name in SCORES}
    columns["n_clusters"] = [float(row.n_clusters) for row in rows if row.n_clusters is not None]
    return {name: float(np.mean(values)) for name, values in columns.items() if values}
