"""IngestService: accepts audio streams, and tells how far a session is."""

# ruff: noqa: N802 - the methods have the API's names

import asyncio
from collections.abc import AsyncIterator

from songserve.records import SessionName, SessionRecord
from songserve.refusal import Refusal
from songserve.requests import lane_of, read_setup, wants_songs
from songserve.responses import session_status, setup_ack
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
        self._segmenter_version = runtime.bundle.stream_config.fingerprint().hex()

    @answering
    async def StreamAudio(  # type: ignore[override] # gRPC also takes a coroutine that writes by itself
        self, requests: AsyncIterator[ingest_pb2.StreamAudioRequest], context: Context
    ) -> None:
        """Serve one stream of a session, from setup to its end."""
        del requests  # read from the context one by one, with a time limit
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
        found = await self._runtime.read(self._runtime.queries.session, str(name.uuid))
        if found is None or found[0].opening.name != name:
            raise Refusal(f"nothing was ever received of {name}", reason="SESSION_UNKNOWN")
        record, n_songs = found
        return session_status(record, n_songs=n_songs, connected=name.uuid in self._runtime.streams)

    async def _serve(self, setup: ingest_pb2.Setup, context: Context) -> None:
        runtime = self._runtime
        opening = read_setup(setup, now_ms=runtime.now_ms)
        uuid = opening.name.uuid
        require_station(opening.name.station)
        stream = AudioStream(context, runtime, lane=lane_of(setup), wants_songs=wants_songs(setup))
        # Refused before it takes a place, a stream leaves the older one alone. Answers come in the order of the epochs, and no
        # pause lies between an answer and taking the place, so both have one order.
        record = await asyncio.wrap_future(runtime.store.open_session(opening))
        older = runtime.streams.get(uuid)
        if older:
            older.fence()
        runtime.streams[uuid] = stream
        if runtime.draining:
            stream.drain()
        try:
            session = await runtime.listen(self._session, record)
            answer = setup_ack(
                record,
                runtime.bundle,
                max_chunk_bytes=runtime.settings.max_chunk_bytes,
                max_in_flight_chunks=runtime.settings.max_in_flight_chunks,
                now_ms=runtime.now_ms,
            )
            await context.write(answer)
            await stream.run(session)
        finally:
            if runtime.streams.get(uuid) is stream:
                del runtime.streams[uuid]

    def _session(self, record: SessionRecord) -> Session:
        return Session(
            record,
            self._runtime.make_stream,
            bundle=self._runtime.bundle.digest,
            segmenter_version=self._segmenter_version,
            limits=self._runtime.limits,
        )
