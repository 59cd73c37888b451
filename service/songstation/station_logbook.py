"""What happens at a station, counted and logged; and a picture of how it is."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from songstation.clock import SampleClock
from songstation.dialogue import ClockQuality, HeardSong, Pulse, SessionNotice
from songstation.outbox import LossReason
from songstation.recovery import Failure
from songstation.spool import Spool
from songstation.station_account import Account, Picture

__all__ = ["Logbook"]

log = logging.getLogger(__name__)


class Logbook:
    """Counts what it is told, and looks into the spool when it is asked."""

    def __init__(
        self,
        spool: Spool,
        *,
        now: Callable[[], datetime],
        clock_quality: Callable[[], ClockQuality],
        on_song: Callable[[HeardSong], None],
    ) -> None:
        self._spool, self._now, self._clock_quality, self._hear = spool, now, clock_quality, on_song
        self.account = Account()

    def heard(self, song: HeardSong) -> None:
        """Count a song and pass it on."""
        self.account.n_songs += 1
        self.account.n_novel += song.novel
        self._hear(song)

    def troubled(self, failure: Failure, delay_s: float) -> None:
        """Note how a stream ended."""
        self.account.n_streams_failed[failure.code or failure.reason] += 1
        self.account.last_trouble = str(failure)
        log.warning("%s; trying again in %.1f s, sound is kept", failure, delay_s)

    def refused(self, failure: Failure, delay_s: float) -> None:
        """Note that the server refuses a session: somebody has to do something about it."""
        self.account.n_streams_failed[failure.code or failure.reason] += 1
        self.account.last_trouble = str(failure)
        log.error("the server refuses this station: %s; asking again in %.0f s, sound is kept", failure, delay_s)

    def noticed(self, notice: SessionNotice) -> None:
        """Log what the server says."""
        log.warning("the server says: %s", notice.message or notice.kind)

    def lost(self, session: UUID, n_samples: int, reason: LossReason) -> None:
        """Count samples that are declared lost."""
        description = self._spool.sessions.get(session)
        if description is not None and n_samples:
            self.account.lost_s[reason] += n_samples / description.sample_rate_hz

    def pulse(self) -> Pulse:
        """Return what a heartbeat says."""
        spool = self._spool
        return Pulse(
            spool.index.held_bytes, self._oldest(), spool.free_bytes, spool.room_bytes, clock=self._clock_quality()
        )

    def picture(
        self,
        station: str,
        *,
        device: str,
        session: UUID | None,
        is_connected: bool,
        refusal: str,
        clock: SampleClock,
    ) -> Picture:
        """Return how the station is now."""
        spool = self._spool
        totals = [(one.sample_rate_hz, spool.totals(uuid)) for uuid, one in list(spool.sessions.items())]
        return Picture(
            station=station,
            time=self._now(),
            device=device,
            sample_rate_hz=clock.sample_rate_hz if session else 0,
            session=str(session) if session else "",
            is_connected=is_connected,
            refused=refusal,
            sessions_waiting=len(spool.unfinished()),
            captured_samples=sum(one.captured for _, one in totals),
            committed_samples=sum(one.committed for _, one in totals),
            waiting_samples=sum(one.waiting for _, one in totals),
            waiting_s=sum(one.waiting / rate for rate, one in totals),
            oldest_waiting=self._oldest(),
            spool_bytes=spool.index.n_bytes,
            disk_free_bytes=spool.free_bytes,
            clock=self._clock_quality(),
            clock_offset_s=clock.offset_s,
            account=self.account,
        )

    def _oldest(self) -> datetime | None:
        oldest = min((segment.oldest_us for segment in self._spool.index.waiting), default=None)
        return datetime.fromtimestamp(oldest / 1e6, UTC) if oldest is not None else None
