"""The file of the tokens' hashes, beside the database and not in it.

So that `songstream token` works while a server runs (one connection alone writes a SQLite), a backup of the songs holds no
credentials, and callers are known while the database is away. It is replaced whole, and read again when it changed.
"""

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from songcore.durable import sync
from songcore.errors import ConfigError
from songserve.security.followed_files import FollowedFiles
from songserve.security.tokens import TokenBook

__all__ = ["TokenFile", "change_tokens", "read_tokens"]

MAX_BYTES = 16 * 2**20


class TokenFile:
    """The book as the file has it now; raises ConfigError when it cannot be read at the beginning, and follows it then."""

    def __init__(self, path: Path) -> None:
        self._file = FollowedFiles([path], partial(read_tokens, path), kept="the tokens read before stay valid")

    @property
    def book(self) -> TokenBook:
        """The holders, at most one look at the file's times old."""
        self._file.look()
        return self._file.content


def read_tokens(path: Path) -> TokenBook:
    """Return the book of a file; raises ConfigError TOKENS_UNREADABLE or TOKENS_EXPOSED."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise ConfigError(f"the token file {path} is no file of tokens", reason="TOKENS_UNREADABLE")
            content = file.read()
    except OSError as error:
        raise ConfigError(
            f"the token file {path} cannot be read ({error.strerror}); make one with `songstream token add`",
            reason="TOKENS_UNREADABLE",
        ) from error
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"others may write the token file {path}, and so let themselves in; chmod 600 {path}",
            reason="TOKENS_EXPOSED",
        )
    try:
        return TokenBook.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"the token file {path} cannot be used: {where or 'it'}: {first['msg']}", reason="TOKENS_UNREADABLE"
        ) from None


def change_tokens(path: Path, change: Callable[[TokenBook], TokenBook]) -> TokenBook:
    """Replace the file's book by what ``change`` makes of it, whole or not at all; a missing file is an empty book.

    Changes of several programs follow one another. Raises ConfigError TOKENS_UNREADABLE, TOKENS_EXPOSED or
    TOKENS_UNWRITABLE, and what ``change`` raises.
    """
    try:
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            book = change(read_tokens(path) if path.exists() else TokenBook())
            _replace(path, book.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise ConfigError(
            f"the token file {path} cannot be written ({error.strerror}); fix the owner of its directory",
            reason="TOKENS_UNWRITABLE",
        ) from error
    return book


def _replace(path: Path, content: bytes) -> None:
    owner = path.stat() if path.exists() else None
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            if owner and os.geteuid() == 0:  # root changes it for the server's user
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)
