"""``songstream db``: looks after the store of a server."""

import json
import os
import tomllib
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from songcore.errors import ConfigError

__all__ = ["db"]

db = typer.Typer(
    name="db",
    help="Check, upgrade, back up and restore the store of a server.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="SONGSTREAM_SERVE_DATA_DIR", help="The server's data directory.", show_default=False),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="SONGSTREAM_SERVE_DATABASE_URL",
        help="The server's PostgreSQL, when it uses one; with a password better given in the environment.",
        show_default=False,
    ),
]
Config = Annotated[Path | None, typer.Option(help="The server's settings file, to take both from.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@db.command()
def check(
    data_dir: DataDir = None, database_url: DatabaseUrl = None, config: Config = None, *, as_json: Json = False
) -> None:
    """Check that the store agrees with itself; exit code 1 when it does not.

    Looks at the pages of a SQLite file, counts all songs anew and compares, compares effort and declared gaps with what
    sessions have committed, and looks for the file of every clip of this data directory; those of others on the same
    PostgreSQL are counted. Writes nothing, and a server may be running. A million songs take about a minute.
    """
    from songserve.checking import check_store

    report = check_store(*_place(data_dir, database_url, config))
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        print(
            f"schema {report.revision}: {report.n_sessions} sessions, {report.n_songs} songs, "
            f"{report.recorded_s / 3600:.1f} hours recorded, {report.n_clips} clips of {report.clip_bytes / 2**20:.1f} MiB"
        )
        if report.n_clips_elsewhere:
            print(f"{report.n_clips_elsewhere} of these clips are of other data directories and were not looked at")
        for note in report.notes:
            print(f"note: {note}")
        for problem in report.problems:
            print(f"problem: {problem}")
        print("not sound" if report.problems else "sound")
    raise typer.Exit(bool(report.problems))


@db.command()
def upgrade(
    data_dir: DataDir = None, database_url: DatabaseUrl = None, config: Config = None, *, as_json: Json = False
) -> None:
    """Bring the store of an older songstream up to date, in one transaction.

    `songstream serve` does so by itself at start; this does it ahead. No server may be running. Take a backup first: an
    older songstream cannot read what a newer one has upgraded.
    """
    from songserve.database import DataDirectory
    from songserve.schema import REVISION

    place, url = _place(data_dir, database_url, config)
    directory = DataDirectory(place, database_url=url)
    directory.close()
    if as_json:
        print(json.dumps({"revision_before": directory.revision_before, "revision": REVISION}))
    else:
        print(f"schema {REVISION}")


@db.command()
def backup(
    target: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: Config = None,
    *,
    as_json: Json = False,
) -> None:
    """Write a copy of the database, as of one moment, while a server may be running.

    SQLite is copied by its backup interface and the copy is checked; PostgreSQL by pg_dump. Clips and bundles are files: copy
    the folders `clips` and `models` afterwards, then every clip that the backup knows and that is not deleted since is in
    the copy.
    """
    from songserve.backups import back_up

    n_bytes = back_up(*_place(data_dir, database_url, config), target, os.environ)
    if as_json:
        print(json.dumps({"backup": str(target), "n_bytes": n_bytes}))
    else:
        print(f"{target}: {n_bytes / 2**20:.1f} MiB")


@db.command()
def restore(
    source: Annotated[Path, typer.Argument(help="File that `songstream db backup` wrote.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: Config = None,
    *,
    as_json: Json = False,
) -> None:
    """Put a backup in the place of the database. No server may be running.

    The backup is checked first and upgraded; a SQLite file that was in the place keeps its name with the time behind. Copy the
    folders `clips` and `models` back before or after. Stations send again what they still hold and the backup does not.
    Tokens of WatchSongs are void afterwards.
    """
    from songserve.backups import restore as put_back
    from songserve.schema import REVISION

    done = put_back(*_place(data_dir, database_url, config), source, os.environ, now=datetime.now(UTC))
    if as_json:
        print(json.dumps({"restored": str(source), "revision": REVISION, **asdict(done)}, default=str))
        return
    kept = [(done.kept, "the database before"), (done.kept_shelf, "the directory's name before")]
    print("; ".join([f"restored {source}", *(f"{what} is {path}" for path, what in kept if path)]))


def _place(data_dir: Path | None, database_url: str | None, config: Path | None) -> tuple[Path, str | None]:
    """Return where the store is: options and environment over the settings file."""
    settings: dict[str, object] = {}
    if config is not None:
        try:
            settings = tomllib.loads(config.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the settings file {config} cannot be read: {error}", reason="SETTING_INVALID"
            ) from error
    place, url = data_dir or settings.get("data_dir"), database_url or settings.get("database_url")
    if place is None:
        raise ConfigError(
            "no data directory: give --data-dir, SONGSTREAM_SERVE_DATA_DIR, or a settings file",
            reason="SETTING_INVALID",
        )
    return Path(str(place)), None if url is None else str(url)
