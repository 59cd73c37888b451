"""The files of a spool, one at a time: written so that after a power cut each is whole up to a record."""

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from google_crc32c import value as crc32c

from songcore.durable import replace_file, sync
from songcore.errors import ConfigError
from songstation.outbox import Loss, LossReason
from songstation.spool_records import HEADER_BYTES, Kind, Record, pack, unpack_header
from songstation.spool_sessions import Session, SpooledSound

__all__ = [
    "SegmentFile",
    "file_name",
    "free_bytes",
    "is_locked",
    "lock_directory",
    "opening_bytes",
    "read_record",
    "rewrite_as_loss",
]


def file_name(number: int) -> str:
    """Return the name of the file with a number."""
    return f"{number:010d}.spool"


def opening_bytes(session: Session, number: int, sample: int, time_us: int, *, is_dropped: bool = False) -> bytes:
    """Return what a file begins with that begins at a number and sample: the session's description.

    Twice, as without one nothing in the file could be sent, should no other file of the session have it.
    """
    reason = LossReason.SPOOL_FULL if is_dropped else None
    return 2 * pack(
        Record(Kind.SESSION, session.uuid, number, number - 1, sample, 0, time_us, reason, session.to_json())
    )


class SegmentFile:
    """A new file, open for appending whole records; raises OSError, and then there is none.

    Name and opening are on the disk when this returns; what is appended is when `sync` returns.
    """

    def __init__(self, directory: Path, number: int, opening: bytes) -> None:
        self.number = number
        self._path = directory / file_name(number)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self.n_bytes = self.n_unsynced = 0
        try:
            self.append(opening)
            self.sync()
            sync(directory)
        except OSError:
            os.close(self._fd)
            self._path.unlink()
            raise

    def append(self, content: bytes) -> int:
        """Return where the content begins, all of it written; raises OSError, and then none of it is."""
        place = self.n_bytes
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            os.ftruncate(self._fd, place)
            raise
        self.n_bytes += len(content)
        self.n_unsynced += len(content)
        return place

    def sync(self) -> None:
        """Return when what was appended survives a power cut."""
        os.fdatasync(self._fd)
        self.n_unsynced = 0

    def close(self) -> None:
        """Close it, synced."""
        try:
            self.sync()
        finally:
            os.close(self._fd)


def rewrite_as_loss(path: Path, session: Session, items: Iterable[SpooledSound | Loss], time_us: int) -> int:
    """Replace the sound of a file by losses for a full spool, and return the file's new size.

    A file without any items is left as it is: there is nothing to give up in it.
    """
    merged: list[Loss] = []
    for item in items:
        is_sound = isinstance(item, SpooledSound)
        reason = LossReason.SPOOL_FULL if isinstance(item, SpooledSound) else item.reason
        last = merged[-1] if merged else None
        if last and is_sound and last.reason is reason:
            loss = Loss(
                last.sequence_number, last.start_sample, last.n_samples + item.n_samples, reason, item.last_number
            )
            merged[-1] = loss
        else:
            merged.append(Loss(item.sequence_number, item.start_sample, item.n_samples, reason, item.last_number))
    if not merged:
        return path.stat().st_size
    first = merged[0]
    content = opening_bytes(session, first.sequence_number, first.start_sample, time_us, is_dropped=True)
    for one in merged:
        numbers, samples = (one.sequence_number, one.last_number), (one.start_sample, one.n_samples)
        content += pack(Record(Kind.LOSS, session.uuid, *numbers, *samples, time_us, one.reason))
    try:
        replace_file(path, content)
    except OSError:
        # The disk has not even room for that beside the old file: in its place, then, which first makes room.
        with path.open("r+b") as file:
            file.truncate(0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return len(content)


def read_record(path: Path, place: int, session: UUID, number: int) -> bytes | None:
    """Return the data of a chunk, or None where it is not what was written."""
    try:
        with path.open("rb") as file:
            file.seek(place)
            header = unpack_header(file.read(HEADER_BYTES))
            if header is None:
                return None
            record, n_data, crc = header
            data = file.read(n_data)
    except OSError:
        return None
    # A file that was given up has a loss in the place of its first chunk, under the same number.
    is_it = (record.kind, record.session, record.number) == (Kind.SOUND, session, number)
    return data if is_it and (len(data), crc32c(data)) == (n_data, crc) else None


def free_bytes(directory: Path) -> int:
    """Return what the disk has left for this user."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def is_locked(directory: Path) -> bool:
    """Return whether a program has the directory."""
    try:
        lock = os.open(directory / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def lock_directory(directory: Path) -> int:
    """Return the descriptor of the lock on a directory, which is made if it is missing.

    Raises ConfigError SPOOL_IN_USE when another program has it, SPOOL_UNUSABLE when it cannot be written.
    """
    lock = -1
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigError(
            f"another station writes the spool {directory}; stop it, or name another --spool", reason="SPOOL_IN_USE"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the spool {directory} cannot be written ({error.strerror}); name a directory on a disk of this machine",
            reason="SPOOL_UNUSABLE",
        ) from error
    return lock
