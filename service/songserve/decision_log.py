"""People's decisions as a store has them, remembered so that a question costs one look for newer ones."""

import threading
from collections.abc import Sequence

from sqlalchemy import Connection, select

from songcore.decisions import Decision, View, fold, read_action
from songserve.schema import decisions

__all__ = ["DecisionLog"]

_NEWER = select(decisions).order_by(decisions.c.seq)


class DecisionLog:
    """The decisions read so far, and how things stand after them; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: tuple[tuple[Decision, ...], View] = ((), View())

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """All that were read, in order."""
        return self._state[0]

    @property
    def view(self) -> View:
        """How things stand after them."""
        return self._state[1]

    def read(self, connection: Connection) -> View:
        """Take in what is newer in the store; return how things stand."""
        rows = connection.execute(_NEWER.where(decisions.c.seq > self.view.last_seq)).all()
        return self.extend([Decision(row.seq, row.time_ms, row.who, read_action(row.action)) for row in rows])

    def extend(self, newer: Sequence[Decision]) -> View:
        """Take in decisions that are in the store; return how things stand."""
        with self._lock:
            known, view = self._state
            new = tuple(one for one in newer if one.seq > view.last_seq)
            if new:
                self._state = ((*known, *new), fold((*known, *new)))
            return self._state[1]
