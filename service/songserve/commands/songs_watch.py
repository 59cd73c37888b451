"""Following the songs that come in, across decisions, restarts of the server and of the watch itself."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from songcore.durable import replace_file
from songcore.errors import ConfigError
from songserve.clients.catalogue import CatalogueClient
from songserve.clients.connection import Connection
from songserve.clients.songs import Seen, SongClient, Wanted

__all__ = ["followed", "keep_token"]

AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses of a watch before it asks again, the last one for ever."""
AGAIN = {"SERVER_UNREACHABLE", "DRAINING", "IDLE", "OVERLOADED", "STREAM_LIMIT", "STORE_UNAVAILABLE"}


def followed(
    connection: Connection, types: Sequence[str], wanted: Callable[[Iterable[str]], Wanted], resume: Path | None
) -> Iterator[tuple[Seen, Mapping[str, str]]]:
    """Give what a watch brings, and the names of types, for ever; once it was connected, it waits for a server that is away.

    ``types`` are those that are asked for, each by its id or by the name that it has at the beginning; ``wanted`` says which
    songs these are, given their ids as they stand. Raises InputError NAME_INVALID, TYPE_UNKNOWN.
    """
    client, catalogue = SongClient(connection), CatalogueClient(connection)
    token, n_tries, connected = _kept_token(resume), 0, False
    ids = [catalogue.find_id(text) for text in types]
    while True:
        try:
            current, decided = catalogue.current_ids(ids) if ids else ((), None)
            names: dict[str, str] = {}
            named: str | None = None
            for seen in client.watch(wanted(current), token):
                connected = True
                # Its songs were chosen by ids from before this decision, or after: they are asked for again.
                if decided not in {None, seen.last_decision}:
                    break
                if named != seen.last_decision:
                    names, named = catalogue.names(), seen.last_decision
                yield seen, names
                token, n_tries = seen.token, 0
        except ConfigError as error:
            if error.reason == "RESUME_TOKEN_INVALID" and resume is not None:
                raise ConfigError(
                    f"{resume} is of another store, or of one that was put back since; delete it to begin anew, and see what "
                    "may be missing with `songs list --from`",
                    reason=error.reason,
                ) from error
            if not connected or error.reason not in AGAIN:
                raise
            pause_s = AGAIN_S[min(n_tries, len(AGAIN_S) - 1)]
            # On one line, as libraries' messages may have several.
            said = " ".join(str(error).split())
            print(f"songstream: {said} [{error.reason}]; again in {pause_s:.0f} s", file=sys.stderr)
            time.sleep(pause_s)
            n_tries += 1


def keep_token(resume: Path, token: str) -> None:
    """Write where to go on; raises ConfigError OUTPUT_NOT_WRITABLE."""
    try:
        replace_file(resume, f"{token}\n".encode(), mode=0o644)
    except OSError as error:
        raise ConfigError(f"{resume} cannot be written ({error.strerror})", reason="OUTPUT_NOT_WRITABLE") from error


def _kept_token(resume: Path | None) -> str:
    try:
        return resume.read_text().strip() if resume else ""
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{resume} cannot be read ({error})", reason="NOT_READABLE") from error
