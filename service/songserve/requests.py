"""Requests of `songserve.v1` to domain values; what makes no sense is refused here."""

import re
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from songcore.resample import check_sample_rate
from songserve.frequencies import FrequencyFilter
from songserve.intake import Chunk, Finish, Gap
from songserve.queries import Position, SongFilter
from songserve.records import AudioFormat, Encoding, SessionName, SessionOpening
from songserve.refusal import Refusal
from songserve.v1 import ingest_pb2, songs_pb2

__all__ = [
    "Heartbeat",
    "gap_reason",
    "lane_of",
    "read_frequency_filter",
    "read_message",
    "read_page",
    "read_setup",
    "read_song_uid",
    "read_watch",
    "resume_token",
    "wants_songs",
]

MAX_CHANNELS = 64
MAX_PAGE = 1000
DEFAULT_PAGE = 100
MAX_FILTER_IDS = 1000
"""Far below what SQLite takes in one statement."""
HOUR_MS = 3_600_000
# Of Timestamp, by its definition: the years 1 to 9999. Before 1970 nothing was recorded that is streamed.
_MAX_SECONDS = 253_402_300_799

_ENCODINGS: dict[int, Encoding] = {
    ingest_pb2.AudioFormat.ENCODING_LINEAR16: "linear16",
    ingest_pb2.AudioFormat.ENCODING_FLOAT32: "float32",
}
_LANES = {ingest_pb2.LANE_UNSPECIFIED: "live", ingest_pb2.LANE_LIVE: "live", ingest_pb2.LANE_BACKFILL: "backfill"}
_RESUME_TOKEN = re.compile(r"([0-9a-f-]{36})\.(\d{1,18})")
_PAGE_TOKEN = re.compile(r"(-?\d{1,18})\.([0-9a-f-]{36})")

Heartbeat = ingest_pb2.Heartbeat


def read_setup(setup: ingest_pb2.Setup, *, now_ms: int) -> SessionOpening:
    """Return what a setup asks for; raises Refusal SETUP_INVALID or FORMAT_UNSUPPORTED, or the core's InputError."""
    name = SessionName.parse(setup.session, reason="SETUP_INVALID")
    if setup.result_mode not in ingest_pb2.ResultMode.values() or setup.lane not in _LANES:
        raise Refusal(
            f"result_mode {setup.result_mode} or lane {setup.lane} is not known to this server", reason="SETUP_INVALID"
        )
    start_ms = _milliseconds(setup.capture_start_time) if setup.HasField("capture_start_time") else None
    if start_ms is None or not 0 <= start_ms <= now_ms + 24 * HOUR_MS:
        raise Refusal(
            "capture_start_time must be the UTC time of the first sample, between 1970 and a day from now",
            reason="SETUP_INVALID",
        )
    return SessionOpening(name, _read_format(setup.audio_format), start_ms)


def lane_of(setup: ingest_pb2.Setup) -> str:
    """Return the lane's metric label."""
    return _LANES[setup.lane]


def wants_songs(setup: ingest_pb2.Setup) -> bool:
    """Return whether songs are to be sent back."""
    return setup.result_mode != ingest_pb2.RESULT_MODE_NONE


def read_message(request: ingest_pb2.StreamAudioRequest) -> Chunk | Gap | Finish | Heartbeat:
    """Return what a message after the setup says; raises Refusal SETUP_REPEATED or MESSAGE_INVALID."""
    match request.WhichOneof("message"):
        case "chunk":
            chunk = request.chunk
            return Chunk(chunk.sequence_number, chunk.start_sample, chunk.sample_count, chunk.data, chunk.crc32c)
        case "gap":
            gap = request.gap
            last = gap.last_sequence_number or gap.sequence_number
            return Gap(gap.sequence_number, last, gap.start_sample, gap.sample_count)
        case "finish":
            return Finish(request.finish.last_sequence_number, request.finish.total_samples)
        case "heartbeat":
            return request.heartbeat
        case "setup":
            raise Refusal("a stream has one setup, as its first message", reason="SETUP_REPEATED")
        case _:
            raise Refusal("a message without content, or of a kind this server does not know", reason="MESSAGE_INVALID")


def gap_reason(request: ingest_pb2.StreamAudioRequest) -> str:
    """Return the metric label of a gap's reason."""
    known = {value: name for name, value in ingest_pb2.Gap.Reason.items()}
    return known.get(request.gap.reason, "REASON_UNKNOWN").removeprefix("REASON_").lower()


def read_song_uid(name: str) -> str:
    """Return the uid in ``songs/{uid}``."""
    return _id_in(name, "songs")


def read_page(request: songs_pb2.ListSongsRequest) -> tuple[SongFilter, Position | None, int]:
    """Return which songs, after which, and how many; raises Refusal NAME_INVALID, PAGE_TOKEN_INVALID, INTERVAL_INVALID."""
    start_ms, end_ms = _interval(request)
    session = SessionName.parse(request.session) if request.session else None
    station = _id_in(request.station, "stations") if request.station else None
    wanted = SongFilter(
        start_ms=start_ms,
        end_ms=end_ms,
        station=station,
        session=str(session.uuid) if session else None,
        type_id=_id_in(request.song_type, "songTypes") if request.song_type else None,
        only_novel=request.only_novel,
        include_noise=request.include_noise,
    )
    after = None
    if request.page_token:
        token = _PAGE_TOKEN.fullmatch(request.page_token)
        if token is None:
            raise Refusal(
                "page_token is none that this server gave; begin again without one", reason="PAGE_TOKEN_INVALID"
            )
        after = (int(token[1]), token[2])
    return wanted, after, min(request.page_size or DEFAULT_PAGE, MAX_PAGE)


def read_watch(request: songs_pb2.WatchSongsRequest, *, store: str, last_seq: int) -> tuple[SongFilter, int]:
    """Return which songs, and the number after which to begin; ``store`` is the store's identity.

    Raises Refusal NAME_INVALID or RESUME_TOKEN_INVALID.
    """
    wanted = SongFilter(
        station=_id_in(request.station, "stations") if request.station else None,
        type_id=_id_in(request.song_type, "songTypes") if request.song_type else None,
        only_novel=request.only_novel,
        include_noise=request.include_noise,
    )
    if not request.resume_token:
        return wanted, 0 if request.include_stored else last_seq
    token = _RESUME_TOKEN.fullmatch(request.resume_token)
    if token is None or token[1] != store or int(token[2]) > last_seq:
        raise Refusal(
            "resume_token is none of this database as it is now; begin again without one, with include_stored to miss nothing",
            reason="RESUME_TOKEN_INVALID",
        )
    return wanted, int(token[2])


def resume_token(store: str, seq: int) -> str:
    """Return the token of one who has seen every song up to a number."""
    return f"{store}.{seq}"


def read_frequency_filter(request: songs_pb2.QueryFrequenciesRequest) -> FrequencyFilter:
    """Return what to count; raises Refusal NAME_INVALID, FILTER_TOO_LONG, INTERVAL_INVALID or BUCKET_INVALID."""
    start_ms, end_ms = _interval(request)
    if any(bound is not None and bound % HOUR_MS for bound in (start_ms, end_ms)):
        raise Refusal(
            "start_time and end_time must be whole UTC hours, as effort is kept by the hour", reason="INTERVAL_INVALID"
        )
    bucket_ms = None
    if request.HasField("bucket"):
        bucket_ms = request.bucket.seconds * 1000 + request.bucket.nanos // 1_000_000
        if not 0 < bucket_ms <= _MAX_SECONDS * 1000 or bucket_ms % HOUR_MS:
            raise Refusal("bucket must be a whole number of hours, at least one", reason="BUCKET_INVALID")
    return FrequencyFilter(
        start_ms=start_ms,
        end_ms=end_ms,
        bucket_ms=bucket_ms,
        stations=_ids_in(request.stations, "stations"),
        type_ids=_ids_in(request.song_types, "songTypes"),
    )


def _read_format(audio_format: ingest_pb2.AudioFormat) -> AudioFormat:
    if audio_format.encoding not in _ENCODINGS:
        raise Refusal(
            f"encoding {audio_format.encoding} is not taken; send LINEAR16 or FLOAT32", reason="FORMAT_UNSUPPORTED"
        )
    check_sample_rate(audio_format.sample_rate_hz)
    n_channels, channel = audio_format.channel_count, audio_format.channel
    if not 1 <= n_channels <= MAX_CHANNELS or channel > n_channels:
        raise Refusal(
            f"channel {channel} of {n_channels} cannot be taken; expected 1 to {MAX_CHANNELS} channels and one of them, or 0 "
            "for their mean",
            reason="FORMAT_UNSUPPORTED",
        )
    return AudioFormat(_ENCODINGS[audio_format.encoding], audio_format.sample_rate_hz, n_channels, channel or None)


def _id_in(name: str, collection: str) -> str:
    found = re.fullmatch(rf"{collection}/([A-Za-z0-9-]{{1,63}})", name)
    if found is None:
        raise Refusal(f"name {name!r} is not of the form {collection}/{{id}}", reason="NAME_INVALID")
    return found[1]


def _ids_in(names: Sequence[str], collection: str) -> list[str]:
    if len(names) > MAX_FILTER_IDS:
        raise Refusal(
            f"{len(names)} {collection} are asked for, at most {MAX_FILTER_IDS} are taken; ask in parts, or for all with none",
            reason="FILTER_TOO_LONG",
        )
    return [_id_in(name, collection) for name in names]


def _interval(request: songs_pb2.ListSongsRequest | songs_pb2.QueryFrequenciesRequest) -> tuple[int | None, int | None]:
    start_ms = _milliseconds(request.start_time) if request.HasField("start_time") else None
    end_ms = _milliseconds(request.end_time) if request.HasField("end_time") else None
    if start_ms is not None and end_ms is not None and end_ms <= start_ms:
        raise Refusal("end_time must be after start_time", reason="INTERVAL_INVALID")
    return start_ms, end_ms


def _milliseconds(time: Timestamp) -> int:
    if not -_MAX_SECONDS <= time.seconds <= _MAX_SECONDS:
        raise Refusal(f"{time.seconds} s is no time of the years 1 to 9999", reason="INTERVAL_INVALID")
    return time.seconds * 1000 + time.nanos // 1_000_000
