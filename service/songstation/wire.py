"""Between the station's own types and the messages of songserve.v1; the only place that builds or reads them."""

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from google_crc32c import value as crc32c

from songserve.v1 import ingest_pb2, songs_pb2, types_pb2
from songstation.outbox import End, Loss, Sound
from songstation.recovery import Failure

__all__ = [
    "Acknowledged",
    "GoingAway",
    "HeardSong",
    "Opened",
    "Request",
    "Response",
    "SessionInfo",
    "heartbeat_request",
    "item_request",
    "read_failure",
    "read_response",
    "read_songs",
    "setup_request",
    "songs_request",
]

_SONGS_PER_PAGE = 500

Request = ingest_pb2.StreamAudioRequest
Response = ingest_pb2.StreamAudioResponse


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What opens a session; the samples are 16-bit, mono."""

    name: str
    """``stations/{station}/sessions/{uuid}``."""
    sample_rate_hz: int
    start: datetime
    """UTC time of sample 0."""
    client: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The server's answer to the setup."""

    expected: int
    committed_sample: int
    window: int
    max_chunk_bytes: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """How far the server is."""

    received: int
    committed: int
    finished: bool


@dataclass(frozen=True, slots=True)
class HeardSong:
    """A song that the server found, named and stored."""

    name: str
    type_id: str
    is_song: bool
    """False for a type of kind noise."""
    similarity: float
    p_value: float
    novel: bool
    onset_s: float
    offset_s: float
    start: datetime
    snr_db: float
    forced_cut: bool
    bundle: str


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The server is about to stop."""

    retry_after_s: float


def setup_request(session: SessionInfo) -> Request:
    """Return the first message of every stream of a session."""
    audio_format = ingest_pb2.AudioFormat(
        encoding=ingest_pb2.AudioFormat.ENCODING_LINEAR16, sample_rate_hz=session.sample_rate_hz, channel_count=1
    )
    message = ingest_pb2.Setup(
        session=session.name,
        audio_format=audio_format,
        capture_start_time=_timestamp(session.start),
        lane=ingest_pb2.LANE_LIVE,
        result_mode=ingest_pb2.RESULT_MODE_FINAL,
        client=session.client,
    )
    return Request(setup=message)


def item_request(item: Sound | Loss | End) -> Request:
    """Return the message that carries an item of the outbox."""
    if isinstance(item, Sound):
        chunk = ingest_pb2.Chunk(
            sequence_number=item.sequence_number,
            start_sample=item.start_sample,
            sample_count=item.n_samples,
            data=item.data,
            crc32c=crc32c(item.data),
        )
        return Request(chunk=chunk)
    if isinstance(item, Loss):
        gap = ingest_pb2.Gap(
            sequence_number=item.sequence_number,
            start_sample=item.start_sample,
            sample_count=item.n_samples,
            reason=ingest_pb2.Gap.Reason.Value(f"REASON_{item.reason}"),
            last_sequence_number=item.last_number if item.last_number != item.sequence_number else 0,
        )
        return Request(gap=gap)
    return Request(finish=ingest_pb2.Finish(last_sequence_number=item.last_number, total_samples=item.n_samples))


def heartbeat_request(now: datetime, held_bytes: int) -> Request:
    """Return a sign of life."""
    return Request(heartbeat=ingest_pb2.Heartbeat(create_time=_timestamp(now), spool_bytes=held_bytes))


def read_response(response: Response) -> Opened | Acknowledged | HeardSong | GoingAway | None:
    """Return what a response says; None for one of a later version of the protocol, to be ignored."""
    match response.WhichOneof("message"):
        case "setup_ack":
            opened = response.setup_ack
            return Opened(
                expected=opened.expected_sequence_number,
                committed_sample=opened.committed_sample,
                window=opened.max_in_flight_chunks,
                max_chunk_bytes=opened.max_chunk_bytes,
                finished=opened.finished,
            )
        case "ack":
            ack = response.ack
            return Acknowledged(ack.received_sequence_number, ack.committed_sequence_number, ack.finished)
        case "song":
            return _song(response.song.song)
        case "go_away":
            return GoingAway(response.go_away.retry_delay.ToNanoseconds() / 1e9)
    return None


def _song(song: types_pb2.Song) -> HeardSong:
    return HeardSong(
        name=song.name,
        type_id=song.song_type.removeprefix("songTypes/"),
        is_song=song.kind != types_pb2.SOUND_KIND_NOISE,
        similarity=song.similarity,
        p_value=song.p_value,
        novel=song.is_novel,
        onset_s=song.onset_s,
        offset_s=song.offset_s,
        start=song.start_time.ToDatetime(UTC),
        snr_db=song.snr_db,
        forced_cut=song.forced_cut,
        bundle=song.model_bundle.removeprefix("modelBundles/"),
    )


def songs_request(session: str, since: datetime | None, page_token: str) -> songs_pb2.ListSongsRequest:
    """Return the question for a page of the session's stored songs that begin at ``since`` or later, noise included."""
    return songs_pb2.ListSongsRequest(
        page_size=_SONGS_PER_PAGE,
        page_token=page_token,
        start_time=None if since is None else _timestamp(since),
        session=session,
        include_noise=True,
    )


def read_songs(page: songs_pb2.ListSongsResponse) -> tuple[list[HeardSong], str]:
    """Return the songs of a page and the token of the next one, empty on the last."""
    return [_song(song) for song in page.songs], page.next_page_token


def read_failure(code: str, message: str, details: bytes | None) -> Failure:
    """Return how a stream failed from gRPC's code, its message and the google.rpc.Status it may carry."""
    status = Status.FromString(details) if details else Status()
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return Failure(code, info.reason, message, dict(info.metadata), retry.retry_delay.ToNanoseconds() / 1e9)


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
