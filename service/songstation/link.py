"""The station's end of the wire: one stream at a time, as many streams as it takes."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf
from typing import Any

import grpc

from songcore.credentials import CallMetadata
from songcore.errors import ConfigError
from songserve.v1.ingest_pb2_grpc import IngestServiceStub
from songserve.v1.songs_pb2_grpc import SongServiceStub
from songstation.channel import Channel
from songstation.endings import ending, failure, quietly
from songstation.outbox import Leave, Outbox, SessionBrokenError
from songstation.recovery import Action, Backoff, Failure, action_for
from songstation.wire import (
    Acknowledged,
    GoingAway,
    HeardSong,
    Opened,
    Pulse,
    Request,
    SessionInfo,
    SessionNotice,
    heartbeat_request,
    item_request,
    read_response,
    read_songs,
    setup_request,
    songs_request,
    status_request,
)

__all__ = ["Link", "LinkSettings", "RefusedError"]

_REMEMBERED_SONGS = 1_000
_FENCED_AGAIN_S = 60.0
_STREAM_ENDED = "STREAM_ENDED"
_GAP_TOO_LONG = "GAP_TOO_LONG"

log = logging.getLogger(__name__)

Call = Any
"""grpc.aio.StreamStreamCall of the two message types; the stubs give it no usable type."""


@dataclass(frozen=True)
class LinkSettings:
    """How patient the link is."""

    answer_s: float = 30.0
    """Without any answer for this long while one is due, the connection counts as dead."""
    heartbeat_s: float = 10.0
    """A sign of life after this long without sound."""
    first_retry_s: float = 1.0
    longest_retry_s: float = 120.0
    metadata: Callable[[], CallMetadata] = tuple
    """Of each call: the token."""
    refused_retry_s: float = 300.0
    """A server that refuses is asked again after about so long: somebody may have changed his mind, or the token."""


class _SendingFailedError(Exception):
    """What is sent could not be made; the cause says why."""


class RefusedError(ConfigError):
    """The server refuses: ``failure`` says how, ``is_shut_out`` that it is the station and not what it sends."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"the server refuses this station: {failure}", reason=failure.reason or failure.code)
        self.failure = failure
        self.is_shut_out = action_for(failure) is Action.ASK_LATER


def _ignore(_: object) -> None:
    pass


class Link:
    """Carry one outbox to the server, through any number of streams, until the server has committed all of it.

    ``on_song`` gets every song once. ``on_trouble`` gets how a stream ended and the seconds until the next one.
    ``on_notice`` gets what the server has to say about the sound or the clock, ``on_guess`` guesses at the song that is being
    sung. ``on_open`` is called whenever the server lets a stream in. ``pulse`` says how the station is. ``new_name`` makes the
    name of the session that follows one that cannot go on, or None when it cannot yet: then the old one is tried again.
    Without it none follows.
    """

    def __init__(  # noqa: PLR0913 - collaborators, each by name
        self,
        channel: Channel,
        outbox: Outbox,
        session: SessionInfo,
        *,
        backoff: Backoff,
        settings: LinkSettings,
        new_name: Callable[[], str | None] | None,
        now: Callable[[], datetime],
        on_song: Callable[[HeardSong], None],
        on_trouble: Callable[[Failure, float], None],
        on_notice: Callable[[SessionNotice], None] = _ignore,
        on_guess: Callable[[HeardSong], None] = _ignore,
        on_open: Callable[[], None] = lambda: None,
        pulse: Callable[[], Pulse] | None = None,
    ) -> None:
        self._channel = channel
        self.outbox, self.session = outbox, session
        self._backoff, self._settings, self._new_name, self._now = backoff, settings, new_name, now
        self._on_song, self._on_trouble, self._on_notice, self._on_guess = on_song, on_trouble, on_notice, on_guess
        self._on_open = on_open
        self._pulse = pulse or (lambda: Pulse(self.outbox.held_bytes))
        self._resume_token = ""
        self._songs: deque[str] = deque(maxlen=_REMEMBERED_SONGS)
        self._last_start: datetime | None = None  # of the last song heard
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self.room = asyncio.Event()
        """Set whenever something was committed, so that a full outbox may have room again."""
        self.reached = asyncio.Event()
        """Set once a server has let a stream in."""
        self._refused_number = 0
        self._fenced_s = -inf
        self._n_received = 0  # the last number of this session that the server has ever had, in memory at least
        self._moved: tuple[int, int] | None = None
        self._retry_after_s = 0.0
        self.n_streams = 0
        self._is_let_in = False  # by the answer to the present stream's setup
        self._n_before = 0  # samples of this source in sessions that were left

    @property
    def n_captured(self) -> int:
        """Samples captured, over all sessions."""
        return self._n_before + self.outbox.n_captured

    @property
    def n_committed(self) -> int:
        """Samples committed by the server, over all sessions."""
        return self._n_before + self.outbox.n_committed

    def captured(self) -> None:
        """Note that the outbox has something new."""
        self._changed.set()

    async def run(self) -> None:
        """Return when the server has committed the whole session, or what it could of one that is left open.

        Raises RefusedError when trying again soon cannot help; it may be called again then, and goes on with the session.
        Raises SessionBrokenError when the session cannot go on and none may follow it.
        """
        while not self.outbox.finished:
            self._retry_after_s = 0.0
            try:
                failure = await self._stream()
            except SessionBrokenError as error:
                failure = Failure("", error.reason, str(error))
            has_left = self.outbox.left and failure.reason == _STREAM_ENDED
            self.outbox.closed()
            # A call of gRPC that ends at the moment it is cancelled tells of its end, and the cancellation is forgotten.
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError
            if self.outbox.finished or has_left:
                return
            await self._recover(failure)

    async def _recover(self, failure: Failure) -> None:
        action = action_for(failure)
        if action in {Action.ASK_LATER, Action.STOP} or (action is Action.RETAKE and self._is_fenced_again()):
            raise RefusedError(failure)
        if action is Action.NEW_SESSION:
            self._begin_new_session(failure)
        if action is Action.RESEND:
            self._give_up_if_refused_twice(failure)
        # A server that says so again and again, whatever it gets, would be asked without a pause.
        is_at_once = action in {Action.REWIND, Action.RETAKE} and self._has_moved()
        delay_s = 0.0 if is_at_once else self._backoff.next_delay_s(max(failure.retry_after_s, self._retry_after_s))
        self._on_trouble(failure, delay_s)
        await asyncio.sleep(delay_s)

    def _begin_new_session(self, failure: Failure) -> None:
        """Put what is held into a new session; raises SessionBrokenError where none may follow."""
        if self._new_name is None:
            # What is played again under one name counts once; under another it would count twice.
            raise SessionBrokenError(
                f"the session cannot go on: {failure.message}; play the recording again, it goes on where the server is",
                reason=failure.reason,
            )
        if failure.reason == _GAP_TOO_LONG and not self._is_let_in:
            # Said of a setup: nothing of what is still here is at the server. Of a gap, it would be sent twice.
            self.outbox.rewind()
        shift = self.outbox.begin_new_session()
        if (name := self._new_name()) is None:
            return
        self._n_before += shift
        start = self.session.start + timedelta(seconds=shift / self.session.sample_rate_hz)
        self.session = replace(self.session, name=name, start=start)
        self._resume_token = ""
        self._n_received = 0

    def _has_moved(self) -> bool:
        """Return whether the server took in or committed anything new since this was asked last; the first time it has."""
        before, self._moved = self._moved, (self._n_received, self.n_committed)
        return before != self._moved

    def _is_fenced_again(self) -> bool:
        """Return whether this comes soon after the last time: what one's own setup does that was sent late comes once."""
        before_s, self._fenced_s = self._fenced_s, asyncio.get_running_loop().time()
        return self._fenced_s - before_s < _FENCED_AGAIN_S

    def _give_up_if_refused_twice(self, failure: Failure) -> None:
        number = int(failure.metadata.get("sequence_number", 0))
        if number and number == self._refused_number:
            self.outbox.give_up(number)
        self._refused_number = number

    async def _stream(self) -> Failure:
        """Open one stream and use it until it ends; return how it ended."""
        opened = await self._channel.opened()
        self.n_streams += 1
        self._is_let_in = False
        call = IngestServiceStub(opened).StreamAudio(metadata=self._settings.metadata())
        tasks: list[asyncio.Task[None]] = []
        try:
            first = self.outbox.first_available
            # On a connection that is dead without a word not even this may get away.
            async with asyncio.timeout(self._settings.answer_s):
                await call.write(setup_request(self.session, resume_token=self._resume_token, first_available=first))
            await self._receive(call, tasks)
        except grpc.aio.AioRpcError as error:
            return await self._explained(failure(error))
        except TimeoutError:
            return Failure("", "NO_ANSWER", f"the server was silent for {self._settings.answer_s:g} s")
        except _SendingFailedError as error:
            log.exception("sending failed, the stream is begun anew", exc_info=error.__cause__)
            return Failure("", "SENDING_FAILED", repr(error.__cause__))
        except asyncio.InvalidStateError:
            # A write to a call that has ended; reading it would say why.
            return await ending(call)
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return Failure("", _STREAM_ENDED, "the server ended the stream")

    async def _explained(self, failed: Failure) -> Failure:
        """Return how a stream failed, having asked where only gRPC can tell, and does not.

        A write into a call that the server has just ended makes gRPC forget how it ended.
        """
        if failed.code != "INTERNAL" or failed.reason:
            return failed
        try:
            await IngestServiceStub(await self._channel.opened()).GetSessionStatus(
                status_request(self.session.name),
                timeout=self._settings.answer_s,
                metadata=self._settings.metadata(),
            )
        except grpc.aio.AioRpcError as error:
            told = failure(error)
            return told if action_for(told) is Action.ASK_LATER else failed
        except (grpc.aio.BaseError, asyncio.InvalidStateError):  # the connection is just being closed
            return failed
        return failed

    async def _receive(self, call: Call, tasks: list[asyncio.Task[None]]) -> None:
        """Read the stream to its end; sending begins, as a task, with the server's answer to the setup."""
        while (response := await self._next_response(call)) is not grpc.aio.EOF:
            for task in tasks:
                # A stream that goes on reading and sends no more would look well for ever.
                if task.done() and (error := task.exception()):
                    raise _SendingFailedError from error
            message = read_response(response)
            match message:
                case Opened():
                    self._open(message)
                    if self.n_streams > 1:
                        await self._catch_up()
                    tasks += [
                        asyncio.create_task(quietly(self._send(call))),
                        asyncio.create_task(quietly(self._beat(call))),
                    ]
                case Acknowledged():
                    self._acknowledge(message)
                case HeardSong():
                    self._hear(message)
                case SessionNotice():
                    self._on_notice(message)
                case GoingAway():
                    self.outbox.hold()
                    self._retry_after_s = message.retry_after_s

    def _open(self, opened: Opened) -> None:
        self._on_open()
        self._is_let_in = True
        self.outbox.opened(
            expected=opened.expected,
            committed_sample=opened.committed_sample,
            window=opened.window,
            window_bytes=opened.window_bytes,
            finished=opened.finished,
        )
        self._n_received = max(self._n_received, opened.expected - 1)
        self._resume_token = opened.resume_token or self._resume_token
        if self.outbox.joins and not self.reached.is_set():
            # Songs of before were told to whoever played it then.
            before_s = opened.committed_sample / self.session.sample_rate_hz
            self._last_start = self.session.start + timedelta(seconds=before_s)
        self.reached.set()
        self.room.set()

    def _acknowledge(self, ack: Acknowledged) -> None:
        held = self.outbox.held_bytes
        self.outbox.acknowledged(
            received=ack.received,
            committed=ack.committed,
            window=ack.window,
            window_bytes=ack.window_bytes,
            finished=ack.finished,
        )
        self._n_received = max(self._n_received, ack.received, ack.committed)
        self._resume_token = ack.resume_token or self._resume_token
        if self.outbox.held_bytes < held or self.outbox.finished:
            self._backoff.reset()
            self.room.set()
        self._changed.set()

    async def _next_response(self, call: Call) -> Any:
        """Return the next response; raises TimeoutError when one is due and none comes."""
        reading = asyncio.ensure_future(call.read())
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=self._settings.answer_s)
                if done:
                    return reading.result()
                if self.outbox.answer_due:
                    raise TimeoutError
        finally:
            reading.cancel()

    async def _catch_up(self) -> None:
        """Fetch the songs that the server stored and could not send any more: the stream broke in between."""
        store = SongServiceStub(await self._channel.opened())
        token, since = "", self._last_start
        try:
            while True:
                page = await store.ListSongs(
                    songs_request(self.session.name, since, token),
                    timeout=self._settings.answer_s,
                    metadata=self._settings.metadata(),
                )
                songs, token = read_songs(page)
                for song in songs:
                    self._hear(song)
                if not token:
                    return
        except grpc.aio.AioRpcError as error:
            log.warning("songs heard before the reconnect could not be fetched: %s", failure(error))

    def _hear(self, song: HeardSong) -> None:
        """Pass a song on unless it was had before: after a reconnect songs may come again."""
        if song.revision:
            self._on_guess(song)
        elif song.name not in self._songs:
            self._songs.append(song.name)
            self._last_start = song.start
            self._on_song(song)

    async def _send(self, call: Call) -> None:
        while True:
            self._changed.clear()
            while (item := self.outbox.next()) is not None:
                if isinstance(item, Leave):
                    await self._leave(call)
                    return
                await self._write(call, item_request(item, self.session))
            await self._changed.wait()

    async def _leave(self, call: Call) -> None:
        """Say that nothing follows on this stream: the server commits what it can and ends it."""
        async with self._writing:
            await call.done_writing()

    async def _write(self, call: Call, request: Request) -> None:
        # gRPC takes one message at a time, and two tasks write.
        async with self._writing:
            await call.write(request)

    async def _beat(self, call: Call) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            await self._write(call, heartbeat_request(self._now(), self._pulse()))
