"""What tells that a file was changed since it was read, without reading it."""

from pathlib import Path

__all__ = ["Fingerprint", "fingerprint"]

Fingerprint = tuple[int, int, int, int]


def fingerprint(path: Path) -> Fingerprint | None:
    """Return times in nanoseconds since 1970, bytes and inode of a file, or None when it cannot be looked at.

    The time of the inode's change is among them, as chmod and chown, and copies that keep a time, move no other.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
