"""The link over a real port: FLAC on the wire, guesses, notices, and a server that takes little at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any as Any_
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from bundles import make_test_bundle, soundscape
from serving import ServerThread, Stream, pcm16, session_name, setup
from songcore.errors import ConfigError
from songserve.settings import ServeSettings
from songserve.v1 import ingest_pb2, songs_pb2, songs_pb2_grpc
from songstation.channel import Channel
from songstation.dialogue import HeardSong, SessionInfo, SessionNotice
from songstation.link import Link, LinkSettings
from songstation.outbox import LossReason, Outbox, Sound
from songstation.recovery import Backoff, Failure
from songstation.sources import LEAST_SERVER_CHUNK_BYTES, chunk_samples
from songstation.wire import item_request, read_failure

RATE = 24_000
INFO = SessionInfo("", RATE, datetime(2026, 5, 1, 4, tzinfo=UTC), "test")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """Return a server with little credit to give."""
    bundle = make_test_bundle(tmp_path_factory.mktemp("bundle") / "b")
    with ServerThread(bundle, tmp_path_factory.mktemp("data"), max_in_flight_chunks=3) as server:
        yield server


def make_link(
    channel: Channel,
    outbox: Outbox,
    info: SessionInfo,
    now: Callable[[], datetime],
    new_name: Callable[[], str | None] = lambda: session_name(number=999),
    **hooks: Any,
) -> Link:
    """Return a link whose delays and names follow from nothing but what is given."""
    return Link(
        channel,
        outbox,
        info,
        backoff=Backoff(Random(1), first_s=0.1),
        settings=LinkSettings(heartbeat_s=0.2),
        new_name=new_name,
        now=now,
        **hooks,
    )


def carry(server: ServerThread, samples: Any, info: SessionInfo, *, pace_s: float = 0) -> dict[str, list[Any]]:
    """Send samples (n,) float32 as one session; return songs, guesses and notices."""
    heard: dict[str, list[Any]] = {"songs": [], "guesses": [], "notices": []}

    async def run() -> None:
        outbox = Outbox(max_bytes=2**26, max_loss_samples=3600 * RATE)
        channel = Channel(server.addresses.grpc)
        link = make_link(
            channel,
            outbox,
            info,
            lambda: datetime(2026, 5, 1, 5, tzinfo=UTC),
            on_song=heard["songs"].append,
            on_trouble=lambda failure, _: pytest.fail(str(failure)),
            on_notice=heard["notices"].append,
            on_guess=heard["guesses"].append,
        )
        running = asyncio.create_task(link.run())
        for begin in range(0, len(samples), RATE // 2):
            data = pcm16(samples[begin : begin + RATE // 2])
            assert outbox.offer(data, len(data) // 2)
            link.captured()
            await asyncio.sleep(pace_s)
        outbox.end()
        link.captured()
        await running
        assert outbox.n_committed == len(samples)
        await channel.close()

    asyncio.run(run())
    return heard


def stored(server: ServerThread, session: str) -> list[Any]:
    """Return the songs of a session: where they lie and what they are."""
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    page = stub.ListSongs(songs_pb2.ListSongsRequest(page_size=1000, include_noise=True, session=session))
    return [(song.onset_sample, song.offset_sample, song.song_type, song.similarity) for song in page.songs]


def test_flac_and_pcm_give_the_same_songs(server: ServerThread) -> None:
    """Two sessions of the same sound, one as FLAC in the lane BACKFILL, have the same songs, each heard once."""
    samples, truth = soundscape([0, 1, 2], 7)
    plain = replace(INFO, name=session_name(number=1))
    packed = replace(INFO, name=session_name(number=2), encoding="flac", lane="backfill")
    heard = [carry(server, samples, info) for info in (plain, packed)]
    assert len(heard[0]["songs"]) == len(heard[1]["songs"]) == len(truth)
    assert stored(server, plain.name) == stored(server, packed.name)


def test_guesses_and_notices_reach_their_callers(server: ServerThread) -> None:
    """A long song is guessed at before it is heard as a song; a station whose clock is wrong is told."""
    song = soundscape([2], 3, gap_s=0.01, noise=0)[0][: int(1.2 * RATE)]
    quiet = np.zeros(2 * RATE, np.float32)
    samples = np.concatenate([quiet, *[song] * 3, quiet])
    samples += (0.002 * np.random.default_rng(1).standard_normal(len(samples))).astype(np.float32)
    heard = carry(server, samples, replace(INFO, name=session_name(number=3), guesses=True), pace_s=0.25)
    guesses: list[HeardSong] = heard["guesses"]
    assert guesses
    assert all(guess.revision and not guess.name for guess in guesses)
    assert guesses[0].start == heard["songs"][0].start
    notices: list[SessionNotice] = heard["notices"]
    assert [notice.kind for notice in notices] == ["clock"]


@pytest.mark.parametrize("n_fences", [1, 2])
def test_a_session_that_was_taken_over_is_taken_back_once(server: ServerThread, n_fences: int) -> None:
    """One's own setup may come late, on a connection that was given up; who comes again is another, and is given way to."""
    samples, info = soundscape([0], 7)[0], replace(INFO, name=session_name(number=10 + n_fences))
    late = setup(info.name, rate=RATE, start_ms=round(1000 * info.start.timestamp()))
    late.setup.client = info.client
    troubles: list[Failure] = []

    async def run() -> None:
        outbox = Outbox(max_bytes=2**26, max_loss_samples=3600 * RATE)
        async with Channel(server.addresses.grpc) as channel:
            link = make_link(
                channel,
                outbox,
                info,
                lambda: datetime.now(UTC),
                on_song=lambda _: None,
                on_trouble=lambda failure, _: troubles.append(failure),
            )
            running = asyncio.create_task(link.run())
            for _ in range(n_fences):
                while not running.done() and not outbox._open:  # noqa: ASYNC110 - a flag
                    await asyncio.sleep(0.01)
                # Before it is open the stream may not be counted yet.
                n_before = link.n_streams
                stream = await asyncio.to_thread(Stream, server.channel, late)
                assert (await asyncio.to_thread(stream.read)).HasField("setup_ack")
                stream.half_close()
                while not running.done() and link.n_streams == n_before:  # noqa: ASYNC110 - a counter
                    await asyncio.sleep(0.01)
            data = pcm16(samples)
            assert outbox.offer(data, len(samples))
            outbox.end()
            link.captured()
            await running
            assert outbox.n_committed == len(samples)

    if n_fences == 1:
        asyncio.run(run())
    else:
        with pytest.raises(ConfigError) as refused:
            asyncio.run(run())
        assert refused.value.reason == "WRITER_FENCED"
    assert [failure.reason for failure in troubles] == ["WRITER_FENCED"]


def test_a_stream_that_cannot_send_any_more_is_begun_anew(server: ServerThread) -> None:
    """What goes wrong between the spool and the wire ends the stream, which would look well for ever; all is sent then."""

    class Broken(Outbox):
        n_asked = 0

        def next(self) -> Any:
            """Fail once in the middle, the chunk being taken."""
            item = super().next()
            self.n_asked += isinstance(item, Sound)
            if self.n_asked == 3:
                self.n_asked += 1
                raise OSError("the disk did not answer")
            return item

    troubles: list[Failure] = []
    samples, _ = soundscape([0, 1], 5)

    async def run() -> Link:
        outbox = Broken(max_bytes=2**26, max_loss_samples=3600 * RATE)
        info = replace(INFO, name=session_name(number=40))
        async with Channel(server.addresses.grpc) as channel:
            link = make_link(
                channel,
                outbox,
                info,
                lambda: datetime(2026, 5, 1, 5, tzinfo=UTC),
                on_song=lambda _: None,
                on_trouble=lambda failure, _: troubles.append(failure),
            )
            for begin in range(0, len(samples), RATE // 2):
                data = pcm16(samples[begin : begin + RATE // 2])
                outbox.offer(data, len(data) // 2)
            outbox.end()
            link.captured()
            await asyncio.wait_for(link.run(), 60)
        return link

    link = asyncio.run(run())
    assert [trouble.reason for trouble in troubles] == ["SENDING_FAILED"]
    assert "the disk did not answer" in troubles[0].message
    assert (link.n_streams, link.n_committed) == (2, len(samples))


@pytest.mark.parametrize("n_refused", [0, 2])
def test_a_hole_that_a_setup_shows_is_left_behind_under_a_name_that_is_kept(
    server: ServerThread, n_refused: int
) -> None:
    """The outbox takes up the oldest that it has, and nothing is sent under the new name before that can be kept."""
    old, new = session_name(number=50 + n_refused), session_name(number=60 + n_refused)
    names = iter([*[None] * n_refused, new])
    link, outbox, troubles = carried(server, old, Rewound((2, 3600 * RATE + 1)), lambda: next(names))
    assert [failure.reason for failure in troubles] == ["GAP_TOO_LONG"] * (n_refused + 1)
    assert (outbox.n_rewound, link.session.name) == (n_refused + 1, new)
    assert (link.n_committed, link.n_streams) == (RATE, n_refused + 2)


def test_a_gap_of_more_than_an_hour_is_no_reason_to_begin_with_what_the_server_has(server: ServerThread) -> None:
    """Said of a gap that was sent, the code means that one: what lies before it would count twice."""
    outbox = Rewound((1, 0))
    outbox.lose(3600 * RATE + 1, LossReason.DEVICE_LOST)
    _, _, troubles = carried(server, session_name(number=70), outbox, lambda: None, most_troubles=1)
    assert [failure.reason for failure in troubles] == ["GAP_TOO_LONG"]
    assert outbox.n_rewound == 0


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff\xffno status",
        Status(details=[Any_(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")]).SerializeToString(),
    ],
    ids=["status", "detail"],
)
def test_what_a_proxy_writes_into_the_trailers_is_an_ordinary_failure(details: bytes) -> None:
    """Details that are none say nothing: the code counts, and the session goes on after a wait."""
    troubles = carried_by(Foretold((0, grpc.StatusCode.UNAVAILABLE, details)))
    ((failure, delay_s),) = troubles
    assert (failure.code, failure.reason, failure.message) == ("UNAVAILABLE", "", "foretold")
    assert delay_s > 0


def test_a_server_cannot_wish_for_a_delay_below_nothing() -> None:
    """A retry delay that is negative is none."""
    wish = RetryInfo(retry_delay=Duration(seconds=-100))
    assert read_failure("UNAVAILABLE", "", packed(wish)).retry_after_s == 0


def test_a_server_that_finds_gaps_and_takes_nothing_is_not_asked_without_a_pause() -> None:
    """At once is for the first time, and for a server that has got further since; otherwise the delays are the usual ones."""
    gap = packed(ErrorInfo(reason="SEQUENCE_GAP", domain="test"))
    n_taken = [0, 0, 0, 1, 1]
    troubles = carried_by(Foretold(*[(n, grpc.StatusCode.OUT_OF_RANGE, gap) for n in n_taken]))
    assert [failure.reason for failure, _ in troubles] == ["SEQUENCE_GAP"] * 5
    assert [delay_s > 0 for _, delay_s in troubles] == [False, True, True, False, True]


def packed(detail: ErrorInfo | RetryInfo) -> bytes:
    """Return the status that a server sends with a detail."""
    status = Status()
    status.details.add().Pack(detail)
    return bytes(status.SerializeToString())


class Foretold:
    """A server whose streams end as foretold, each with the first chunks taken in and none committed; the last takes all."""

    def __init__(self, *endings: tuple[int, grpc.StatusCode, bytes]) -> None:
        self._endings = iter(endings)

    async def stream(self, requests: Any, context: Any) -> AsyncIterator[ingest_pb2.StreamAudioResponse]:
        """Take chunk after chunk, one in flight."""
        ending, n_taken = next(self._endings, None), 0
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "setup":
                opened = ingest_pb2.SetupAck(expected_sequence_number=1, max_in_flight_chunks=1)
                yield ingest_pb2.StreamAudioResponse(setup_ack=opened)
            elif kind == "chunk" and ending and n_taken == ending[0]:
                await context.abort(ending[1], "foretold", (("grpc-status-details-bin", ending[2]),))
            elif kind in {"chunk", "finish"}:
                n_taken += kind == "chunk"
                ack = ingest_pb2.Ack(received_sequence_number=n_taken, finished=kind == "finish")
                ack.committed_sequence_number = 0 if ending else n_taken
                yield ingest_pb2.StreamAudioResponse(ack=ack)
                if kind == "finish":
                    return


def carried_by(servicer: Foretold) -> list[tuple[Failure, float]]:
    """Send three chunks to a server until it has them; return how streams failed, and the delays after them."""
    troubles: list[tuple[Failure, float]] = []

    async def run() -> None:
        server = grpc.aio.server()
        streaming = grpc.stream_stream_rpc_method_handler(
            servicer.stream,
            request_deserializer=ingest_pb2.StreamAudioRequest.FromString,
            response_serializer=ingest_pb2.StreamAudioResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler("songserve.v1.IngestService", {"StreamAudio": streaming})
        server.add_generic_rpc_handlers([handler])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        outbox = Outbox(max_bytes=2**20, max_loss_samples=3600 * RATE)
        async with Channel(f"127.0.0.1:{port}") as channel:
            link = make_link(
                channel,
                outbox,
                replace(INFO, name=session_name(number=1)),
                lambda: datetime(2026, 5, 1, 5, tzinfo=UTC),
                on_song=lambda _: None,
                on_trouble=lambda failure, delay_s: troubles.append((failure, delay_s)),
            )
            for _ in range(3):
                assert outbox.offer(bytes(200), 100)
            outbox.end()
            await asyncio.wait_for(link.run(), 30)
            assert outbox.n_committed == 300
        await server.stop(None)

    asyncio.run(run())
    return troubles


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000, 96_000, 192_000, 250_000, 384_000])
@pytest.mark.parametrize("encoding", ["linear16", "flac"])
def test_a_chunk_fits_every_server(rate_hz: int, encoding: Any) -> None:
    """Noise at full scale, which FLAC makes longer, is within the least that a server can be set to take."""
    n_samples = chunk_samples(5.0, rate_hz)
    noise = np.random.default_rng(1).integers(-32768, 32768, n_samples, dtype=np.int16).tobytes()
    request = item_request(Sound(1, 0, n_samples, noise), replace(INFO, sample_rate_hz=rate_hz, encoding=encoding))
    assert len(request.chunk.data) <= LEAST_SERVER_CHUNK_BYTES
    (least,) = (rule.ge for rule in ServeSettings.model_fields["max_chunk_bytes"].metadata if hasattr(rule, "ge"))
    assert least >= LEAST_SERVER_CHUNK_BYTES


class Rewound(Outbox):
    """An outbox that says what is the oldest it has, until it is told that the server has lost that."""

    def __init__(self, oldest: tuple[int, int]) -> None:
        super().__init__(max_bytes=2**26, max_loss_samples=7200 * RATE)
        self.oldest, self.n_rewound = oldest, 0

    @property
    def first_available(self) -> tuple[int, int]:
        """Return what was given."""
        return self.oldest

    def rewind(self) -> None:
        """Count."""
        self.n_rewound += 1


def carried(
    server: ServerThread,
    name: str,
    outbox: Rewound,
    new_name: Callable[[], str | None],
    *,
    most_troubles: int | None = None,
) -> tuple[Link, Rewound, list[Failure]]:
    """Send a second of silence behind what is in the outbox, until all is committed or so many streams have failed."""
    troubles: list[Failure] = []

    def named() -> str | None:
        if (found := new_name()) is not None:
            outbox.oldest = 1, 0
        return found

    async def run() -> Link:
        async with Channel(server.addresses.grpc) as channel:
            link = make_link(
                channel,
                outbox,
                replace(INFO, name=name),
                lambda: datetime(2026, 5, 1, 5, tzinfo=UTC),
                named,
                on_song=lambda _: None,
                on_trouble=lambda failure, _: troubles.append(failure),
            )
            assert outbox.offer(bytes(2 * RATE), RATE)
            outbox.end()
            running = asyncio.create_task(link.run())
            async with asyncio.timeout(30):
                while not running.done() and (most_troubles is None or len(troubles) < most_troubles):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            if running.done():
                running.result()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return link

    return asyncio.run(run()), outbox, troubles
