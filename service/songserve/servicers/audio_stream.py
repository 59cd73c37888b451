"""One connected stream of a session: reads ahead, works in steps, answers.

A reader takes messages in until enough chunks wait. The worker merges what waits into one step: listen (in a thread),
name (with the songs of other streams), commit (with the commits of other streams), then answer. Steps of a stream follow
one another, so its commits are in order.
"""

import asyncio
from functools import partial

from songcore.errors import SongError
from songserve.clips import ClipSounds
from songserve.intake import Chunk, Finish, Gap
from songserve.records import Commit
from songserve.refusal import Refusal
from songserve.requests import Heartbeat, gap_reason, read_message
from songserve.responses import ack, go_away, song_event
from songserve.runtime import Runtime
from songserve.servicers.calls import Context, read_next
from songserve.session import Heard, Session, Step
from songserve.v1 import ingest_pb2

__all__ = ["AudioStream"]

RETRY_DELAY_S = 1.0
GATHERED_S = 4.0
"""Steps up to this length are listened to together with others; longer ones, of a backlog, would hold those up."""


class AudioStream:
    """Serve a session over a connection; `fence` and `drain` end it from outside."""

    def __init__(self, context: Context, runtime: Runtime, *, lane: str, wants_songs: bool) -> None:
        self._context, self._runtime = context, runtime
        self._lane, self._wants_songs = lane, wants_songs
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._fenced = self._draining = self._repeated = False
        self._first_arrival: float | None = None
        self._last_arrival = 0.0

    def fence(self) -> None:
        """End the stream with WRITER_FENCED."""
        self._fenced = True
        self._wake.set()

    def drain(self) -> None:
        """Announce the end, commit what came in, and end with DRAINING."""
        self._draining = True
        self._wake.set()

    async def run(self, session: Session) -> None:
        """Serve until the session is finished or the client leaves; raises the Refusal that ends the stream otherwise."""
        self._session = session
        self._tape = self._runtime.clip_tape(session.format)
        self._station = self._runtime.metrics.station_label(session.record.opening.name.station)
        metrics = self._runtime.metrics
        metrics.ingest_streams.labels(self._lane).inc()
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(lambda _: self._wake.set())
        closed_as = "CANCELLED"
        try:
            await self._work(reader)
            closed_as = "OK"
        except SongError as error:
            closed_as = error.reason
            raise
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            metrics.ingest_streams.labels(self._lane).dec()
            metrics.ingest_closes_total.labels(closed_as).inc()

    async def _work(self, reader: "asyncio.Task[None]") -> None:
        if self._draining:  # said while the session was being opened
            self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._draining:
                await self._announce_end()
                reader.cancel()
            ending = reader.done() or self._draining
            step = None if self._fenced else self._session.next_step(due=ending)
            if step:
                await self._take(step)
            elif self._repeated:
                await self._acknowledge()
            if self._fenced:
                raise Refusal("a newer stream has taken this session over", reason="WRITER_FENCED")
            if step and step.work.finish:
                return
            if ending:
                break
        if self._draining:
            raise Refusal("the server is shutting down; come back", reason="DRAINING")
        reader.result()  # raises what ended the reading

    async def _take(self, step: Step) -> None:
        """Go one turn of the session's circle."""
        first_arrival, self._first_arrival = self._first_arrival, None
        last_arrival = self._last_arrival
        heard = await self._listen(step)
        sounds = self._tape.follow(heard)
        self._room.set()
        names = await self._runtime.batcher.name(heard.songs)
        commit = self._session.decide(heard, names)
        if commit:
            # Goes on when the client leaves meanwhile: what is stored is also counted.
            await asyncio.shield(self._store(commit, sounds))
        if not (heard.checkpoint or step.work.finish):
            return
        if commit and self._wants_songs:
            for song in commit.songs:
                await self._context.write(song_event(song))
        await self._acknowledge()
        self._observe_latency(heard, first_arrival, last_arrival)

    async def _listen(self, step: Step) -> Heard:
        if step.work.n_samples <= GATHERED_S * self._session.format.sample_rate_hz:
            return await self._runtime.gatherer.run(partial(self._session.listen, step))
        return await self._runtime.listen(self._session.listen, step)

    async def _store(self, commit: Commit, sounds: ClipSounds) -> None:
        commit = await self._runtime.with_clips(commit, sounds)
        new = await asyncio.wrap_future(self._runtime.store.commit(commit))
        self._session.settle(commit)
        metrics, opening = self._runtime.metrics, commit.record.opening
        metrics.songs_stored(new)
        captured_s = (
            opening.capture_start_ms / 1000 + commit.record.committed_sample / opening.audio_format.sample_rate_hz
        )
        metrics.ingest_commit_lag_seconds.observe(max(0.0, self._runtime.now() - captured_s))

    async def _acknowledge(self) -> None:
        self._repeated = False
        await self._context.write(ack(self._session.received_sequence_number, self._session.record))

    async def _announce_end(self) -> None:
        deadline_ms = self._runtime.now_ms + round(self._runtime.settings.drain_grace_s * 1000)
        await self._context.write(go_away(deadline_ms=deadline_ms, retry_delay_s=RETRY_DELAY_S))

    async def _read(self) -> None:
        while (request := await read_next(self._context, self._runtime)) is not None:
            self._receive(request)
            self._wake.set()
            while self._session.intake.n_pending >= self._runtime.settings.max_in_flight_chunks:
                self._room.clear()
                await self._room.wait()

    def _receive(self, request: ingest_pb2.StreamAudioRequest) -> None:
        metrics = self._runtime.metrics
        metrics.station_last_seen.labels(self._station).set(self._runtime.now())
        message = read_message(request)
        if isinstance(message, Heartbeat):
            metrics.station_spool_bytes.labels(self._station).set(message.spool_bytes)
        elif isinstance(message, Finish):
            self._session.intake.finish(message)
        else:
            self._accept(message, request)

    def _accept(self, item: Chunk | Gap, request: ingest_pb2.StreamAudioRequest) -> None:
        metrics = self._runtime.metrics
        try:
            accepted = self._session.intake.accept(item)
        except Refusal:
            metrics.ingest_chunks_total.labels("rejected").inc()
            raise
        if not accepted:
            metrics.ingest_chunks_total.labels("duplicate").inc()
            self._repeated = True
            return
        metrics.ingest_chunks_total.labels("accepted").inc()
        self._last_arrival = asyncio.get_running_loop().time()
        self._first_arrival = self._first_arrival or self._last_arrival
        seconds = item.sample_count / self._session.format.sample_rate_hz
        if isinstance(item, Gap):
            metrics.ingest_gap_seconds_total.labels(gap_reason(request)).inc(seconds)
        else:
            metrics.ingest_audio_seconds_total.labels(self._lane).inc(seconds)
            metrics.ingest_bytes_total.inc(len(item.data))

    def _observe_latency(self, heard: Heard, first_arrival: float | None, last_arrival: float) -> None:
        now = asyncio.get_running_loop().time()
        metrics = self._runtime.metrics
        if first_arrival is not None:
            metrics.ingest_ack_latency_seconds.observe(now - first_arrival)
            for _ in heard.songs:
                metrics.song_latency_seconds.observe(now - last_arrival)
