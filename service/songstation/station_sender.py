"""Sending a spool: the session that is being captured on one stream, and earlier ones, in order, beside it on another."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Literal, Protocol
from uuid import UUID

from songstation.channel import Channel
from songstation.dialogue import ClockQuality, HeardSong, Pulse, SessionInfo, SessionNotice
from songstation.link import Link, LinkSettings, RefusedError
from songstation.outbox import LossReason
from songstation.recovery import Backoff, Failure, asking_delay_s
from songstation.spool import Spool
from songstation.spool_outbox import SpoolOutbox
from songstation.station_outbox import LiveOutbox

__all__ = ["Listener", "Live", "Sender"]

_FEED_S = 0.05
_IDLE_S = 0.5


class Listener(Protocol):
    """Who is told what happens."""

    def heard(self, song: HeardSong) -> None:
        """Take a song that the server found."""

    def troubled(self, failure: Failure, delay_s: float) -> None:
        """Take how a stream ended, and when the next will begin."""

    def refused(self, failure: Failure, delay_s: float) -> None:
        """Take that the server refuses a session, and when it is asked again."""

    def noticed(self, notice: SessionNotice) -> None:
        """Take what the server says about sound or clock."""

    def lost(self, session: UUID, n_samples: int, reason: LossReason) -> None:
        """Take that sound turned out to be lost when it was to be sent."""

    def pulse(self) -> Pulse:
        """Return how the station is."""


@dataclass
class Live:
    """The session being captured, on its way."""

    uuid: UUID
    outbox: LiveOutbox
    link: Link
    sending: "asyncio.Task[None]"


@dataclass(frozen=True)
class _Refusal:
    """By the loop's clock, until when the server is not asked again, and how it refused."""

    until_s: float
    failure: Failure


class Sender:
    """Carries the sessions of a spool to the server, over one channel."""

    def __init__(
        self,
        channel: Channel,
        spool: Spool,
        settings: LinkSettings,
        listener: Listener,
        *,
        outage_s: float,
        rng: Random,
        now: Callable[[], datetime],
    ) -> None:
        self._channel, self._spool, self._settings, self._listener = channel, spool, settings, listener
        self._outage_s, self._rng, self._now = outage_s, rng, now
        # Of sessions by their UUID, and of all that a station's name is on by that name.
        self._refusals: dict[UUID | str, _Refusal] = {}

    @property
    def refusal(self) -> str:
        """Return how the server last refused something that it still owes an answer to, or nothing."""
        sessions = list(self._spool.sessions.items())
        open_keys = {
            key for uuid, one in sessions if not self._spool.standing(uuid).finished for key in (uuid, one.station)
        }
        refusals = [one.failure for key, one in list(self._refusals.items()) if key in open_keys]
        return str(refusals[-1]) if refusals else ""

    def begin_live(self, uuid: UUID) -> Live:
        """Start to send the session that is being captured from now on."""
        loop = asyncio.get_running_loop()
        outbox = LiveOutbox(self._spool, uuid, outage_s=self._outage_s, now_s=loop.time, on_lost=self._lost_of(uuid))
        link = self._link(uuid, outbox, "live")
        return Live(uuid, outbox, link, asyncio.create_task(self._keep_carrying(uuid, outbox, link)))

    async def end_live(self, live: Live) -> None:
        """Stop sending it; what is left is sent with the earlier sessions."""
        live.sending.cancel()
        await asyncio.gather(live.sending, return_exceptions=True)

    async def backfill(self, is_live: Callable[[UUID], bool]) -> None:
        """Send earlier sessions, the oldest first, for ever; one that the server refuses does not stop the next."""
        while True:
            waiting = [uuid for uuid in self._spool.unfinished() if not is_live(uuid) and not self._refused_for_s(uuid)]
            if not waiting:
                await asyncio.sleep(_IDLE_S)
                continue
            uuid = waiting[0]
            outbox = SpoolOutbox(self._spool, uuid, on_lost=self._lost_of(uuid))
            try:
                await self._carry(outbox, self._link(uuid, outbox, "backfill"))
            except RefusedError as error:
                self._refused(uuid, error)

    async def _keep_carrying(self, uuid: UUID, outbox: LiveOutbox, link: Link) -> None:
        while not outbox.finished:
            # Not in one go: an earlier session may be let in meanwhile, and then this one may be, too.
            while left_s := self._refused_for_s(uuid):  # noqa: ASYNC110 - a time
                await asyncio.sleep(min(left_s, _IDLE_S))
            try:
                await self._carry(outbox, link)
            except RefusedError as error:
                self._refused(uuid, error)

    def _refused(self, uuid: UUID, error: RefusedError) -> None:
        """Note that the server refused a session, or with it all of the station that it names."""
        delay_s = asking_delay_s(self._rng, self._settings.refused_retry_s)
        key = self._station(uuid) if error.is_shut_out else uuid
        self._refusals.pop(key, None)
        self._refusals[key] = _Refusal(asyncio.get_running_loop().time() + delay_s, error.failure)
        self._listener.refused(error.failure, delay_s)

    def _refused_for_s(self, uuid: UUID) -> float:
        """Return how long the server is not to be asked about a session."""
        refusals = [self._refusals.get(key) for key in (uuid, self._station(uuid))]
        until_s = max((one.until_s for one in refusals if one), default=0.0)
        return max(0.0, until_s - asyncio.get_running_loop().time())

    def _station(self, uuid: UUID) -> str:
        # The spool's thread may just have deleted it.
        session = self._spool.sessions.get(uuid)
        return session.station if session else ""

    def _let_in(self, uuid: UUID, station: str) -> None:
        self._refusals.pop(uuid, None)
        self._refusals.pop(station, None)

    async def _carry(self, outbox: SpoolOutbox, link: Link) -> None:
        """Return when the server has committed the session; raises RefusedError when it refuses it."""
        feeding = asyncio.create_task(_feed(outbox, link))
        running = asyncio.create_task(link.run())
        try:
            await asyncio.wait({feeding, running}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                feeding.result()
            await running
        finally:
            for task in (feeding, running):
                task.cancel()
            await asyncio.gather(feeding, running, return_exceptions=True)

    def _lost_of(self, uuid: UUID) -> Callable[[int, LossReason], None]:
        return lambda n_samples, reason: self._listener.lost(uuid, n_samples, reason)

    def _link(self, uuid: UUID, outbox: SpoolOutbox, lane: Literal["live", "backfill"]) -> Link:
        session = self._spool.sessions[uuid]
        prefix = f"stations/{session.station}/sessions/"

        def rename() -> str | None:
            name = outbox.renamed()
            return None if name is None else f"{prefix}{name}"

        info = SessionInfo(
            prefix + outbox.name,
            session.sample_rate_hz,
            session.start + timedelta(seconds=outbox.samples_before / session.sample_rate_hz),
            session.client,
            lane=lane,
            encoding="flac" if session.encoding == "flac" else "linear16",
            clock=ClockQuality(session.clock_source, session.clock_error_s),
        )
        return Link(
            self._channel,
            outbox,
            info,
            backoff=Backoff(self._rng, first_s=self._settings.first_retry_s, longest_s=self._settings.longest_retry_s),
            settings=self._settings,
            new_name=rename,
            now=self._now,
            on_song=self._listener.heard,
            on_trouble=self._listener.troubled,
            on_notice=self._listener.noticed,
            on_open=lambda: self._let_in(uuid, session.station),
            pulse=self._listener.pulse,
        )


async def _feed(outbox: SpoolOutbox, link: Link) -> None:
    """Read on in the files of a session that has ended, as it is sent."""
    while True:
        if outbox.feed():
            link.captured()
        else:
            await asyncio.sleep(_FEED_S)
