"""One session from its first sample to the server's last ack: a source feeding an outbox that a link empties."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID

from songcore.errors import SongError
from songstation.channel import Channel
from songstation.link import Link, LinkSettings, RefusedError
from songstation.outbox import MAX_LOSS_S, LossReason, Outbox
from songstation.recovery import Backoff, Failure, asking_delay_s
from songstation.sources import Lost, Playback, Source
from songstation.wire import HeardSong, SessionInfo

__all__ = ["Account", "Station", "listen", "uuid7"]


@dataclass(frozen=True)
class Station:
    """Who is listening, and what is the same for every session."""

    name: str
    client: str
    buffer_bytes: int
    link: LinkSettings


@dataclass
class Account:
    """What became of a session's sound; captured = committed + held, and the lost is part of both."""

    captured_s: float = 0.0
    committed_s: float = 0.0
    lost_s: float = 0.0
    n_streams: int = 0
    """One, and one more for each reconnect."""
    n_songs: int = 0
    n_novel: int = 0
    n_noise: int = 0
    types: Counter[str] = field(default_factory=Counter)
    """Songs by type id, novel ones and noise left out."""
    problem: str = ""
    """Why the source ended early."""
    is_reached: bool = False
    """A server has let a stream in."""
    had_s: float = 0.0
    """That the server had of this recording from an earlier run; part of captured and committed."""
    had_all: bool = False
    """The server had the whole recording, and nothing was sent."""
    is_left: bool = False
    """A recording was stopped in its middle, and goes on from there when it is played again."""
    is_stuck: bool = False
    """The sound system holds on to the device, and to this program if it is let."""

    def count(self, song: HeardSong) -> None:
        """Add a song."""
        self.n_songs += 1
        self.n_novel += song.novel
        self.n_noise += not song.is_song
        if song.is_song and not song.novel:
            self.types[song.type_id] += 1


async def listen(  # noqa: PLR0913 - collaborators, each by name
    channel: Channel,
    source: Source,
    station: Station,
    *,
    rng: Random,
    now: Callable[[], datetime],
    stop: asyncio.Event,
    on_song: Callable[[HeardSong], None],
    on_trouble: Callable[[Failure, float], None],
) -> Account:
    """Stream the source until it ends or ``stop`` is set, and return when the server has committed everything.

    A server that is away is waited for, however long; one that does not let the station in is asked again every few minutes.
    When none has let it in by the time of the stop, nothing is waited for. A recording of known start has one session: it goes
    on where the server is with it, and is left open by a stop. Raises ConfigError when the server refuses what the station
    sends, SessionBrokenError when a recording's session cannot go on for now.
    """

    def new_name() -> str:
        return f"stations/{station.name}/sessions/{uuid7(now(), rng)}"

    account = Account()
    playing = source.session(station.name) if isinstance(source, Playback) else None
    outbox = Outbox(
        max_bytes=station.buffer_bytes,
        max_loss_samples=MAX_LOSS_S * source.sample_rate_hz,
        joins=playing is not None,
    )
    name = new_name() if playing is None else f"stations/{station.name}/sessions/{playing}"
    session = SessionInfo(name, source.sample_rate_hz, source.begin(now), station.client)

    def hear(song: HeardSong) -> None:
        account.count(song)
        on_song(song)

    link = Link(
        channel,
        outbox,
        session,
        backoff=Backoff(rng, first_s=station.link.first_retry_s, longest_s=station.link.longest_retry_s),
        settings=station.link,
        new_name=new_name if playing is None else None,
        now=now,
        on_song=hear,
        on_trouble=on_trouble,
    )

    async def carry() -> None:
        while True:
            try:
                return await link.run()
            except RefusedError as error:
                if not error.is_shut_out:
                    raise
                delay_s = asking_delay_s(rng, station.link.refused_retry_s)
                on_trouble(error.failure, delay_s)
            await asyncio.sleep(delay_s)

    feeding = asyncio.create_task(_feed(source, link, stop))
    try:
        patience_s = station.link.answer_s if playing else None
        await _run_beside(_until_vain_stop(carry(), link, stop, patience_s), feeding)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        account.is_stuck = not _released(source)
    account.problem = feeding.result()
    rate = source.sample_rate_hz
    account.captured_s, account.committed_s = link.n_captured / rate, link.n_committed / rate
    account.lost_s, account.n_streams = outbox.n_lost / rate, link.n_streams
    account.is_reached, account.had_s = link.reached.is_set(), (outbox.n_joined or 0) / rate
    account.had_all, account.is_left = outbox.had_all, outbox.leaving and account.is_reached
    return account


def _released(source: Source) -> bool:
    try:
        source.close()
    except SongError:
        return False
    return True


async def _until_vain_stop(
    carrying: Coroutine[Any, Any, None], link: Link, stop: asyncio.Event, patience_s: float | None
) -> None:
    """Carry to the end, or to a stop before any server was reached: it would be waited for with nobody to wait for it.

    After a stop a recording, which is played again another time, is carried no longer than ``patience_s``.
    """
    running = asyncio.create_task(carrying)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if link.reached.is_set():
            await asyncio.wait({running}, timeout=patience_s)
        if running.done():
            await running
    finally:
        await _cancel(running, stopping)


async def _run_beside(carrying: Coroutine[Any, Any, None], feeding: "asyncio.Task[str]") -> None:
    """Carry to the end; a fault in the feeding ends both."""
    running = asyncio.create_task(carrying)
    try:
        await asyncio.wait({running, feeding}, return_when=asyncio.FIRST_EXCEPTION)
        if feeding.done() and feeding.exception() is not None:
            feeding.result()
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _feed(source: Source, link: Link, stop: asyncio.Event) -> str:
    """Put everything the source gives into the outbox, then its end; return why it ended, if not as it should.

    A session that was joined has none before the recording's: one that is stopped, or cannot be read on, may be played again.
    """
    is_whole = False
    capturing = asyncio.create_task(_capture(source, link))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({capturing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not capturing.done():
            await _cancel(capturing)
            for chunk in source.finish():
                _put(chunk, link.outbox)
            return ""
        capturing.result()
        is_whole = True
    except SongError as error:
        return f"{error} [{error.reason}]"
    else:
        return ""
    finally:
        await _cancel(capturing, stopping)
        if is_whole or not link.outbox.joins:
            link.outbox.end()
        else:
            link.outbox.leave()
        link.captured()


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _capture(source: Source, link: Link) -> None:
    if link.outbox.joins and isinstance(source, Playback):
        await link.reached.wait()
        if link.outbox.had_all:
            return
        source.skip(link.outbox.n_captured)
    async for chunk in source.chunks():
        # A source that cannot wait is never left between a chunk and the outbox: stopping would lose the chunk.
        while not _put(chunk, link.outbox, can_wait=source.can_wait):
            link.room.clear()
            await link.room.wait()
        link.captured()


def _put(chunk: bytes | Lost, outbox: Outbox, *, can_wait: bool = False) -> bool:
    """Hand a chunk over, as a loss where there is no room; return False when it can wait for room instead."""
    if isinstance(chunk, Lost):
        outbox.lose(chunk.n_samples, chunk.reason)
    elif not outbox.offer(chunk, len(chunk) // 2):
        if can_wait:
            return False
        outbox.lose(len(chunk) // 2, LossReason.SPOOL_FULL)
    return True


def uuid7(now: datetime, rng: Random) -> UUID:
    """Return a UUID that sorts by time (RFC 9562, version 7)."""
    milliseconds = int(now.timestamp() * 1000) & (2**48 - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | rng.getrandbits(12) << 64 | 0b10 << 62 | rng.getrandbits(62))
