"""Losses that no file of the spool has yet, on the disk all the same.

A full disk takes no record, and a full spool is not to grow with every chunk that it loses. So what is being lost lies in a
file whose room was taken when the disk had some, and is written in place: two copies by turns, each with a counter and a
checksum, so that a torn one leaves the one before. What it says is compared with the spool's files when it is read: a loss
that a file has by then does not count again.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any

from google_crc32c import value as crc32c

from songstation.outbox import MAX_LOSS_S, LossReason
from songstation.spool_records import Kind, Record
from songstation.spool_sessions import Session

__all__ = ["FILE_NAME", "LossFile", "PendingLoss", "read_losses"]

FILE_NAME = "losses"
COPY_BYTES = 16 * 1024
"""Room for the losses of some forty sessions: each change of clock or device while the disk is full begins one."""
_HEAD = Struct("<QII")
"""Counter, bytes of text, checksum of counter, bytes and text."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PendingLoss:
    """The samples of a session that are lost behind what its files have."""

    session: Session
    number: int
    """The last in the session's files."""
    sample: int
    """The first that is lost."""
    n_samples: int
    reason: LossReason
    time_us: int
    """Since 1970, when the first was captured."""

    def records(self) -> Iterator[Record]:
        """Yield the records that declare it, none longer than the protocol takes."""
        number, sample, left = self.number, self.sample, self.n_samples
        while left:
            number += 1
            n_samples = min(left, MAX_LOSS_S * self.session.sample_rate_hz)
            yield Record(Kind.LOSS, self.session.uuid, number, number, sample, n_samples, self.time_us, self.reason)
            sample, left = sample + n_samples, left - n_samples

    def to_dict(self) -> dict[str, Any]:
        """Return it for the file."""
        facts = {"number": self.number, "sample": self.sample, "n_samples": self.n_samples, "time_us": self.time_us}
        return {**facts, "reason": self.reason.value, "session": self.session.to_json().decode()}

    @staticmethod
    def from_dict(facts: dict[str, Any]) -> "PendingLoss":
        """Return it; raises ValueError, KeyError or TypeError when it is none."""
        session = Session.from_json(facts["session"].encode())
        return PendingLoss(**facts | {"session": session, "reason": LossReason(facts["reason"])})


class LossFile:
    """The file, held open by the program that writes the spool."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._counter, self._losses = _newest(self._path)
        self._is_synced = True
        self._handle = -1
        self._open()

    def save(self, losses: Sequence[PendingLoss], *, sync: bool) -> None:
        """Write the losses where they have changed; ``sync`` returns when that survives a power cut."""
        losses = tuple(losses)
        try:
            if losses != self._losses and self._open():
                self._write(losses)
                self._losses, self._is_synced = losses, False
            if sync and not self._is_synced:
                os.fdatasync(self._handle)
                self._is_synced = True
        except OSError as error:
            log.warning("what is lost cannot be noted: %s", error)

    def close(self) -> None:
        """Close it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _open(self) -> bool:
        """Return whether the file is there, with all its room; where the disk has none, it is tried again the next time."""
        if self._handle >= 0:
            return True
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            log.warning("what is lost cannot be noted: %s", error)
            return False
        try:
            missing = 2 * COPY_BYTES - os.fstat(handle).st_size
            if missing > 0:
                # Zeros that were written, as room that was only reserved may have to be taken anew at the first write.
                os.pwrite(handle, bytes(missing), 2 * COPY_BYTES - missing)
                os.fsync(handle)
        except OSError as error:
            log.warning("what is lost cannot be noted: %s", error)
            os.close(handle)
            return False
        self._handle = handle
        return True

    def _write(self, losses: tuple[PendingLoss, ...]) -> None:
        texts = [json.dumps(one.to_dict()) for one in losses]
        while _HEAD.size + sum(len(text.encode()) + 2 for text in texts) > COPY_BYTES:
            log.error("too many sessions have losses to note them all: a kill now would make one of these forgotten")
            del texts[0]
        text = f"[{','.join(texts)}]".encode()
        counter = self._counter + 1
        os.pwrite(self._handle, _packed(counter, text), counter % 2 * COPY_BYTES)
        self._counter = counter


def read_losses(directory: Path) -> tuple[PendingLoss, ...]:
    """Return what was being lost when the program that wrote the spool ended; nothing where that cannot be read."""
    return _newest(directory / FILE_NAME)[1]


def _packed(counter: int, text: bytes) -> bytes:
    return _HEAD.pack(counter, len(text), crc32c(_HEAD.pack(counter, len(text), 0) + text)) + text


def _newest(path: Path) -> tuple[int, tuple[PendingLoss, ...]]:
    """Return the counter and the losses of the newest whole copy."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0, ()
    newest: tuple[int, tuple[PendingLoss, ...]] = 0, ()
    for begin in (0, COPY_BYTES):
        copy = content[begin : begin + COPY_BYTES]
        if len(copy) < _HEAD.size:
            continue
        counter, n_bytes, _ = _HEAD.unpack_from(copy)
        text = copy[_HEAD.size : _HEAD.size + n_bytes]
        if counter <= newest[0] or copy[: _HEAD.size + n_bytes] != _packed(counter, text):
            continue
        try:
            newest = counter, tuple(map(PendingLoss.from_dict, json.loads(text)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged and left aside: %s", path, error)
    return newest
