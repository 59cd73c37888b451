"""Sending a spool: the session that is being captured on one stream, and earlier ones, in order, beside it on another."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Literal, Protocol
from uuid import UUID

from songcore.errors import ConfigError
from songstation.channel import Channel
from songstation.dialogue import ClockQuality, HeardSong, Pulse, SessionInfo, SessionNotice
from songstation.link import Link, LinkSettings
from songstation.listening import uuid7
from songstation.outbox import LossReason
from songstation.recovery import Backoff, Failure
from songstation.spool import Spool
from songstation.spool_outbox import SpoolOutbox
from songstation.station_outbox import LiveOutbox

__all__ = ["Listener", "Live", "Sender"]

REFUSED_S = 300.0
"""A server that refuses the station is asked again after this long: its operator may have changed his mind."""
_FEED_S = 0.05
_IDLE_S = 0.5

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told what happens."""

    def heard(self, song: HeardSong) -> None:
        """Take a song that the server found."""

    def troubled(self, failure: Failure, delay_s: float) -> None:
        """Take how a stream ended, and when the next will begin."""

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
        self._refused_until_s: dict[UUID, float] = {}

    def begin_live(self, uuid: UUID) -> Live:
        """Start to send the session that is being captured from now on."""
        loop = asyncio.get_running_loop()
        outbox = LiveOutbox(self._spool, uuid, outage_s=self._outage_s, now_s=loop.time, on_lost=self._lost_of(uuid))
        link = self._link(uuid, outbox, "live")
        return Live(uuid, outbox, link, asyncio.create_task(self._keep_carrying(outbox, link)))

    async def end_live(self, live: Live) -> None:
        """Stop sending it; what is left is sent with the earlier sessions."""
        live.sending.cancel()
        await asyncio.gather(live.sending, return_exceptions=True)

    async def backfill(self, is_live: Callable[[UUID], bool]) -> None:
        """Send earlier sessions, the oldest first, for ever; one that the server refuses does not stop the next."""
        loop = asyncio.get_running_loop()
        while True:
            waiting = [
                uuid
                for uuid in self._spool.unfinished()
                if not is_live(uuid) and self._refused_until_s.get(uuid, 0.0) <= loop.time()
            ]
            if not waiting:
                await asyncio.sleep(_IDLE_S)
                continue
            uuid = waiting[0]
            outbox = SpoolOutbox(self._spool, uuid, on_lost=self._lost_of(uuid))
            try:
                await self._carry(outbox, self._link(uuid, outbox, "backfill"))
            except ConfigError as error:
                log.error("session %s: %s", uuid, error)  # noqa: TRY400 - the message says all
                self._refused_until_s[uuid] = loop.time() + REFUSED_S

    async def _keep_carrying(self, outbox: LiveOutbox, link: Link) -> None:
        while not outbox.finished:
            try:
                await self._carry(outbox, link)
            except ConfigError as error:
                log.error("%s; sound is kept, trying again in %.0f s", error, REFUSED_S)  # noqa: TRY400 - likewise
                await asyncio.sleep(REFUSED_S)

    async def _carry(self, outbox: SpoolOutbox, link: Link) -> None:
        """Return when the server has committed the session; raises ConfigError when it refuses it."""
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

        def rename() -> str:
            name = uuid7(self._now(), self._rng)
            outbox.renamed(name)
            return f"{prefix}{name}"

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
            pulse=self._listener.pulse,
        )


async def _feed(outbox: SpoolOutbox, link: Link) -> None:
    """Read on in the files of a session that has ended, as it is sent."""
    while True:
        if outbox.feed():
            link.captured()
        else:
            await asyncio.sleep(_FEED_S)
