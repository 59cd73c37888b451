"""Files that a power cut leaves whole, old or new."""

import os
from pathlib import Path

__all__ = ["replace_file", "sync"]


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Give a file new content, also when the power fails all of it or none; only this user may read it by default.

    Raises OSError, and leaves the file as it was.
    """
    scratch = path.with_name(f"{path.name}.new")
    try:
        # Root may do this in a folder of somebody else's, who could have put a link there that leads to another file.
        with open(scratch, "wb", opener=_open_no_link) as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        sync(path.parent)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def sync(path: Path) -> None:
    """Have the disk take what the system holds of a file, or of the names in a folder; raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
