"""``songstream types``: look at the song types of a running server, and decide about them."""

import getpass
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from songcore.errors import InputError
from songcore.printed_json import print_json
from songcore.printed_tables import add_id_column, add_number_columns, print_table
from songserve.commands.remote import add_connection, connect

if TYPE_CHECKING:
    from songserve.clients.catalogue import CatalogueClient, DecisionRow, TypeRow
    from songserve.clients.songs import SongClient, SongRow

__all__ = ["types"]

types = typer.Typer(
    name="types",
    help=(
        "Look at the song types of a running server and decide about them. Decisions count at once, are kept with who decided "
        "and when, and hold in later trainings; what the model said stays on every song."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
add_connection(types)

_UID = re.compile(r"(songs/)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Type = Annotated[
    str, typer.Argument(metavar="TYPE", help="Id of the type, for example T0042, or its name.", show_default=False)
]
By = Annotated[
    str | None,
    typer.Option(
        help="Who decides [default: the login name]; with a token it is the token's name.", show_default=False
    ),
]
Etag = Annotated[
    str | None,
    typer.Option(
        help="Decide only if nobody decided about the type since `show` printed this [default: as it is now].",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@types.command("list")
def list_types(context: typer.Context, *, as_json: Json = False) -> None:
    """List the types: those of the model and those that people made, with how many songs of each are stored."""
    from songserve.clients.songs import SongClient

    with connect(context) as connection:
        found = _client(connection).types()
        n_novel = sum(SongClient(connection).novel_by_station().values())
    if as_json:
        print_json({"types": [asdict(one) for one in found], "n_novel": n_novel})
        return
    table = Table("type", "name", "kind", title=f"{len(found)} song types")
    add_number_columns(table, "songs")
    table.add_column("origin")
    for one in found:
        # What people called a type may look like rich's markup.
        table.add_row(one.id, escape(one.name), one.kind, f"{one.n_songs:,}", _origin(one))
    print_table(table)
    more = "; `songstream songs list --novel` shows them" if n_novel else ""
    print(f"novel songs, of no type yet: {n_novel:,}{more}")


@types.command()
def show(
    context: typer.Context,
    type_id: Type,
    n_songs: Annotated[int, typer.Option("--songs", min=0, max=1000, help="How many of its latest songs.")] = 10,
    clips: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Save the sound of these songs in this folder.", show_default=False),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show one type: its typical songs, what people decided about it, and its latest songs whose sound is kept."""
    from songserve.clients.songs import SongClient, Wanted

    with connect(context) as connection:
        client, song_client = _client(connection), SongClient(connection)
        one = client.type(client.find_id(type_id))
        latest = song_client.songs(Wanted(types=(one.id,), only_with_clip=True), newest_first=True, limit=n_songs)
        songs = list(latest) if n_songs else []
        decisions = list(client.history(one.id))
        files = [_save(song_client, song, clips) for song in songs] if clips else []
    if as_json:
        print_json(
            {
                "type": asdict(one),
                "decisions": [asdict(decision) for decision in decisions],
                "songs": [asdict(song) for song in songs],
                "clips": [str(file) for file in files],
            }
        )
        return
    _print_type(one)
    if decisions:
        print_table(_history_table(decisions, "Decisions about it"))
    if songs:
        print_table(_song_table(songs, "Latest songs whose sound is kept"))
    if files:
        print(f"saved {len(files)} clips in {clips}")


@types.command()
def name(
    context: typer.Context,
    type_id: Type,
    new_name: Annotated[str, typer.Argument(metavar="NAME", help="Its name; '' for that of the model again.")],
    by: By = None,
    etag: Etag = None,
    *,
    as_json: Json = False,
) -> None:
    """Give a type a name of its own."""
    with connect(context) as connection:
        client = _client(connection, by)
        found = client.find_id(type_id)
        _print_changed(client.name(found, new_name, etag=etag or client.type(found).etag), as_json=as_json)


@types.command()
def merge(
    context: typer.Context,
    type_id: Type,
    into: Annotated[
        str, typer.Option(help="The type that its songs are of from now on, by id or name.", show_default=False)
    ],
    by: By = None,
    etag: Etag = None,
    into_etag: Annotated[str | None, typer.Option(help="The same of the other type.", show_default=False)] = None,
    *,
    as_json: Json = False,
) -> None:
    """Merge a type into another: its songs, of the past and of the future, count for that one."""
    with connect(context) as connection:
        client = _client(connection, by)
        found, other = client.find_id(type_id), client.find_id(into)
        etags = (etag or client.type(found).etag, into_etag or client.type(other).etag)
        _print_changed(client.merge(found, other, etag=etags[0], into_etag=etags[1]), as_json=as_json)


@types.command()
def split(
    context: typer.Context,
    type_id: Type,
    songs: Annotated[list[str] | None, typer.Argument(help="Uids of songs, as `show` lists them.")] = None,
    file: Annotated[
        typer.FileBinaryRead | None, typer.Option("--from", help="File with one uid a line, or - for standard input.")
    ] = None,
    by: By = None,
    etag: Etag = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a new type of some songs of a type; its id begins with P."""
    uids = [*(songs or ()), *(_read_uids(file.read(), getattr(file, "name", "standard input")) if file else ())]
    with connect(context) as connection:
        client = _client(connection, by)
        found = client.find_id(type_id)
        _print_changed(client.split(found, uids, etag=etag or client.type(found).etag), as_json=as_json)


@types.command()
def noise(context: typer.Context, type_id: Type, by: By = None, etag: Etag = None, *, as_json: Json = False) -> None:
    """Say that a type is noise: it is recognised, counted apart, and never novel."""
    with connect(context) as connection:
        client = _client(connection, by)
        found = client.find_id(type_id)
        _print_changed(client.mark(found, "noise", etag=etag or client.type(found).etag), as_json=as_json)


@types.command()
def song(context: typer.Context, type_id: Type, by: By = None, etag: Etag = None, *, as_json: Json = False) -> None:
    """Say that a type is song, when it was taken for noise."""
    with connect(context) as connection:
        client = _client(connection, by)
        found = client.find_id(type_id)
        _print_changed(client.mark(found, "song", etag=etag or client.type(found).etag), as_json=as_json)


@types.command()
def undo(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=1, help="Number of the decision, from `history`.", show_default=False)],
    by: By = None,
    *,
    as_json: Json = False,
) -> None:
    """Take a decision back, as if it had never been made; it stays in the history."""
    with connect(context) as connection:
        done = _client(connection, by).undo(number)
    if as_json:
        print_json({"decision": asdict(done)})
    else:
        print(f"decision {done.number}: {done.by} undid decision {done.detail}")


@types.command()
def history(
    context: typer.Context,
    type_id: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="Only about this type, by id or name.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 100,
    *,
    as_json: Json = False,
) -> None:
    """List who decided what and when, the newest first."""
    with connect(context) as connection:
        client = _client(connection)
        # Nothing was decided about a type that there is not, which an empty list would not say.
        about = None if type_id is None else client.find_id(type_id)
        found = list(islice(client.history(about), limit))
    if as_json:
        print_json({"decisions": [asdict(one) for one in found]})
    else:
        print_table(_history_table(found, "Decisions"))


def _client(connection: Any, by: str | None = None) -> "CatalogueClient":
    from songserve.clients.catalogue import CatalogueClient

    return CatalogueClient(connection, by=by or _login())


def _read_uids(content: bytes, name: str) -> list[str]:
    """Return the uid that begins each line that is not empty; raises InputError NAME_INVALID, naming the line."""
    uids = []
    # Spreadsheets and Windows' editor begin a file with a byte order mark.
    for number, line in enumerate(content.removeprefix(BOM_UTF8).splitlines(), 1):
        # What is no UTF-8 shows as what it is, and is no uid.
        cells = line.decode("utf-8", "backslashreplace").split()
        if cells and not _UID.fullmatch(cells[0]):
            raise InputError(
                f"{name}, line {number}: {' '.join(cells)[:80]!r} is no uid of a song; expected one uid a line, in UTF-8, as "
                "`songstream songs list --uids` prints them; in an exported songs.csv they are the column uid",
                reason="NAME_INVALID",
            )
        uids += cells[:1]
    return uids


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return ""


def _save(client: "SongClient", one: "SongRow", folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{one.type}_{one.start:%Y%m%d_%H%M%S}_{one.station}_{one.uid}.flac"
    file.write_bytes(client.clip(one.uid))
    return file


def _origin(one: "TypeRow") -> str:
    parts = [f"merged into {one.merged_into}"] if one.merged_into else []
    parts += [f"split from {one.split_from}"] if one.split_from else []
    parts += [f"with {', '.join(one.merged)}"] if one.merged else []
    parts += [f"retired; now {' and '.join(one.heirs) or 'without a type'}"] if one.retired else []
    return "; ".join(parts)


def _print_type(one: "TypeRow") -> None:
    called = f" {one.name!r}" if one.name else ""
    print(f"{one.id}{called}, {one.kind}: {one.n_songs:,} songs stored, {one.n_training_songs:,} in training")
    if origin := _origin(one):
        print(origin)
    print(f"etag {one.etag}")
    if one.exemplars:
        print(f"typical songs of the training set: {', '.join(one.exemplars)}")


def _print_changed(one: "TypeRow", *, as_json: bool) -> None:
    if as_json:
        print_json({"type": asdict(one)})
    else:
        _print_type(one)


def _song_table(songs: Iterable["SongRow"], title: str) -> Table:
    table = Table("start, UTC", "station", title=title)
    add_number_columns(table, "s", "SNR, dB")
    table.add_column("model said")
    add_number_columns(table, "similarity")
    add_id_column(table, "song")
    for one in songs:
        said = f"{one.model_type} (people: {one.type})" if one.by_people else one.model_type
        start = f"{one.start:%Y-%m-%d %H:%M:%S}"
        figures = (f"{one.duration_s:.2f}", f"{one.snr_db:.0f}")
        table.add_row(start, one.station, *figures, said, f"{one.similarity:.3f}", one.uid)
    return table


def _history_table(decisions: Iterable["DecisionRow"], title: str) -> Table:
    table = Table(title=title)
    add_number_columns(table, "number")
    for heading in ("time, UTC", "by", "type", "decision", "undone"):
        table.add_column(heading)
    for one in decisions:
        words = {
            "name": f"is called {one.detail!r}",
            "merge": f"merged into {one.detail}",
            "undo": f"undid {one.detail}",
        }
        words |= {"split": f"{one.n_songs} songs became {one.detail}", "noise": "is noise", "song": "is song"}
        undone = "yes" if one.undone else ""
        cells = one.by, one.type, words[one.action], undone
        table.add_row(str(one.number), f"{one.time:%Y-%m-%d %H:%M:%S}", *map(escape, cells))
    return table
