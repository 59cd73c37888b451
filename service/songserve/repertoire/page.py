"""The page of a repertoire: one HTML file that needs nothing beside it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from songcore.figures import sizes_figure, svg
from songserve.repertoire.measures import Repertoire, summary
from songserve.repertoire.pictures import (
    MAX_MATRIX_TYPES,
    accumulation_figure,
    days_figure,
    knowledge_figure,
    transitions_figure,
)
from songserve.repertoire.season import Season

__all__ = ["write_page"]


def write_page(file: Path, facts: Mapping[str, Any], season: Season, found: Sequence[Repertoire]) -> Path:
    """Write the page: all stations, then each; pictures are of the whole time."""
    environment = Environment(
        loader=PackageLoader("songserve.repertoire", "."), autoescape=True, undefined=StrictUndefined
    )
    parts = list(_parts(season, found))
    file.write_text(environment.get_template("page.html").render(facts=facts, parts=parts), encoding="utf-8")
    return file


def _parts(season: Season, found: Sequence[Repertoire]) -> Iterator[dict[str, Any]]:
    stations = [one for one in found if not one.period]
    for whole in stations:
        if whole.station and len(stations) == 2:
            continue  # with one station, it is all there is
        periods = [one for one in found if one.station == whole.station and one.period]
        yield _part(whole, periods, season)


def _part(whole: Repertoire, periods: Sequence[Repertoire], season: Season) -> dict[str, Any]:
    days = [day for day in season.days if whole.station in {"", day.station}]
    stations = sorted({day.station for day in days})
    alone = f"Station {stations[0]}" if len(stations) == 1 else "All stations"
    part: dict[str, Any] = {
        "title": f"Station {whole.station}" if whole.station else alone,
        "whole": whole,
        "tiles": _tiles(whole),
        "periods": [summary(one) for one in periods],
        "n_hidden": max(0, len(whole.counts) - MAX_MATRIX_TYPES),
    }
    if whole.n_songs:
        part |= {
            "accumulation": svg(accumulation_figure(whole, periods)),
            "ranks": svg(sizes_figure(list(whole.counts.values()), whole.zipf.exponent, whole.zipf.p_value)),
            "knowledge": svg(knowledge_figure(days)),
            "days": svg(days_figure(days, season.names)),
            "transitions": svg(transitions_figure(whole, season.names)),
        }
    return part


def _tiles(one: Repertoire) -> list[tuple[str, str]]:
    size = one.size
    chao1 = (f"{size.estimate:.1f}", f"types, Chao1 ({size.low:.1f} to {size.high:.1f})")
    return [
        (f"{one.n_songs:,}", "songs with a type"),
        (f"{one.hours:,.1f}", "hours recorded"),
        (f"{size.n_heard}", "types heard"),
        chao1 if one.n_songs else ("–", "types, Chao1"),
        (f"{one.coverage:.1%}" if one.n_songs else "–", "coverage"),
        (f"{list(one.counts.values()).count(1)}", "types heard once"),
        (f"{one.n_novel:,}", "novel songs"),
    ]
