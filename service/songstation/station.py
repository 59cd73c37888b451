"""The field station: a source into the spool, and the spool to the server, through whatever happens to either."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from songcore.errors import SongError
from songstation.channel import Channel
from songstation.clock import SampleClock
from songstation.device_calls import STUCK, answered
from songstation.dialogue import ClockQuality, HeardSong
from songstation.listening import uuid7
from songstation.outbox import LossReason
from songstation.sources import Lost, Source, chunk_samples, next_chunk
from songstation.spool import Spool
from songstation.spool_sessions import Session
from songstation.station_account import Picture
from songstation.station_logbook import Logbook
from songstation.station_plan import StationPlan
from songstation.station_sender import Live, Sender

__all__ = ["FieldStation"]

_TEND_S = 0.5

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class FieldStation:
    """One station on one spool; `run` it once.

    ``open_source`` opens the device or the recording, and raises ConfigError while it is not there. ``clock_quality`` says
    what keeps the wall clock on time. ``missing_since_s``, by the loop's clock, is since when there has been no device, as far
    as no session has declared it. A source that ``comes_back``, as a device does, is waited for; a recording is not.
    """

    def __init__(  # noqa: PLR0913 - collaborators, each by name
        self,
        channel: Channel,
        spool: Spool,
        plan: StationPlan,
        open_source: Callable[[], Source],
        *,
        rng: Random,
        now: Callable[[], datetime],
        clock_quality: Callable[[], ClockQuality] = ClockQuality,
        on_song: Callable[[HeardSong], None] = lambda _: None,
        missing_since_s: float | None = None,
        comes_back: bool = True,
    ) -> None:
        self._spool, self._plan, self._open_source, self._comes_back = spool, plan, open_source, comes_back
        self._rng, self._now, self._clock_quality = rng, now, clock_quality
        self._logbook = Logbook(spool, now=now, clock_quality=clock_quality, on_song=on_song)
        self.account = self._logbook.account
        self._sender = Sender(channel, spool, plan.link, self._logbook, outage_s=plan.outage_s, rng=rng, now=now)
        self._disk = ThreadPoolExecutor(1, "spool")
        self._live: Live | None = None
        self._clock = SampleClock(now(), 1)
        self._n_taken = 0  # samples of the present session
        self._device = ""
        self._moved_s = 0.0
        self.missing_since_s = missing_since_s
        self._n_dropped = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Listen and send until ``stop`` is set, or a recording is over and all of it committed; the spool is closed then.

        When stopped, the rest has the plan's grace to be sent; what is left stays in the spool for the next time. Raises
        ConfigError DEVICE_STUCK when the sound system holds on to a call, of which only a new process is free, and, once what
        was read of it is committed, what is wrong with a recording that cannot be played to its end.
        """
        # While it was away the server may have been put back to a backup, and lost what it had finished.
        self._spool.doubt_finished()
        beside = [
            asyncio.create_task(self._sender.backfill(lambda uuid: self._live is not None and self._live.uuid == uuid)),
            asyncio.create_task(self._tend()),
        ]
        capturing = asyncio.create_task(self._capture(stop))
        try:
            await asyncio.wait({capturing, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in beside:
                if task.done():
                    task.result()
            try:
                await capturing
            except SongError as error:
                is_stuck = error.reason == STUCK
                if not is_stuck:
                    log.error("%s", error)  # noqa: TRY400 - the message says all
                    self.account.last_trouble = str(error)
                # What the sound system holds on to keeps nothing from being sent when the station is stopped.
                if not is_stuck or stop.is_set():
                    await self._finish(stop, beside)
                raise
            await self._finish(stop, beside)
        finally:
            for task in (capturing, *beside):
                task.cancel()
            await asyncio.gather(capturing, *beside, return_exceptions=True)
            if self._live is not None:
                await self._sender.end_live(self._live)
            await self._on_disk(self._spool.close)
            self._disk.shutdown()

    def picture(self) -> Picture:
        """Return how the station is now."""
        live = self._live
        return self._logbook.picture(
            self._plan.name,
            device=self._device,
            session=live.uuid if live else None,
            is_connected=live is not None and live.outbox.is_connected,
            refusal=self._sender.refusal,
            clock=self._clock,
        )

    @property
    def standstill_s(self) -> float:
        """Return for how long nothing of the present device's sound was kept; 0 without a device."""
        return asyncio.get_running_loop().time() - self._moved_s if self._device else 0.0

    async def _on_disk(self, act: Callable[..., Result], *arguments: Any) -> Result:
        """Do it in the thread that writes the spool; what was begun there is ended there, also when we are cancelled."""
        doing = asyncio.get_running_loop().run_in_executor(self._disk, act, *arguments)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait({doing})
            raise

    async def _capture(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                source, start = await answered(self._open, stop, self._plan.device_answer_s)
            except SongError as error:
                if error.reason == STUCK:
                    await self._declare_missing()
                    raise
                if not self._comes_back:
                    raise
                await self._wait_for_device(error, stop)
                continue
            try:
                await self._listen(source, start, stop)
            finally:
                source.close()
                self._device = ""
            if source.can_wait:
                return

    def _open(self) -> tuple[Source, datetime]:
        """Return the source, begun, and the time of its first sample; raises ConfigError, and then it is closed."""
        source = self._open_source()
        try:
            return source, source.begin(self._now)
        except SongError:
            source.close()
            raise

    async def _wait_for_device(self, error: SongError, stop: asyncio.Event) -> None:
        if self._live is None:
            log.warning("%s; trying again every %g s", error, self._plan.device_retry_s)
        await self._declare_missing()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.device_retry_s):
                await stop.wait()
        await self._declare_missing()

    async def _declare_missing(self) -> None:
        """Declare the time without a device in the session that lost it, as long as that goes on."""
        if self._live is None or self.missing_since_s is None:
            return
        now_s = asyncio.get_running_loop().time()
        n_samples = round((now_s - self.missing_since_s) * self._clock.sample_rate_hz)
        self.missing_since_s = now_s
        await self._keep(Lost(n_samples, LossReason.DEVICE_LOST))
        await self._keep_written(await self._on_disk(self._spool.flush))
        await self._give_way()

    async def _listen(self, source: Source, start: datetime, stop: asyncio.Event) -> None:
        """Keep what the source gives until it ends or the station is to stop."""
        loop, missing_s = asyncio.get_running_loop(), 0.0
        if self._live is not None:
            await self._declare_missing()
        elif self.missing_since_s is not None:
            # The session that lost the device is over: the next begins at the loss, and declares it.
            missing_s = loop.time() - self.missing_since_s
        self.missing_since_s = None
        self._device, self._moved_s = getattr(source, "name", "") or type(source).__name__, loop.time()
        await self._begin(start - timedelta(seconds=missing_s), source.sample_rate_hz)
        if missing_s:
            await self._keep(Lost(round(missing_s * source.sample_rate_hz), LossReason.DEVICE_LOST))
        chunks = source.chunks()
        try:
            while (chunk := await next_chunk(chunks, stop)) is not None:
                await self._keep(chunk, can_wait=source.can_wait)
                await self._give_way(goes_on=True)
        except SongError as error:
            if not self._comes_back:
                raise
            log.warning("%s", error)
            self.account.last_trouble = str(error)
            self.missing_since_s = loop.time()
            return
        for rest in source.finish():
            await self._keep(rest, can_wait=source.can_wait)

    async def _give_way(self, *, goes_on: bool = False) -> None:
        """End the session where live sound would have to wait for an outage's, or its times are wrong; begin the next.

        A recording has times of its own, which the wall clock says nothing about.
        """
        if self._live is None:
            return
        is_off = self._clock.is_off(self._plan.clock_limit_s)
        if not self._live.outbox.is_behind and not is_off:
            return
        if not goes_on:
            await self._end()
            return
        if is_off:
            log.warning("the clock is %.1f s from the samples: a new session begins", self._clock.offset_s)
        offset = timedelta(seconds=self._clock.offset_s if is_off else 0.0)
        await self._begin(self._clock.time_of(self._n_taken) + offset, self._clock.sample_rate_hz)

    async def _begin(self, start: datetime, sample_rate_hz: int) -> None:
        await self._end()
        quality = self._clock_quality()
        session = Session(
            uuid7(self._now(), self._rng),
            self._plan.name,
            sample_rate_hz,
            start.astimezone(UTC),
            chunk_samples(self._plan.chunk_s, sample_rate_hz),
            self._plan.encoding,
            self._plan.client,
            quality.source,
            quality.error_s,
        )
        await self._on_disk(self._spool.begin, session)
        self._clock, self._n_taken = SampleClock(start, sample_rate_hz), 0
        self.account.n_sessions += 1
        self._live = self._sender.begin_live(session.uuid)

    async def _end(self) -> None:
        """End the session, if any, and leave the rest of it to the backfill."""
        live, self._live = self._live, None
        if live is not None:
            await self._on_disk(self._spool.end)
            await self._sender.end_live(live)

    async def _keep(self, chunk: bytes | Lost, *, can_wait: bool = False) -> None:
        rate, time_us = self._clock.sample_rate_hz, _microseconds(self._clock.time_of(self._n_taken))
        if isinstance(chunk, Lost):
            n_samples = chunk.n_samples
            if n_samples:
                self.account.lost_s[chunk.reason] += n_samples / rate
                await self._keep_written(await self._on_disk(self._spool.lose, n_samples, chunk.reason, time_us))
        else:
            while can_wait and not await self._on_disk(self._spool.has_room, len(chunk)):
                self._moved_s = asyncio.get_running_loop().time()
                await asyncio.sleep(_TEND_S)
            n_samples = len(chunk) // 2
            await self._keep_written(await self._on_disk(self._append, chunk, n_samples, time_us))
            self.account.last_chunk = self._now()
        self._n_taken += n_samples
        self.account.captured_s += n_samples / rate
        self._moved_s = asyncio.get_running_loop().time()
        if not can_wait:
            self._clock.observe(self._n_taken, self._now())

    def _append(self, data: bytes, n_samples: int, time_us: int) -> list[Any]:
        """Write a chunk, in the spool's thread, and count what is lost by it."""
        spool, uuid = self._spool, self._live.uuid if self._live else UUID(int=0)
        written = spool.append(data, n_samples, time_us)
        # A chunk that was written ends the loss before it.
        n_lost = n_samples if spool.pending_loss else 0
        self._logbook.lost(uuid, n_lost + spool.n_dropped - self._n_dropped, LossReason.SPOOL_FULL)
        self._n_dropped = spool.n_dropped
        return written

    async def _keep_written(self, written: list[Any]) -> None:
        if self._live is not None and written:
            self._live.outbox.keep(written)
            self._live.link.captured()

    async def _finish(self, stop: asyncio.Event, beside: list[asyncio.Task[None]]) -> None:
        """End the session in order; a recording waits until the server has everything, a stop for its grace.

        Raises what ended one of the tasks ``beside``, which never end by themselves.
        """
        live = self._live
        if live is not None:
            await self._on_disk(self._spool.end)
            live.link.captured()
        waiting = asyncio.create_task(self._all_committed())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({waiting, stopping, *beside}, return_when=asyncio.FIRST_COMPLETED)
        grace_s = self._plan.stop_grace_s
        await asyncio.wait({waiting, *beside}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        stopping.cancel()
        await asyncio.gather(waiting, stopping, return_exceptions=True)
        for task in beside:
            if task.done():
                task.result()

    async def _all_committed(self) -> None:
        while self._spool.unfinished():
            await asyncio.sleep(0.05)
            if self._live is not None and (self._live.outbox.is_behind or self._is_doubted(self._live)):
                await self._end()

    def _is_doubted(self, live: Live) -> bool:
        """Return whether the server had all of it, and then told another session that it was restored from a backup."""
        return live.outbox.finished and not self._spool.standing(live.uuid).finished

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_TEND_S)
            await self._on_disk(self._spool.tend)
            if self._live is not None and self._live.sending.done():
                # It ends by itself when all is committed only; what else ended it ends the station, which is started again.
                self._live.sending.result()


def _microseconds(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
