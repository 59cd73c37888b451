"""The outbox of the session that is being captured, which gives way to a new session after an outage."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from songstation.outbox import Loss, LossReason
from songstation.spool import Spool
from songstation.spool_outbox import SpoolOutbox
from songstation.spool_sessions import SpooledSound

__all__ = ["LiveOutbox"]


class LiveOutbox(SpoolOutbox):
    """As long as the server is there, or away for less than ``outage_s``: what is captured goes out in order.

    After a longer outage `is_behind` is set when the server answers again, and nothing is sent: what is heard now must not
    wait for what was heard then. Meanwhile nothing is held in memory; the spool has it.
    """

    def __init__(
        self,
        spool: Spool,
        session: UUID,
        *,
        outage_s: float,
        now_s: Callable[[], float],
        on_lost: Callable[[int, LossReason], None],
    ) -> None:
        self._outage_s, self._now_s = outage_s, now_s
        self._away_since_s: float | None = now_s()
        self._n_passed_by = 0
        self.is_behind = False
        """The server is there again, and this session has to be ended for a new one."""
        super().__init__(spool, session, on_lost=on_lost)

    @property
    def is_connected(self) -> bool:
        """Return whether the server has answered on the present stream."""
        return self._open

    def keep(self, items: list[SpooledSound | Loss]) -> None:
        """Take what was written, unless the outage is so long that it will go out by another way."""
        if self._gives_way or self._n_passed_by:
            self._n_passed_by += len(items)
        else:
            super().keep(items)

    def feed(self) -> bool:
        """Read on in the files, unless what is in them goes out by another way."""
        if not self._spool.is_writing(self._session):
            self._n_passed_by = 0
        return not (self._gives_way or self._n_passed_by) and super().feed()

    def opened(self, *, expected: int, committed_sample: int, finished: bool = False, **answer: Any) -> None:
        """Begin sending, or say that it is time for a new session."""
        if self._gives_way or (self._n_passed_by and self._spool.is_writing(self._session)):
            self.is_behind = True
            return
        self._away_since_s = None
        super().opened(expected=expected, committed_sample=committed_sample, finished=finished, **answer)

    def closed(self) -> None:
        """Note that the stream is gone."""
        super().closed()
        if self._away_since_s is None:
            self._away_since_s = self._now_s()

    @property
    def _gives_way(self) -> bool:
        is_long = self._away_since_s is not None and self._now_s() - self._away_since_s > self._outage_s
        return is_long and self._spool.is_writing(self._session)
