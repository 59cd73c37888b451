"""``songstream retype``: what another bundle makes of the songs that are stored."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from songcore.errors import ConfigError
from songcore.printed_json import plain_json, print_json
from songcore.printed_tables import print_fields
from songserve.commands.remote import Ca, Certificate, Insecure, Key, TokenFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from songserve.clients.connection import Server
    from songserve.records import Retyping

__all__ = ["retype"]

GROUP = 64


def retype(  # noqa: PLR0913, PLR0917 - one parameter per option
    store: Annotated[
        str,
        typer.Option(
            envvar="SONGSTREAM_SERVE_DATA_DIR",
            help="The server's data directory, or `sqlite:///` and its file; the URL of its PostgreSQL with --data-dir.",
            show_default=False,
        ),
    ],
    bundle: Annotated[Path, typer.Option(help="Directory of the bundle that shall name them.", show_default=False)],
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the clips are, when --store is a URL.", show_default=False)
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            envvar="SONGSTREAM_SERVER",
            help="host:port of the server that runs on this store, which then writes the results, for an admin.",
            show_default=False,
        ),
    ] = None,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    token_file: TokenFile = None,
    device: Annotated[str, typer.Option(help="Where the encoder runs: auto, cpu or cuda.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Look at so many songs at most.", show_default=False)] = None,
    *,
    insecure: Insecure = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Name the stored songs with another bundle, and keep both results.

    The songs' rows stay as they are; what this bundle makes of them stands beside, by song and bundle, to be read from the
    table `retypings` or with `ListRetypings`. Songs that have a result already are left out, so it may be stopped and
    started again, and it finds what came in since.

    Where the bundle hears the same songs (front end, segmenter and features are those that heard them), it is given what the
    encoder saw, kept beside each clip. Otherwise it listens to the clip and takes the song that covers the same stretch;
    if there is none the song is *unheard*. Songs without a clip, or whose clip is deleted meanwhile, are *gone*: they are
    counted and nothing is written.

    While a server runs on a SQLite file nobody else may write to it: name the server with --server.

    Exit status: 0 done; 1 it could not be done.
    """
    from songcore.bundle import load_bundle
    from songserve.bundles.shadow import ShadowTally
    from songserve.checking import reading
    from songserve.clients.connection import Server
    from songserve.clips_shelf import clip_path, kept_features
    from songserve.database import CLIPS_FOLDER, shelf_name
    from songserve.retyping import Retyper, stored_name, wanted_songs

    if device not in {"auto", "cpu", "cuda"}:
        raise typer.BadParameter(f"device {device!r}; expected auto, cpu or cuda")
    place, url = _place(store, data_dir)
    model = load_bundle(bundle, device=device)  # type: ignore[arg-type] # one of the three, as checked
    retyper = Retyper(model, lambda clip: clip_path(place / CLIPS_FOLDER, clip.song_start_ms, clip.song), kept_features)
    counts, tally = Counter[str](), ShadowTally(model.manifest.lineage)
    asked = Server(server, ca, certificate, key, token_file, insecure) if server else None
    with ExitStack() as stack:
        engine = stack.enter_context(reading(place, url))
        keep = _keeper(stack, place, url, asked, model.digest)
        for group in wanted_songs(engine, model.digest, shelf_name(place), size=GROUP):
            named = retyper.name(group[: None if limit is None else max(0, limit - counts.total())])
            keep([row for one in named if (row := retyper.row(*one)) is not None])
            for one, outcome, name in named:
                counts[outcome] += 1
                if name:
                    tally.count(stored_name(one.song), name)
            if limit is not None and counts.total() >= limit:
                break
    report = {"bundle": model.digest, **{key: counts[key] for key in _OUTCOMES}, **tally.row()}
    if as_json:
        print_json(report)
        return
    print_fields((key, value if isinstance(value, str) else plain_json(value)) for key, value in report.items())


_OUTCOMES = ("features", "clip", "unheard", "gone", "damaged")


def _place(store: str, data_dir: Path | None) -> tuple[Path, str | None]:
    """Return the data directory and, for PostgreSQL, its URL."""
    from songserve.database import store_place

    place, url = store_place(store)
    if url is None:
        return place, None
    if data_dir is None:
        raise ConfigError(
            "with the URL of a PostgreSQL, --data-dir must say where the clips are", reason="SETTING_INVALID"
        )
    return data_dir, url


def _keeper(
    stack: ExitStack, place: Path, url: str | None, server: "Server | None", bundle: str
) -> "Callable[[Sequence[Retyping]], object]":
    """Return what writes results: the server at that address, or this process when no server is on the store."""
    if server is not None:
        from songserve.bundles.retypings import retypings_request
        from songserve.clients.connection import Connection
        from songserve.v1.models_pb2_grpc import ModelBundleServiceStub

        connection = stack.enter_context(Connection(server))
        add = connection.stub(ModelBundleServiceStub).AddRetypings
        return lambda found: connection.call(add, retypings_request(found, bundle))
    from songserve.database import DataDirectory
    from songserve.store import Store

    directory = DataDirectory(
        place, database_url=url, beside_server="name it with --server, which then writes the results, or stop it first"
    )
    stack.callback(directory.close)
    writer = Store(directory, group_window_s=0.0, min_free_bytes=0, observe=lambda *_: None)
    stack.callback(writer.close)
    return lambda found: writer.add_retypings(found).result()
