"""Requests about songs to domain values; what makes no sense is refused here."""

import re
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from songserve.frequencies import FrequencyFilter, FrequencyPosition
from songserve.queries import Position, SongFilter
from songserve.records import SessionName
from songserve.refusal import Refusal
from songserve.times import HOUR_MS
from songserve.v1 import songs_pb2

__all__ = [
    "DEFAULT_PAGE",
    "MAX_PAGE",
    "milliseconds",
    "read_frequency_page",
    "read_page",
    "read_song_uid",
    "read_type_id",
    "read_types_page",
    "read_watch",
    "resume_token",
]

MAX_PAGE = 1000
DEFAULT_PAGE = 100
MAX_FREQUENCY_PAGE = 10_000
"""So many, unless a page has fewer for its bytes, that a client which knows of no pages gets all of an ordinary question."""
MAX_FILTER_IDS = 1000
"""Far below what SQLite takes in one statement."""
# Of Timestamp, by its definition: the years 1 to 9999. Before 1970 nothing was recorded that is streamed.
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799

_RESUME_TOKEN = re.compile(r"([0-9a-f-]{36})\.(\d{1,18})")
_PAGE_TOKEN = re.compile(r"(-?\d{1,18})\.([0-9a-f-]{36})")
_FREQUENCY_TOKEN = re.compile(r"([A-Za-z0-9-]{1,63})\.(-?\d{1,18})?")


def read_song_uid(name: str) -> str:
    """Return the uid in ``songs/{uid}``."""
    return _id_in(name, "songs")


def read_type_id(name: str) -> str:
    """Return the id in ``songTypes/{id}``."""
    return _id_in(name, "songTypes")


def read_types_page(request: songs_pb2.ListSongTypesRequest) -> tuple[str, int]:
    """Return the id after which the page begins, empty for the first, and how many; or Refusal PAGE_TOKEN_INVALID."""
    if not re.fullmatch(r"[A-Z0-9]{0,16}", request.page_token):
        raise _foreign_token()
    return request.page_token, min(request.page_size or MAX_PAGE, MAX_PAGE)


def read_page(request: songs_pb2.ListSongsRequest) -> tuple[SongFilter, Position | None, int, bool]:
    """Return which songs, after which, how many, and whether the newest come first.

    Raises Refusal NAME_INVALID, PAGE_TOKEN_INVALID or INTERVAL_INVALID.
    """
    start_ms, end_ms = _interval(request)
    station, session = _station_and_session(request)
    wanted = SongFilter(
        start_ms=start_ms,
        end_ms=end_ms,
        station=station,
        session=session,
        type_id=read_type_id(request.song_type) if request.song_type else None,
        only_novel=request.only_novel,
        only_pool=request.only_pool,
        include_noise=request.include_noise,
        only_with_clip=request.only_with_clip,
    )
    after = None
    if request.page_token:
        token = _PAGE_TOKEN.fullmatch(request.page_token)
        if token is None:
            raise _foreign_token()
        after = (int(token[1]), token[2])
    return wanted, after, min(request.page_size or DEFAULT_PAGE, MAX_PAGE), request.newest_first


def read_watch(request: songs_pb2.WatchSongsRequest, *, store: str, last_seq: int) -> tuple[SongFilter, int]:
    """Return which songs, and the number after which to begin; ``store`` is the store's identity.

    Raises Refusal NAME_INVALID or RESUME_TOKEN_INVALID.
    """
    wanted = SongFilter(
        station=_id_in(request.station, "stations") if request.station else None,
        type_id=read_type_id(request.song_type) if request.song_type else None,
        only_novel=request.only_novel,
        only_pool=request.only_pool,
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


def read_frequency_page(
    request: songs_pb2.QueryFrequenciesRequest,
) -> tuple[FrequencyFilter, FrequencyPosition | None, int]:
    """Return what to count, after which bucket, and how many.

    Raises Refusal NAME_INVALID, FILTER_TOO_LONG, INTERVAL_INVALID, BUCKET_INVALID or PAGE_TOKEN_INVALID.
    """
    wanted, after = _frequency_filter(request), None
    if request.page_token:
        token = _FREQUENCY_TOKEN.fullmatch(request.page_token)
        # Without buckets of time they have no start.
        if token is None or (token[2] is None) != (wanted.bucket_ms is None):
            raise _foreign_token()
        after = (token[1], None if token[2] is None else int(token[2]))
    return wanted, after, min(request.page_size or MAX_FREQUENCY_PAGE, MAX_FREQUENCY_PAGE)


def _frequency_filter(request: songs_pb2.QueryFrequenciesRequest) -> FrequencyFilter:
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


def _foreign_token() -> Refusal:
    return Refusal("page_token is none that this server gave; begin again without one", reason="PAGE_TOKEN_INVALID")


def _station_and_session(request: songs_pb2.ListSongsRequest) -> tuple[str | None, str | None]:
    """Return the names' ids, None for any; a session is never without its station, which is what a caller was let in for."""
    station = _id_in(request.station, "stations") if request.station else None
    if not request.session:
        return station, None
    session = SessionName.parse(request.session)
    if station is not None and station != session.station:
        raise Refusal(
            f"station {request.station!r} is not that of session {request.session!r}; give one of them",
            reason="NAME_INVALID",
        )
    return session.station, str(session.uuid)


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
    start_ms = milliseconds(request.start_time) if request.HasField("start_time") else None
    end_ms = milliseconds(request.end_time) if request.HasField("end_time") else None
    if start_ms is not None and end_ms is not None and end_ms <= start_ms:
        raise Refusal("end_time must be after start_time", reason="INTERVAL_INVALID")
    return start_ms, end_ms


def milliseconds(time: Timestamp, *, reason: str = "INTERVAL_INVALID", **metadata: object) -> int:
    """Return a time as UTC milliseconds since 1970; raises Refusal with the reason and metadata given."""
    if not (_MIN_SECONDS <= time.seconds <= _MAX_SECONDS and 0 <= time.nanos < 1_000_000_000):
        raise Refusal(
            f"{time.seconds} s and {time.nanos} ns since 1970 is no time of the years 1 to 9999",
            reason=reason,
            **metadata,
        )
    return time.seconds * 1000 + time.nanos // 1_000_000
