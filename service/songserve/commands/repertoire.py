"""``songstream repertoire``: what the songs of a store say about the repertoire."""

import json
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from songcore.errors import ConfigError, InputError
from songcore.printed_tables import add_number_columns, print_table
from songserve.commands.asked import check_interval, unheard

if TYPE_CHECKING:
    from songserve.repertoire.measures import Repertoire

__all__ = ["repertoire"]


def repertoire(  # noqa: PLR0913, PLR0917 - one parameter per option
    store: Annotated[
        str,
        typer.Option(
            help="Data directory of a server, or the URL of its store: `sqlite:///` and its file, or of its PostgreSQL.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for tables and page, made if missing.")] = Path(
        "repertoire"
    ),
    station: Annotated[str | None, typer.Option(help="Only this station.", show_default=False)] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day, UTC.", show_default=False)
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="First day that no longer counts, UTC.", show_default=False),
    ] = None,
    period: Annotated[
        Literal["none", "day", "week", "month"],
        # The choices in the place of its metavar are too wide for it.
        typer.Option(metavar="<period>", help="Length of the periods that are told apart: none, day, week or month."),
    ] = "month",
    bout_gap_s: Annotated[float, typer.Option(min=0, help="A longer silence ends a bout, seconds.")] = 30.0,
    bootstrap: Annotated[
        int, typer.Option(min=1, max=100_000, help="Samples of the tests of Zipf's law; more give finer p-values.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of these samples.")] = 0,
    *,
    pictures: Annotated[bool, typer.Option("--pictures/--tables-only", help="Also draw the page.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as one JSON object.")] = False,
) -> None:
    """Estimate the repertoire from a store: accumulation curve, coverage, Chao1, Zipf's law, what follows what.

    For all stations and for each, over the whole time and by period. Writes tables (CSV and Parquet), `repertoire.json`
    and, with matplotlib (the extra `science`), `repertoire.html`, one page with pictures that needs nothing beside it. A
    server may be running meanwhile; its store is only read. Types and counts go by people's decisions (`songstream types`).
    """
    if pictures and (find_spec("matplotlib") is None or find_spec("jinja2") is None):
        raise ConfigError(
            "the page needs matplotlib and jinja2; pip install '.[science]' in a checkout, or give --tables-only",
            reason="PICTURES_MISSING",
        )
    check_interval(since, until)
    facts = {
        "store": _shown(store),
        "station": station,
        "from": f"{since:%Y-%m-%d}" if since else None,
        "to": f"{until:%Y-%m-%d}" if until else None,
        "period": period,
        "bout_gap_s": bout_gap_s,
        "bootstrap": bootstrap,
        "seed": seed,
        "version": version("songstream"),
        "made_at": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
    }
    found, files = _make(store, out, facts, (since, until), pictures=pictures)
    if as_json:
        from songserve.repertoire.measures import summary

        print(json.dumps({**facts, "repertoires": [summary(one) for one in found], "files": [str(f) for f in files]}))
        return
    print_table(_table(found))
    if not found[0].n_songs:
        print(f"no song has a type yet, so nothing can be estimated; novel songs: {found[0].n_novel:,}")
    print(f"{len(files)} files in {out}")


def _make(
    store: str, out: Path, facts: dict[str, Any], days: tuple[datetime | None, datetime | None], *, pictures: bool
) -> "tuple[list[Repertoire], list[Path]]":
    from songserve.checking import reading, require_current
    from songserve.database import store_place
    from songserve.repertoire.absence import heard_stations, no_songs
    from songserve.repertoire.measures import measure
    from songserve.repertoire.season import Choice, read_season
    from songserve.repertoire.tables import write_json, write_tables

    start_ms, end_ms = (None if day is None else round(day.replace(tzinfo=UTC).timestamp() * 1000) for day in days)
    choice = Choice(facts["station"], start_ms, end_ms, facts["period"], facts["bout_gap_s"])
    with reading(*store_place(store)) as engine:
        require_current(engine)
        asked = [] if choice.station is None else [choice.station]
        if nothing := unheard(asked, heard_stations(engine), where="store"):
            raise InputError(nothing, reason="STATION_UNKNOWN")
        season = read_season(engine, choice)
        if not any(heard.counts or heard.n_novel or heard.n_noise for heard in season.heard.values()):
            raise no_songs(engine, choice)
    found = measure(season, seed=facts["seed"], n_bootstrap=facts["bootstrap"])
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [*write_tables(out, season, found), write_json(out / "repertoire.json", facts, found)]
        if pictures:
            from songserve.repertoire.page import write_page

            files.append(write_page(out / "repertoire.html", facts, season, found))
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror})", reason="OUTPUT_NOT_WRITABLE") from error
    return found, files


def _shown(store: str) -> str:
    """Return the store's name without a password."""
    if not store.startswith("postgresql"):
        return store
    from songserve.engines import postgresql_url

    return postgresql_url(store).render_as_string(hide_password=True)


def _table(found: "list[Repertoire]") -> Table:
    table = Table("station", "period")
    add_number_columns(table, "songs", "novel", "types", "coverage", "Chao1 (95 %)", "Zipf (p)")
    for one in found:
        size = one.size
        table.add_row(
            one.station or "all",
            one.period or "all",
            f"{one.n_songs:,}",
            f"{one.n_novel:,}",
            str(size.n_heard),
            f"{one.coverage:.3f}" if one.n_songs else "–",
            f"{size.estimate:.1f} ({size.low:.1f}-{size.high:.1f})" if one.n_songs else "–",
            # Of one type there are no ranks.
            f"{one.zipf.exponent:.2f} ({one.zipf.p_value:.2f})" if size.n_heard > 1 else "–",
        )
    return table
