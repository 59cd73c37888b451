"""IngestService: accepts audio streams, and tells how far a session is."""

# ruff: noqa: N802 - the methods have the API's names

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial

import grpc

from songcore.errors import SongError
from songserve.ingest_requests import Wish, missing_gap, read_finish, read_setup, read_wish
from songserve.ingest_responses import session_status, setup_ack
from songserve.intake import Finish, Intake
from songserve.metrics import Metrics
from songserve.notices import Notice, bundle_changed
from songserve.records import SessionName, SessionOpening, SessionRecord
from songserve.refusal import Refusal
from songserve.runtime import Runtime
from songserve.security.gate import require_station
from songserve.servicers.audio_stream import AudioStream
from songserve.servicers.calls import Context, admitted, answering, read_first
from songserve.session import Session
from songserve.v1 import ingest_pb2, ingest_pb2_grpc

__all__ = ["IngestServicer"]


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """The gRPC side of sessions."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @answering
    async def StreamAudio(  # type: ignore[override] # gRPC also takes a coroutine that writes by itself
        self, requests: AsyncIterator[ingest_pb2.StreamAudioRequest], context: Context
    ) -> None:
        """Serve one stream of a session, from setup to its end."""
        del requests  # read from the context one by one, with a time limit
        with _end_counted(self._runtime.metrics):
            async with admitted(self._runtime):
                message = await read_first(context, self._runtime)
                await self._serve(message.setup, context)

    @answering
    async def GetSessionStatus(
        self, request: ingest_pb2.GetSessionStatusRequest, context: Context
    ) -> ingest_pb2.SessionStatus:
        """Return how far a session is."""
        del context
        name = SessionName.parse(request.session)
        require_station(name.station)
        return await self._status(name)

    @answering
    async def FinishSession(
        self, request: ingest_pb2.FinishSessionRequest, context: Context
    ) -> ingest_pb2.SessionStatus:
        """Finish a session without a stream; a connected one is finished with what it sent."""
        del context
        name, finish = read_finish(request)
        require_station(name.station)
        async with admitted(self._runtime):
            record, _ = await self._known(name)
            stream = self._runtime.streams.get(name.uuid)
            if stream is None or record.finished or not await stream.finish(finish):
                record, _ = await self._known(name)
                self._check_finish(record, finish)
                if not record.finished:
                    await self._finish_alone(record, finish)
            return await self._status(name)

    async def _known(self, name: SessionName) -> tuple[SessionRecord, int]:
        found = await self._runtime.read(self._runtime.queries.session, str(name.uuid))
        if found is None or found[0].opening.name != name:
            raise Refusal(f"nothing was ever received of {name}", reason="SESSION_UNKNOWN")
        return found

    async def _status(self, name: SessionName) -> ingest_pb2.SessionStatus:
        record, n_songs = await self._known(name)
        stream = self._runtime.streams.get(name.uuid)
        received = stream.received_sequence_number if stream else None
        return session_status(record, self._runtime.bundle, n_songs=n_songs, received_sequence_number=received)

    def _check_finish(self, record: SessionRecord, finish: Finish) -> None:
        Intake(record, max_chunk_bytes=0).finish(finish)

    async def _finish_alone(self, record: SessionRecord, finish: Finish) -> None:
        """Close a session of which everything is committed; raises Refusal WRITER_FENCED when a stream comes between."""
        runtime = self._runtime
        record = await asyncio.wrap_future(runtime.store.open_session(record.opening))
        session = await runtime.listen(self._session, record)
        session.intake.finish(finish)
        step = session.next_step(due=True)
        if step:
            heard = await runtime.listen(session.listen, step)
            commit = session.decide(heard, await runtime.name(heard))
            if commit:
                new = await asyncio.wrap_future(runtime.store.commit(commit))
                runtime.metrics.songs_stored(new)

    async def _serve(self, setup: ingest_pb2.Setup, context: Context) -> None:
        opening, wish = read_setup(setup, now_ms=self._runtime.now_ms), read_wish(setup)
        name = opening.name
        require_station(name.station)
        # What is left of the disk is for the streams that are open.
        self._runtime.store.check_disk(n_reserves=2)
        stations, loop = self._runtime.stations, asyncio.get_running_loop()
        with stations.streaming(name.station, name.uuid, loop.time()):
            may_begin = stations.may_begin_session(name.station, loop.time())
            if not may_begin and not await self._runtime.read(self._runtime.queries.knows_session, name):
                raise Refusal(
                    f"{name.station} has begun as many sessions as it may, {stations.shares.n_sessions_per_day} and as many "
                    "again in the course of each day; look for a device that comes and goes, or a clock that is set again "
                    "and again",
                    reason="SESSION_LIMIT",
                )
            await self._stream(opening, wish, context)

    async def _stream(self, opening: SessionOpening, wish: Wish, context: Context) -> None:
        runtime, uuid = self._runtime, opening.name.uuid
        stream = AudioStream(context, runtime, wish, station=opening.name.station)
        # Refused before it takes a place, a stream leaves the older one alone. Answers come in the order of the epochs, and no
        # pause lies between an answer and taking the place, so both have one order.
        record = await asyncio.wrap_future(runtime.store.open_session(opening))
        if record.writer_epoch == 1:
            runtime.stations.session_begun(opening.name.station, asyncio.get_running_loop().time())
        older = runtime.streams.get(uuid)
        if older:
            older.fence()
        runtime.streams[uuid] = stream
        if runtime.draining:
            stream.drain()
        try:
            missing = missing_gap(record, wish)
            session = await runtime.listen(partial(self._session, record, guessing=wish.results == "partial"))
            answer = setup_ack(
                record,
                runtime.bundle,
                max_chunk_bytes=runtime.settings.max_chunk_bytes,
                credit=runtime.credit,
                lease_s=runtime.settings.lease_s,
                missing=missing,
                now_ms=runtime.now_ms,
            )
            await stream.say(answer)
            await stream.run(session, self._first_notices(record, session, wish))
        finally:
            stream.leave()
            if runtime.streams.get(uuid) is stream:
                del runtime.streams[uuid]

    def _first_notices(self, record: SessionRecord, session: Session, wish: Wish) -> list[Notice]:
        """Return what is worth telling about how the session stands."""
        notices = []
        if session.bundle_changed:
            notices.append(bundle_changed(session.model.digest, record.input_sample))
        if wish.seen and (wish.seen[1] > record.committed_sequence_number or wish.seen[0] >= record.writer_epoch):
            self._runtime.metrics.ingest_rewinds_total.inc()
            text = (
                f"chunk {wish.seen[1]} was once acknowledged, and the database knows {record.committed_sequence_number}: it "
                "was put back to an older state"
            )
            notices.append(Notice("rewound", text, record.committed_sample))
        return notices

    def _session(self, record: SessionRecord, *, guessing: bool = False) -> Session:
        return Session(
            record,
            self._runtime.bundle,
            limits=self._runtime.limits,
            guessing=guessing,
        )


@contextmanager
def _end_counted(metrics: Metrics) -> Iterator[None]:
    """Count how a stream ends, one that is refused included."""
    ended_as = "INTERNAL"
    try:
        yield
        ended_as = "OK"
    except SongError as error:
        ended_as = error.reason
        raise
    except (asyncio.CancelledError, grpc.aio.InternalError):  # the second where an answer cannot be sent any more
        ended_as = "CANCELLED"
        raise
    finally:
        metrics.ingest_closes_total.labels(ended_as).inc()
        if ended_as == "WRITER_FENCED":  # told by the newer stream, or, where another server has that, by the store
            metrics.ingest_fences_total.inc()
