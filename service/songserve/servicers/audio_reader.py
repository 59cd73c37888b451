"""The reading half of a stream: takes messages in, as many as may wait, and keeps count of them."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from songserve.ingest_requests import Heartbeat, Lane, captured_ms, check_time, read_message
from songserve.intake import Chunk, Finish, Gap
from songserve.notices import Notice
from songserve.refusal import Refusal
from songserve.runtime import Runtime
from songserve.servicers.calls import Context, read_next
from songserve.servicers.station_health import StationHealth
from songserve.session import Session
from songserve.v1 import ingest_pb2

__all__ = ["AudioReader"]

GAP_COST_S = 0.25
"""Seconds of sound that a gap of any length counts as in the station's budget: it is as much work as a short chunk. An outage
of 90 days, 2160 gaps of an hour, may still come at once."""

log = logging.getLogger(__name__)


class AudioReader:
    """Reads one stream into its session; ``wake`` is called after each message."""

    def __init__(
        self,
        context: Context,
        runtime: Runtime,
        session: Session,
        health: StationHealth,
        *,
        lane: Lane,
        wake: Callable[[], object],
    ) -> None:
        self._context, self._runtime, self._session, self._health = context, runtime, session, health
        self._lane, self._wake = lane, wake
        self._room = asyncio.Event()
        loop = asyncio.get_running_loop()
        station = session.record.opening.name.station
        self._budget, self._ahead_s = runtime.stations.budget(station, lane, loop.time()), 0.0
        self._held_bytes = 0
        self.first_arrival: float | None = None
        """Of the chunks not taken yet; set to None when they are."""
        self.last_arrival = 0.0
        self.repeated = False
        """A chunk came again, and wants an answer."""
        self.gaps: deque[Gap] = deque()
        """That came in and were not told of yet."""
        self.notices: list[Notice] = []

    async def read(self) -> None:
        """Read until the client has nothing more to say; raises Refusal."""
        settings, intake = self._runtime.settings, self._session.intake
        most_bytes = settings.max_waiting_kb * 1024
        while (request := await read_next(self._context, self._runtime)) is not None:
            self._receive(request)
            del request  # holds the sound once more
            self._wake()
            await self._wait_for_budget()
            while intake.n_pending >= settings.max_in_flight_chunks or intake.n_pending_bytes >= most_bytes:
                self._runtime.metrics.ingest_credit_stalls_total.inc()
                self._room.clear()
                await self._room.wait()

    async def _wait_for_budget(self) -> None:
        """Stop reading while the station is further ahead of real time than it may be; then it cannot send more."""
        ahead_s, self._ahead_s = self._ahead_s, 0.0
        if ahead_s:
            self._runtime.metrics.ingest_credit_stalls_total.inc()
            await asyncio.sleep(ahead_s)

    def release(self, n_bytes: int) -> None:
        """Note that so many bytes were listened to."""
        self._held_bytes -= n_bytes
        self._runtime.hold_bytes(-n_bytes)
        self._room.set()

    def release_all(self) -> None:
        """Note that what still waits never will be."""
        self.release(self._held_bytes)

    def _receive(self, request: ingest_pb2.StreamAudioRequest) -> None:
        self._health.seen()
        message = read_message(request)
        if isinstance(message, Heartbeat):
            self._tell_clock(self._health.beat(message))
        elif isinstance(message, Finish):
            self._session.intake.finish(message)
        else:
            self._accept(message, request)

    def _accept(self, item: Chunk | Gap, request: ingest_pb2.StreamAudioRequest) -> None:
        metrics = self._runtime.metrics
        try:
            captured = captured_ms(request)  # first: of a chunk that is refused nothing is taken in
            check_time(item, self._session.record.opening, now_ms=self._runtime.now_ms)
            accepted = self._session.intake.accept(item)
        except Refusal as refusal:
            metrics.ingest_chunks_total.labels("rejected").inc()
            if refusal.reason.startswith("SEQUENCE_"):
                metrics.ingest_sequence_errors_total.labels(refusal.reason).inc()
                if refusal.reason == "SEQUENCE_REUSED":
                    log.warning("%s: %s", self._session.record.opening.name, refusal)
            raise
        seconds = item.sample_count / self._session.format.sample_rate_hz
        cost_s = seconds if isinstance(item, Chunk) else GAP_COST_S
        # Of what comes again too: it costs the same to receive.
        self._ahead_s = self._budget.spend(cost_s, asyncio.get_running_loop().time())
        if not accepted:
            metrics.ingest_chunks_total.labels("duplicate").inc()
            self.repeated = True
            return
        metrics.ingest_chunks_total.labels("accepted").inc()
        self.last_arrival = asyncio.get_running_loop().time()
        self.first_arrival = self.first_arrival or self.last_arrival
        if isinstance(item, Gap):
            self.gaps.append(item)
            return
        metrics.ingest_audio_seconds_total.labels(self._lane).inc(seconds)
        metrics.ingest_bytes_total.inc(len(item.data))
        self._held_bytes += len(item.data)
        self._runtime.hold_bytes(len(item.data))
        self._note_capture(item, captured)

    def _note_capture(self, chunk: Chunk, captured: int | None) -> None:
        self._health.clipped(chunk.n_clipped)
        if captured is not None:
            opening = self._session.record.opening
            counted_ms = opening.capture_start_ms + chunk.start_sample * 1000 / opening.audio_format.sample_rate_hz
            self._tell_clock(self._health.captured(captured / 1000, counted_s=counted_ms / 1000))

    def _tell_clock(self, told: list[Notice]) -> None:
        if told:
            # In place of the one that still waits: the next may come before the client takes an answer.
            self.notices = [notice for notice in self.notices if notice.kind != "clock"] + told
