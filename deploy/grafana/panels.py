"""What a dashboard is made of, and how Grafana wants it written."""

# ruff: noqa: INP001 - beside the program that imports it, no package

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Board", "Json", "Panel", "Query", "board_json", "mean", "quantiles", "rate_by"]

DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH = 24
"""Columns of Grafana's grid."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """One question in PromQL, and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A box with queries; ``kind`` is Grafana's name of it, ``unit`` Grafana's id of the unit."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    stacked: bool = False


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    description: str
    panels: Sequence[Panel]
    span: str = "now-6h"


def quantiles(metric: str, *shares: float, window: str = "$__rate_interval") -> list[Query]:
    """Return a query for each quantile of a histogram."""
    rate = f"sum by (le) (rate({metric}_bucket[{window}]))"
    return [Query(f"histogram_quantile({share}, {rate})", f"p{share * 100:g}") for share in shares]


def rate_by(metric: str, label: str) -> list[Query]:
    """Return the rate per second of a counter for each value of a label."""
    return [Query(f"sum by ({label}) (rate({metric}[$__rate_interval]))", f"{{{{{label}}}}}")]


def mean(metric: str) -> Query:
    """Return the mean of what a histogram observed."""
    return Query(
        f"sum(rate({metric}_sum[$__rate_interval])) / sum(rate({metric}_count[$__rate_interval]))",
        "mean",
    )


def panel_json(panel: Panel, number: int, x: int, y: int) -> Json:
    """Return a panel at its place on the grid."""
    custom: Json = {"fillOpacity": 30 if panel.stacked else 0}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal"}
    instant = panel.kind == "bargauge"
    return {
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "type": panel.kind,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, **({} if instant else {"custom": custom})},
            "overrides": [],
        },
        "options": {"orientation": "horizontal"} if instant else {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": instant,
                "range": not instant,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def board_json(board: Board) -> Json:
    """Return a dashboard, its panels in reading order."""
    panels, x, y, row_height = [], 0, 0, 0
    for number, panel in enumerate(board.panels, start=1):
        if x + panel.width > WIDTH:
            x, y, row_height = 0, y + row_height, 0
        panels.append(panel_json(panel, number, x, y))
        x, row_height = x + panel.width, max(row_height, panel.height)
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["songstream"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": board.span, "to": "now"},
        "panels": panels,
    }
