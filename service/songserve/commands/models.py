"""``songstream models``: the bundles of a running server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from songcore.printed_json import plain_json, print_json
from songcore.printed_tables import add_number_columns, print_fields, print_table
from songserve.commands.remote import add_connection, connect

if TYPE_CHECKING:
    from songserve.clients.bundles import BundleClient

__all__ = ["models"]

models = typer.Typer(
    name="models",
    help="Look at the bundles of a running server, compare them on live songs, activate one and go back.\n\n"
    "Bundles are put on the server by hand or by `songstream recluster`: in its `models_dir`, each in a directory called by "
    "its digest. A swap loads and tries the new bundle first and disturbs no stream; whatever fails leaves the old one "
    "serving.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
add_connection(models)

shadow = typer.Typer(
    name="shadow",
    help="Compare a bundle with the active one on the songs that come in.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
models.add_typer(shadow)

Which = Annotated[
    str, typer.Argument(help="The bundle's name, its digest or the beginning of that.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do all but the swap.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_ONLY_JSON = {"frontend", "segmenter"}
"""Parts of the manifest, each of many settings."""


@models.command("list")
def list_models(context: typer.Context, *, as_json: Json = False) -> None:
    """List the bundles, the active one first, with what stands in their way."""
    with _asking(context) as client:
        bundles = client.list()
    if as_json:
        print_json([_plain(bundle) for bundle in bundles], sort_keys=True)
        return
    table = Table("digest", "name", "state")
    add_number_columns(table, "types")
    for heading in ("made", "parent", "findings"):
        table.add_column(heading)
    for bundle in bundles:
        parent = _short_digest(bundle.parent) or "none"
        made = f"{bundle.create_time.ToDatetime():%Y-%m-%d %H:%MZ}" if bundle.HasField("create_time") else ""
        state = type(bundle).State.Name(bundle.state).lower()
        reasons = ", ".join(finding.reason for finding in bundle.findings)
        cells = bundle.digest[:12], bundle.display_name, state, str(bundle.n_song_types), made, parent, reasons
        table.add_row(*map(escape, cells))
    print_table(table)


@models.command()
def show(context: typer.Context, which: Which, *, as_json: Json = False) -> None:
    """Show one bundle: gate, findings and what retrainings did to its types."""
    with _asking(context) as client:
        _tell(client.find(which), as_json=as_json)


@models.command()
def validate(context: typer.Context, which: Which, *, as_json: Json = False) -> None:
    """Let the server load a bundle and look at all that an activation would look at.

    Prints READY (ACTIVE for the active one), or what stands in the way; exit code 1 when something does.
    """
    with _asking(context) as client:
        bundle = client.validate(client.find(which))
    if not as_json:
        reasons = ", ".join(finding.reason for finding in bundle.findings)
        print(f"NOT READY: {reasons}" if reasons else type(bundle).State.Name(bundle.state))
    _tell(bundle, as_json=as_json)
    raise typer.Exit(bool(bundle.findings))


@models.command()
def activate(
    context: typer.Context,
    which: Which,
    accept: Annotated[
        list[str] | None, typer.Option(help="Reason of a finding that you accept; once for each.", show_default=False)
    ] = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a bundle the active one. Streams go on; songs that end from now on are named by it.

    What `songstream models validate` finds stands in the way unless it is accepted by its reason, for example
    `--accept PARENT_UNKNOWN`. Refused when somebody else changed something meanwhile.
    """
    with _asking(context) as client:
        _tell(client.activate(client.find(which), accepted=accept or [], dry_run=dry_run), as_json=as_json)


@models.command()
def rollback(context: typer.Context, *, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Make the bundle active that was active before; a second time, the one before that."""
    with _asking(context) as client:
        _tell(client.roll_back(dry_run=dry_run), as_json=as_json)


@models.command()
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 20,
    last: Annotated[int | None, typer.Option(min=1, max=1000, hidden=True, help="As --limit, by its old name.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what was done with bundles, when and by whom, the newest first."""
    with _asking(context) as client:
        events = client.events(last or limit)
    if as_json:
        print_json([_plain(event) for event in events], sort_keys=True)
        return
    table = Table("when", "what", "bundle", "who", "detail")
    for event in events:
        fields = _fields(event.detail)
        detail = plain_json(fields, sort_keys=True) if fields else ""
        when = f"{event.event_time.ToDatetime():%Y-%m-%d %H:%M:%SZ}"
        table.add_row(*map(escape, (when, event.kind, _short_digest(event.model_bundle), event.who, detail)))
    print_table(table)


@shadow.command("start")
def start_shadow(context: typer.Context, which: Which, *, as_json: Json = False) -> None:
    """Run a bundle beside the active one, in place of one that runs; songs are left out while the server is busy."""
    with _asking(context) as client:
        _tell(client.start_shadow(client.find(which)), as_json=as_json)


@shadow.command("show")
def show_shadow(context: typer.Context, *, as_json: Json = False) -> None:
    """Show the comparison so far."""
    with _asking(context) as client:
        _tell(client.shadow(), as_json=as_json)


@shadow.command("stop")
def stop_shadow(context: typer.Context, *, as_json: Json = False) -> None:
    """End the comparison and show it; it is also in the history."""
    with _asking(context) as client:
        _tell(client.stop_shadow(), as_json=as_json)


@contextmanager
def _asking(context: typer.Context) -> Iterator["BundleClient"]:
    from songserve.clients.bundles import BundleClient

    with connect(context) as connection:
        yield BundleClient(connection)


def _plain(message: Any) -> dict[str, Any]:
    """Return a message as JSON has it, with every field."""
    plain: dict[str, Any] = _fields(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return plain


def _tell(message: Any, *, as_json: bool) -> None:
    plain = _plain(message)
    if as_json:
        # Protobuf puts fields without a value last, whichever they are.
        print_json(plain, sort_keys=True)
        return
    ordered = sorted(plain.items(), key=lambda one: message.DESCRIPTOR.fields_by_name[one[0]].index)
    print_fields(
        (name, value if isinstance(value, str) else plain_json(value, sort_keys=True))
        for name, value in ordered
        if name not in _ONLY_JSON and value not in ("", [], {})
    )


def _short_digest(name: str) -> str:
    from songserve.clients.names import short_id

    return short_id(name)[:12]


def _fields(message: Any, **options: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return dict(MessageToDict(message, **options))
