"""``songstream songs``: list the songs that a running server has stored, follow new ones, and export them."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from songcore.errors import ConfigError, InputError
from songcore.printed_json import plain_json
from songcore.printed_tables import add_id_column, add_number_columns, print_table
from songserve.cells import chosen_formats
from songserve.commands.asked import check_interval, unheard
from songserve.commands.remote import add_connection, connect

if TYPE_CHECKING:
    from collections import Counter

    from songserve.clients.connection import Connection
    from songserve.clients.songs import SongRow, Wanted
    from songserve.exporting import ClipFile, ClipOutcome

__all__ = ["songs"]

SHOWN = 100

songs = typer.Typer(
    name="songs",
    help=(
        "List the songs that a running server has stored, follow new ones, and export them as tables and clips. Types are "
        "those of people's decisions (`songstream types`); times are UTC."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
add_connection(songs)

Stations = Annotated[
    list[str] | None, typer.Option("--station", help="Only of this station; once for each.", show_default=False)
]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="Only songs from 2026-05-01 or 2026-05-01T04:30 on, UTC.", show_default=False
    ),
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only songs before this.", show_default=False)]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        metavar="ID|NAME",
        help="Only of this type; once for each. With --novel or --pool: those to which it is the nearest.",
        show_default=False,
    ),
]
Novel = Annotated[bool, typer.Option("--novel", help="Only novel songs, which are of no type yet.")]
Pool = Annotated[
    bool, typer.Option("--pool", help="Only songs that new types come from: novel or uncertain, of good quality.")
]
Noise = Annotated[bool, typer.Option("--noise", help="Sounds of types that are noise, too.")]


@dataclass(frozen=True)
class _Asked:
    """The filters as they were given."""

    stations: list[str] | None
    types: list[str] | None
    start: datetime | None
    end: datetime | None
    novel: bool
    pool: bool
    noise: bool


@songs.command("list")
def list_songs(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    stations: Stations = None,
    since: From = None,
    until: To = None,
    types: Types = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"At most so many, the newest.  [default: {SHOWN} in a table, else all]", show_default=False
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            metavar="FILE",
            help="With --watch: keep in this file what was seen, and go on from there the next time.",
            show_default=False,
        ),
    ] = None,
    *,
    novel: Novel = False,
    pool: Pool = False,
    noise: Noise = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the songs that come in, one a line, until Ctrl-C.")
    ] = False,
    uids: Annotated[
        bool,
        typer.Option("--uids", help="Print uids only, one a line, as `songstream types split --from -` takes them."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, one for each song.")] = False,
) -> None:
    """List stored songs, the newest first.

    *type* is what people's decisions make of a song, *model* what the model said where that differs; of a novel song it is
    the nearest type. *similarity* is to that type, *p* the share of known songs that are at least as strange.

    `--watch` shows songs as they are stored, also those of a backlog with old times; it comes back by itself when the server
    was away, and misses none.
    """
    asked = _Asked(stations, types, _time(since, "--from"), _time(until, "--to"), novel, pool, noise)
    _check(asked, limit, resume, watch=watch, one_form=not (uids and as_json))
    with connect(context) as connection:
        if watch:
            _watch(connection, asked, resume, uids=uids, as_json=as_json)
            return
        from songserve.clients.catalogue import CatalogueClient
        from songserve.clients.songs import SongClient

        names = CatalogueClient(connection).names()
        most = limit or (SHOWN if not (uids or as_json) else None)
        # One more tells whether there are more.
        found = SongClient(connection).songs(_stored(connection, asked), newest_first=True, limit=most and most + 1)
        if uids or as_json:
            for one in islice(found, most):
                print(one.uid if uids else _as_json(one, names))
            return
        rows = list(found)
    _print_table(rows, names, most or len(rows))


@songs.command()
def export(  # noqa: PLR0913, PLR0917 - one parameter per option
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for tables and clips; made when missing.", show_default=False)
    ],
    stations: Stations = None,
    since: From = None,
    until: To = None,
    types: Types = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many, the newest.  [default: all]", show_default=False)
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="csv, raven or audacity; once for each.  [default: csv]", show_default=False),
    ] = None,
    *,
    novel: Novel = False,
    pool: Pool = False,
    noise: Noise = False,
    clips: Annotated[bool, typer.Option("--clips", help="Fetch the sound of the songs, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as one JSON object.")] = False,
) -> None:
    """Write stored songs as tables, and their sound as clips.

    `csv`: *songs.csv*, every song with all that is known of it; onset and offset as UTC and in seconds from the start of the
    session.

    `audacity`: *audacity/STATION/START_SESSION.labels.txt*, one label track for each session, from its start.

    `--clips`: *clips/STATION/YYYYMMDD/HHMMSS_UID.flac*, each song with some sound around it.

    `raven`, with --clips: *clips.selections.txt*, one selection table over all clips, which Raven Pro opens together with them
    (File, Open Sound Selection Table). It names them by their full paths: export again after moving the folder.

    Stop it and start it again as you like: clips that are there are not fetched again. Songs whose clip the server has deleted
    or never kept are counted, and their column *clip* is empty.
    """
    asked = _Asked(stations, types, _time(since, "--from"), _time(until, "--to"), novel, pool, noise)
    chosen = _formats(formats or ["csv"], clips=clips)
    _check(asked, limit, None, watch=False, one_form=True)
    from songserve.archive.results import create_folder
    from songserve.clients.catalogue import CatalogueClient
    from songserve.exporting import write_tables

    # Before anything is fetched for it.
    create_folder(out)
    with connect(context) as connection, _stopped_by_ctrl_c(out):
        names, wanted = CatalogueClient(connection).names(), _stored(connection, asked)
        rows, kept, outcomes = _fetch(connection, wanted, limit, out if clips else None)
        files = write_tables(out, rows, kept, names, chosen)
    _tell(out, rows, outcomes, files, as_json=as_json)


def _time(text: str | None, option: str) -> datetime | None:
    """Return the time that an option says; without a zone it is UTC."""
    if text is None:
        return None
    try:
        given = datetime.fromisoformat(text)
        return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is no time; expected for example 2026-05-01 or 2026-05-01T04:30, UTC", param_hint=option
        ) from error


def _check(asked: _Asked, limit: int | None, resume: Path | None, *, watch: bool, one_form: bool) -> None:
    """Refuse options that do not go together."""
    check_interval(asked.start, asked.end)
    if watch and (asked.start or asked.end or limit):
        raise typer.BadParameter("--watch shows what comes in; --from, --to and --limit are for stored songs")
    if resume and not watch:
        raise typer.BadParameter("--resume goes with --watch only")
    if not one_form:
        raise typer.BadParameter("--uids or --json, not both")


def _formats(given: Sequence[str], *, clips: bool) -> list[str]:
    from songserve.exporting import FORMATS

    try:
        chosen = chosen_formats(given, FORMATS)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--format") from error
    if "raven" in chosen and not clips:
        raise typer.BadParameter("a Raven table is one over sound files; give --clips, too, for --format raven")
    return chosen


def _wanted(asked: _Asked, type_ids: Iterable[str]) -> "Wanted":
    """Return which songs these are; the ids are those of the types that are asked for, as they stand."""
    from songserve.clients.songs import Wanted

    return Wanted(
        stations=tuple(dict.fromkeys(asked.stations or ())),
        types=tuple(dict.fromkeys(type_ids)),
        start=asked.start,
        end=asked.end,
        only_novel=asked.novel,
        only_pool=asked.pool,
        include_noise=asked.noise,
    )


def _stored(connection: "Connection", asked: _Asked) -> "Wanted":
    """Return which stored songs these are; raises InputError STATION_UNKNOWN, NAME_INVALID or TYPE_UNKNOWN."""
    from songserve.clients.catalogue import CatalogueClient

    if nothing := _unheard(connection, asked.stations):
        raise InputError(nothing, reason="STATION_UNKNOWN")
    catalogue = CatalogueClient(connection)
    return _wanted(asked, [catalogue.find(text).id for text in asked.types or ()])


def _unheard(connection: "Connection", stations: Sequence[str] | None) -> str:
    """Return what to say of a station that the server has nothing of; empty when there is none such."""
    from songserve.clients.songs import SongClient

    return unheard(stations, SongClient(connection).novel_by_station(), where="server") if stations else ""


def _as_json(one: "SongRow", names: Mapping[str, str]) -> str:
    return plain_json({**asdict(one), "type_name": names.get(one.type, "")})


def _kind_of_song(one: "SongRow", names: Mapping[str, str]) -> str:
    """Return what a song is, for people."""
    said = " ".join(filter(None, (one.type, names.get(one.type, ""))))
    said = f"novel, near {said}" if one.is_novel else said
    notes = ["noise"] if one.kind == "noise" else []
    notes += [f"model: {one.model_type}"] if one.by_people else []
    return f"{said} ({', '.join(notes)})" if notes else said


def _cells(one: "SongRow", names: Mapping[str, str]) -> list[str]:
    figures = f"{one.similarity:.3f}", f"{one.p_value:.3f}", one.novelty, one.quality, f"{one.duration_s:.2f}"
    return [f"{one.start:%Y-%m-%d %H:%M:%S}", one.station, _kind_of_song(one, names), *figures, one.uid]


def _line(one: "SongRow", names: Mapping[str, str]) -> str:
    """Return a song on a line of its own, where no heading says what its numbers are."""
    start, station, kind, similarity, p_value, novelty, quality, duration_s, uid = _cells(one, names)
    figures = f"similarity {similarity}", f"p {p_value}", novelty, quality, f"{duration_s} s"
    return "  ".join((start, station, kind, *figures, uid))


def _print_table(rows: "Sequence[SongRow]", names: Mapping[str, str], most: int) -> None:
    shown = rows[:most]
    table = Table("start, UTC", "station", "type", title=f"{len(shown)} songs")
    add_number_columns(table, "similarity", "p")
    for heading in ("novelty", "quality"):
        table.add_column(heading)
    add_number_columns(table, "s")
    add_id_column(table, "song")
    for one in shown:
        # What people called a type may look like rich's markup.
        table.add_row(*map(escape, _cells(one, names)))
    if len(rows) > most:
        table.caption = f"the newest {most}; --limit for more, `songs export` for all"
    print_table(table)


def _watch(connection: "Connection", asked: _Asked, resume: Path | None, *, uids: bool, as_json: bool) -> None:
    """Print songs as they come in, until Ctrl-C."""
    from songserve.commands.songs_watch import followed, keep_token

    # A station may begin tonight.
    if nothing := _unheard(connection, asked.stations):
        print(f"songstream: {nothing}; waiting for it", file=sys.stderr)
    try:
        for seen, names in followed(connection, asked.types or (), partial(_wanted, asked), resume):
            for one in seen.songs:
                line = _as_json(one, names) if as_json else _line(one, names)
                print(one.uid if uids else line)
            sys.stdout.flush()
            if resume is not None:
                keep_token(resume, seen.token)
    except KeyboardInterrupt:
        return


@contextmanager
def _stopped_by_ctrl_c(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise ConfigError(
            f"stopped; the clips that were fetched are kept in {out}, the same command goes on from there",
            reason="INTERRUPTED",
        ) from None


def _fetch(
    connection: "Connection", wanted: "Wanted", limit: int | None, out: Path | None
) -> "tuple[list[SongRow], dict[str, ClipFile], Counter[ClipOutcome] | None]":
    """Return the songs in order of time and, where a folder is given for them, their clips and how many came how."""
    from songserve.clients.songs import SongClient
    from songserve.exporting import fetch_clips

    client = SongClient(connection)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        listing = bar.add_task("songs", total=None)
        # The newest where there is a limit, as with `list`; in order of time in either case.
        rows = []
        for one in client.songs(wanted, newest_first=limit is not None, limit=limit):
            rows.append(one)
            bar.update(listing, advance=1)
        bar.update(listing, total=len(rows))
        rows.sort(key=lambda one: (one.start, one.uid))
        if out is None:
            return rows, {}, None
        fetching = bar.add_task("clips", total=len(rows))
        kept, outcomes = fetch_clips(out, rows, client.clip, lambda _: bar.update(fetching, advance=1))
    return rows, kept, outcomes


_SAID = {
    "fetched": "fetched",
    "there": "there from an earlier run",
    "gone": "not kept by the server, or deleted since",
    "elsewhere": "on another server of the same store: export from that one, too",
    "damaged": "no sound file, as the server sent them: `songstream db check` there",
}


def _tell(
    out: Path, rows: Sequence[Any], outcomes: "Counter[ClipOutcome] | None", files: Iterable[Path], *, as_json: bool
) -> None:
    written = [str(file) for file in files]
    counts: dict[str, int] = {name: outcomes[name] for name in outcomes} if outcomes is not None else {}
    if as_json:
        clips = None if outcomes is None else {name: counts.get(name, 0) for name in _SAID}
        print(json.dumps({"out": str(out), "n_songs": len(rows), "clips": clips, "files": written}))
        return
    print(f"{len(rows):,} songs in {out}: {len(written)} {'table' if len(written) == 1 else 'tables'}")
    for name, said in _SAID.items():
        if counts.get(name):
            print(f"{counts[name]:,} clips {said}")
