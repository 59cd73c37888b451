"""One connected stream of a session: reads ahead, works in steps, answers.

A reader takes messages in until enough chunks wait. The worker merges what waits into one step: listen (in a thread),
name (with the songs of other streams), commit (with the commits of other streams), then answer. Steps of a stream follow
one another, so its commits are in order.
"""

import asyncio
from functools import partial

from songserve.clips import ClipSounds
from songserve.ingest_requests import Wish
from songserve.ingest_responses import ack, go_away, notice_event, partial_event, song_event
from songserve.intake import Chunk, Finish
from songserve.notices import Notice, SoundWatch, bundle_changed
from songserve.records import Commit, StoredSong
from songserve.refusal import Refusal
from songserve.runtime import Runtime
from songserve.servicers.audio_reader import AudioReader
from songserve.servicers.calls import Context, no_answer_taken
from songserve.servicers.guesser import Guesser
from songserve.servicers.station_health import StationHealth
from songserve.session import Heard, Session, Step
from songserve.v1 import ingest_pb2

__all__ = ["AudioStream"]

RETRY_DELAY_S = {"DRAINING": 1.0, "LEASE_EXPIRED": 0.0}
_ENDINGS = {
    "DRAINING": "the server is shutting down; come back",
    "LEASE_EXPIRED": "this stream has had its time; come back at once",
}
GATHERED_S = 4.0
"""Live steps up to this length are listened to together with others; longer ones would hold those up."""
BACKFILL_STEP_S = 8.0
ACK_INTERVAL_S = 2.0


class AudioStream:
    """Serve a session over a connection; `fence`, `drain` and `finish` end it from outside."""

    def __init__(self, context: Context, runtime: Runtime, wish: Wish, *, station: str) -> None:
        self._context, self._runtime, self._wish = context, runtime, wish
        self._health = StationHealth(runtime, runtime.metrics.station_label(station))
        self._wake = asyncio.Event()
        self._started, self._ended = asyncio.Event(), asyncio.Event()
        self._session: Session
        self._fenced = self._announced = False
        self._saying: asyncio.Timeout | None = None
        self._ending = ""
        self._last_ack = 0.0
        self._acknowledged = 0  # the last received number that the client knows of
        self._credit = runtime.credit

    @property
    def received_sequence_number(self) -> int:
        """Of the last chunk that came in."""
        return self._session.intake.expected_sequence_number - 1 if self._started.is_set() else 0

    def fence(self) -> None:
        """End the stream with WRITER_FENCED, also while it waits for its client to take an answer."""
        self._fenced = True
        self._wake.set()
        if self._saying and not self._saying.expired():
            self._saying.reschedule(asyncio.get_running_loop().time())

    def drain(self) -> None:
        """Announce the end, commit what came in, and end with DRAINING."""
        self._end("DRAINING")

    async def finish(self, finish: Finish) -> bool:
        """Finish the session with what came in; False when it ended without. Raises Refusal as a finish does."""
        started, ended = (asyncio.ensure_future(event.wait()) for event in (self._started, self._ended))
        await asyncio.wait({started, ended}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if not self._ended.is_set():
            self._session.intake.finish(finish)
            self._wake.set()
        await ended
        return self._started.is_set() and self._session.record.finished

    async def say(self, answer: ingest_pb2.StreamAudioResponse) -> None:
        """Send an answer; raises Refusal IDLE when the client takes none in time, or WRITER_FENCED."""
        self._refuse_when_fenced()  # said while nothing was being written
        try:
            async with asyncio.timeout(self._runtime.settings.idle_timeout_s) as self._saying:
                await self._context.write(answer)
        except TimeoutError:
            self._refuse_when_fenced()
            raise no_answer_taken(self._runtime) from None
        finally:
            self._saying = None

    async def run(self, session: Session, notices: list[Notice]) -> None:
        """Serve until the session is finished or the client leaves; raises the Refusal that ends the stream otherwise."""
        self._session = session
        self._reader = AudioReader(
            self._context, self._runtime, session, self._health, lane=self._wish.lane, wake=self._wake.set
        )
        self._reader.notices += notices
        self._tape = self._runtime.clip_tape(session.sound_format)
        self._watch = SoundWatch(session.format.sample_rate_hz)
        self._guesser = Guesser(self._runtime, wake=self._wake.set)
        if self._wish.lane == "live":  # a backlog tells of what the station was when it captured it
            self._health.runs(self._wish.client, session.format.sample_rate_hz)
            self._health.says_clock(self._wish.clock)
        self._acknowledged = session.received_sequence_number
        self._last_ack = asyncio.get_running_loop().time()
        self._started.set()
        metrics, lease_s = self._runtime.metrics, self._runtime.settings.lease_s
        metrics.ingest_streams.labels(self._wish.lane).inc()
        reader = asyncio.create_task(self._reader.read())
        reader.add_done_callback(lambda _: self._wake.set())
        lease = asyncio.get_running_loop().call_later(lease_s, self._end, "LEASE_EXPIRED") if lease_s else None
        try:
            await self._tell()
            await self._work(reader)
        finally:
            reader.cancel()
            if lease:
                lease.cancel()
            await asyncio.gather(reader, self._guesser.close(), return_exceptions=True)
            self._reader.release_all()
            self._ended.set()
            metrics.ingest_streams.labels(self._wish.lane).dec()

    def leave(self) -> None:
        """Note that the stream is over, also when it never ran."""
        self._ended.set()

    def _end(self, reason: str) -> None:
        self._ending = self._ending or reason
        self._wake.set()

    async def _work(self, reader: "asyncio.Task[None]") -> None:
        if self._ending:  # said while the session was being opened
            self._wake.set()
        over = False
        while not over or self._session.intake.has_work:
            if not self._session.intake.has_work:
                await self._woken()
            if self._ending and not self._announced:
                await self._announce_end()
                reader.cancel()
            over = reader.done() or self._announced
            if await self._turn(over=over):
                return
        if self._announced:
            raise Refusal(_ENDINGS[self._ending], reason=self._ending)
        reader.result()  # raises what ended the reading

    async def _turn(self, *, over: bool) -> bool:
        """Do what there is to do; return whether the session is finished."""
        backfill = self._wish.lane == "backfill"
        most = round(BACKFILL_STEP_S * self._session.format.sample_rate_hz) if backfill else None
        self._follow_bundle()
        step = None if self._fenced else self._session.next_step(due=over, most_samples=most)
        if step:
            await self._take(step)
        else:
            await self._tell()
            if self._ack_due():
                await self._acknowledge()
        self._refuse_when_fenced()
        return step is not None and step.work.finish

    def _refuse_when_fenced(self) -> None:
        if self._fenced:
            raise Refusal("a newer stream has taken this session over", reason="WRITER_FENCED")

    def _follow_bundle(self) -> None:
        """Take up a bundle that became active: no step is under way here."""
        bundle = self._runtime.bundle
        if self._session.follow(bundle):
            self._reader.notices.append(bundle_changed(bundle.digest, self._session.record.input_sample))

    async def _woken(self) -> None:
        """Return when there is something to do, or an ack to be sent as a sign of life."""
        try:
            async with asyncio.timeout(ACK_INTERVAL_S):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _take(self, step: Step) -> None:
        """Go one turn of the session's circle."""
        first_arrival, self._reader.first_arrival = self._reader.first_arrival, None
        last_arrival = self._reader.last_arrival
        heard = await self._listen(step)
        sounds = self._tape.follow(heard)
        self._reader.release(sum(len(item.data) for item in step.work.items if isinstance(item, Chunk)))
        names = await self._runtime.name(heard, lane=self._wish.lane)
        commit = self._session.decide(heard, names)
        if commit:
            # Goes on when the client leaves meanwhile: what is stored is also counted.
            stored = await asyncio.shield(self._store(commit, sounds))
            if self._wish.results != "none":
                for song in stored:
                    await self.say(song_event(song, self._runtime.store.view))
        self._reader.notices += self._watch.follow(heard.levels)
        self._guesser.consider(heard)
        await self._tell()
        if heard.checkpoint or step.work.finish or self._ack_due():
            await self._acknowledge()
        if heard.checkpoint or step.work.finish:
            self._observe_latency(heard, first_arrival, last_arrival)

    async def _listen(self, step: Step) -> Heard:
        seconds = step.work.n_samples / self._session.format.sample_rate_hz
        run = partial(self._session.listen, step)
        try:
            if self._wish.lane == "live" and seconds > GATHERED_S:
                return await self._runtime.listen(run)
            return await self._runtime.gatherer.run(run, lane=self._wish.lane, cost_s=seconds)
        except Refusal:
            self._runtime.metrics.ingest_chunks_total.labels("rejected").inc()
            raise

    async def _store(self, commit: Commit, sounds: ClipSounds) -> list[StoredSong]:
        """Commit; return the songs, as the store has those that are new."""
        commit = await self._runtime.with_clips(commit, sounds, lane=self._wish.lane)
        new = await asyncio.wrap_future(self._runtime.store.commit(commit))
        self._session.settle(commit)
        metrics, opening = self._runtime.metrics, commit.record.opening
        metrics.songs_stored(new)
        captured_s = (
            opening.capture_start_ms / 1000 + commit.record.committed_sample / opening.audio_format.sample_rate_hz
        )
        if self._wish.lane == "live":  # a backlog beside it would set the time back by hours, and forth again
            self._health.committed(captured_s)
        metrics.ingest_commit_lag_seconds.observe(max(0.0, self._runtime.now() - captured_s))
        placed = {song.uid: song for song in new}
        return [placed.get(song.uid, song) for song in commit.songs]

    async def _tell(self) -> None:
        """Send what is worth telling, gaps once they are committed, and a guess that is ready."""
        done = self._session.record.committed_sample
        gaps = self._reader.gaps
        while gaps and gaps[0].start_sample + gaps[0].sample_count <= done:
            gap = gaps.popleft()
            seconds = gap.sample_count / self._session.format.sample_rate_hz
            text = f"{seconds:.1f} s are declared lost: {gap.reason}"
            notice = Notice("gap", text, gap.start_sample, gap.sample_count, gap_reason=gap.reason)
            self._reader.notices.append(notice)
        notices, self._reader.notices = self._reader.notices, []
        for notice in notices:
            await self.say(notice_event(notice))
        if guess := self._guesser.take():
            song, name, revision = guess
            event = partial_event(song, name, self._session.record, revision=revision)
            await self.say(event)

    def _ack_due(self) -> bool:
        """Whether the client waits for an ack: half of its credit is used, it repeated something, or it has been long."""
        n_received = self._session.received_sequence_number - self._acknowledged
        silent_s = asyncio.get_running_loop().time() - self._last_ack
        return self._reader.repeated or 2 * n_received >= self._credit.chunks or silent_s >= ACK_INTERVAL_S

    async def _acknowledge(self) -> None:
        self._reader.repeated = False
        self._acknowledged = self._session.received_sequence_number
        self._last_ack = asyncio.get_running_loop().time()
        self._credit = self._runtime.credit
        await self.say(ack(self._acknowledged, self._session.record, self._credit))

    async def _announce_end(self) -> None:
        self._announced = True
        deadline_ms = self._runtime.now_ms + round(self._runtime.settings.drain_grace_s * 1000)
        retry_delay_s = RETRY_DELAY_S[self._ending]
        await self.say(go_away(self._ending, deadline_ms=deadline_ms, retry_delay_s=retry_delay_s))

    def _observe_latency(self, heard: Heard, first_arrival: float | None, last_arrival: float) -> None:
        now = asyncio.get_running_loop().time()
        metrics = self._runtime.metrics
        if first_arrival is not None:
            metrics.ingest_ack_latency_seconds.observe(now - first_arrival)
            for _ in heard.songs:
                metrics.song_latency_seconds.observe(now - last_arrival)
