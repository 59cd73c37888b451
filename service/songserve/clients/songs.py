"""The songs that a running server has stored: lists of them, new ones as they come in, and their sound."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice
from typing import Any

from songserve.clients.connection import Connection
from songserve.clients.names import KINDS, short_id, station_in, type_name, uuid_in
from songserve.v1 import songs_pb2, types_pb2
from songserve.v1.songs_pb2_grpc import SongServiceStub

__all__ = ["FrequencyRow", "Seen", "SongClient", "SongRow", "Wanted"]

MAX_PAGE = 1000
WATCH_TIMEOUT_S = 600.0
"""A watch is begun anew so often, so that its program hears what a new bundle calls the types."""

_NOVELTY = {types_pb2.NOVELTY_UNCERTAIN: "uncertain", types_pb2.NOVELTY_NOVEL: "novel"}
_QUALITY = {
    types_pb2.SONG_QUALITY_GOOD: "good",
    types_pb2.SONG_QUALITY_SHORT: "short",
    types_pb2.SONG_QUALITY_CLIPPED: "clipped",
    types_pb2.SONG_QUALITY_FAINT: "faint",
    types_pb2.SONG_QUALITY_OVERLAPPED: "overlapped",
}


@dataclass(frozen=True, slots=True)
class SongRow:
    """One stored song: what the model said, and what it is by people's decisions."""

    uid: str
    station: str
    session: str
    """Its UUID."""
    session_start: datetime
    """UTC, as is every time."""
    start: datetime
    end: datetime
    onset_s: float
    """Seconds from the start of the session, as ``offset_s``."""
    offset_s: float
    duration_s: float
    snr_db: float
    quality: str
    """good, or the first thing that is wrong: short, clipped, faint, overlapped; ungraded where nobody looked."""
    forced_cut: bool
    model_type: str
    similarity: float
    novelty_score: float
    p_value: float
    novelty: str
    """known, uncertain or novel, as the model said."""
    type: str
    """By people's decisions; of a novel song, the nearest."""
    kind: str
    is_novel: bool
    """By people's decisions."""
    by_people: bool
    """``type``, ``kind`` or ``is_novel`` is not what the model said."""
    bundle: str
    """Digest of the bundle that decided."""


@dataclass(frozen=True, slots=True)
class FrequencyRow:
    """One station in one stretch of time, by people's decisions."""

    station: str
    start: datetime | None
    """UTC; None where the whole was asked for."""
    recorded_s: float
    """Effort, by which counts are to be divided."""
    counts: dict[str, int]
    """Songs by type, most frequent first; novel ones and noise excluded."""
    n_novel: int
    n_noise: int


@dataclass(frozen=True)
class Wanted:
    """Which songs, by people's decisions; empty matches everything."""

    stations: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    """Ids of types that stand, each once. Of novel songs and of the pool, those that are nearest to one of them."""
    start: datetime | None = None
    end: datetime | None = None
    only_novel: bool = False
    only_pool: bool = False
    include_noise: bool = False
    """Asked for a type, its songs are given whatever it is."""
    only_with_clip: bool = False

    @property
    def by_nearest(self) -> bool:
        """Whether songs are taken that the service counts for no type."""
        return self.only_novel or self.only_pool

    def has(self, one: SongRow) -> bool:
        """Return whether a song is of these stations and types."""
        of_type = one.type in self.types and (self.by_nearest or not one.is_novel)
        return (not self.stations or one.station in self.stations) and (not self.types or of_type)


@dataclass(frozen=True)
class Seen:
    """What a watch brought."""

    songs: list[SongRow]
    token: str
    """Where to go on after them."""
    last_decision: str
    """Changes whenever somebody decides."""


class SongClient:
    """Questions about songs; each raises what `Connection.call` raises, and NAME_INVALID for a song with no proper names."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._stub = connection, connection.stub(SongServiceStub)

    def songs(self, wanted: Wanted, *, newest_first: bool = False, limit: int | None = None) -> Iterator[SongRow]:
        """Give songs in order of start time, at most ``limit``."""
        # A request names one station and one type; novel songs are of no type, so theirs is looked at here.
        types = ("",) if wanted.by_nearest else wanted.types or ("",)
        parts = [
            self._songs(self._request(wanted, station, type_id, newest_first, limit))
            for station in wanted.stations or ("",)
            for type_id in types
        ]
        found = merge(*parts, key=lambda one: (one.start, one.uid), reverse=newest_first)
        return islice(filter(wanted.has, found) if wanted.by_nearest else found, limit)

    def watch(self, wanted: Wanted, token: str = "") -> Iterator[Seen]:
        """Give songs as they are stored, from a token on, or from now on; ends after a time, to be gone on with.

        Times and clips in ``wanted`` are not looked at.
        """
        request = songs_pb2.WatchSongsRequest(
            resume_token=token,
            only_novel=wanted.only_novel,
            only_pool=wanted.only_pool,
            include_noise=wanted.include_noise or bool(wanted.types),
        )
        for response in self._connection.stream(self._stub.WatchSongs, request, timeout_s=WATCH_TIMEOUT_S):
            rows = list(filter(wanted.has, map(_song_row, response.songs)))
            yield Seen(rows, response.resume_token, response.last_decision)

    def clip(self, uid: str) -> bytes:
        """Return the FLAC file of a song's sound."""
        request = songs_pb2.GetSongClipRequest(name=f"songs/{uid}")

        def read(message: songs_pb2.GetSongClipRequest, **options: Any) -> bytes:
            return b"".join(part.data for part in self._stub.GetSongClip(message, **options))

        return self._connection.call(read, request)

    def frequencies(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        bucket: timedelta | None = None,
        stations: Iterable[str] = (),
        types: Iterable[str] = (),
    ) -> Iterator[FrequencyRow]:
        """Give counts beside effort, by station and then time; times and ``bucket``, None for the whole, are whole hours."""
        request = songs_pb2.QueryFrequenciesRequest(
            stations=[f"stations/{station}" for station in stations], song_types=map(type_name, types)
        )
        _set_times(request, start, end)
        if bucket is not None:
            request.bucket.FromTimedelta(bucket)
        for page in self._pages(self._stub.QueryFrequencies, request):
            yield from map(_frequency_row, page.buckets)

    def novel_by_station(self) -> dict[str, int]:
        """Return how many novel songs are stored of each station that ever sent sound."""
        return {one.station: one.n_novel for one in self.frequencies()}

    def _request(
        self, wanted: Wanted, station: str, type_id: str, newest_first: bool, limit: int | None
    ) -> songs_pb2.ListSongsRequest:
        request = songs_pb2.ListSongsRequest(
            page_size=MAX_PAGE if limit is None or wanted.by_nearest else min(limit, MAX_PAGE),
            station=f"stations/{station}" if station else "",
            song_type=type_name(type_id) if type_id else "",
            only_novel=wanted.only_novel,
            only_pool=wanted.only_pool,
            include_noise=wanted.include_noise or bool(wanted.types),
            newest_first=newest_first,
            only_with_clip=wanted.only_with_clip,
        )
        _set_times(request, wanted.start, wanted.end)
        return request

    def _songs(self, request: songs_pb2.ListSongsRequest) -> Iterator[SongRow]:
        for page in self._pages(self._stub.ListSongs, request):
            yield from map(_song_row, page.songs)

    def _pages(self, call: Any, request: Any) -> Iterator[Any]:
        while True:
            page = self._connection.call(call, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def _set_times(
    request: songs_pb2.ListSongsRequest | songs_pb2.QueryFrequenciesRequest,
    start: datetime | None,
    end: datetime | None,
) -> None:
    if start is not None:
        request.start_time.FromDatetime(start)
    if end is not None:
        request.end_time.FromDatetime(end)


def _frequency_row(message: songs_pb2.FrequencyBucket) -> FrequencyRow:
    return FrequencyRow(
        station=short_id(message.station),
        start=message.start_time.ToDatetime(UTC) if message.HasField("start_time") else None,
        recorded_s=message.recorded_s,
        counts={short_id(count.song_type): count.n_songs for count in message.counts},
        n_novel=message.n_novel,
        n_noise=message.n_noise,
    )


def _song_row(message: types_pb2.Song) -> SongRow:
    start = message.start_time.ToDatetime(UTC)
    # As the service dates songs by it, so that all songs of a session give the same start.
    since_start = timedelta(milliseconds=round(message.onset_sample * 1000 / message.sample_rate_hz))
    return SongRow(
        uid=uuid_in(message.name),
        station=station_in(message.station),
        session=uuid_in(message.session),
        session_start=start - since_start,
        start=start,
        end=message.end_time.ToDatetime(UTC),
        onset_s=message.onset_s,
        offset_s=message.offset_s,
        duration_s=message.offset_s - message.onset_s,
        snr_db=message.snr_db,
        quality=_QUALITY.get(message.quality, "ungraded"),
        forced_cut=message.forced_cut,
        model_type=short_id(message.song_type),
        similarity=message.similarity,
        novelty_score=message.novelty_score,
        p_value=message.p_value,
        novelty=_NOVELTY.get(message.novelty, "known"),
        type=short_id(message.decided.song_type),
        kind=KINDS.get(message.decided.kind, "unknown"),
        is_novel=message.decided.is_novel,
        by_people=message.decided.by_people,
        bundle=short_id(message.model_bundle),
    )
