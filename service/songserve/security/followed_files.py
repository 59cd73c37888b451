"""Files whose content is kept, and read again when they have changed."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from songcore.errors import ConfigError

__all__ = ["FollowedFiles"]

log = logging.getLogger(__name__)

Content = TypeVar("Content")


class FollowedFiles(Generic[Content]):
    """What ``read`` makes of files, as they are now; raises the ConfigError that it raises at the beginning.

    What cannot be used later is logged once, with what is ``kept`` instead, so that an operator's slip does not shut all out.
    It is tried again at each look: what is put right counts at once, whatever the files' times say.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], Content], *, kept: str) -> None:
        self._paths, self._read, self._kept = paths, read, kept
        self._seen = self._fingerprints()  # before the content: what changes in between is read again
        self.content = read()
        """The last that could be used."""
        self._problem = ""

    def look(self) -> bool:
        """Read the files where they have changed; return whether there is new content."""
        now = self._fingerprints()
        if now == self._seen:
            self._problem = ""  # all is well, also where only a folder or disk was away: the next time is told again
            return False
        try:
            self.content = self._read()
        except ConfigError as error:
            if str(error) != self._problem:
                log.error("%s; %s", error, self._kept)  # noqa: TRY400 - the message says all
            self._problem = str(error)
            return False
        self._seen, self._problem = now, ""
        return True

    def _fingerprints(self) -> list[tuple[int, int, int, int] | None]:
        return [_fingerprint(path) for path in self._paths]


def _fingerprint(path: Path) -> tuple[int, int, int, int] | None:
    """Return what tells that a file was changed, without reading it; None when it cannot be looked at.

    The time of the inode's change is among it, as chmod and chown, and copies that keep a time, move no other.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
