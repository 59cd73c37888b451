"""The catalogue of a running server: its types, what people decided about them, and the sound of their songs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from songserve.clients.connection import Connection
from songserve.v1 import catalogue_pb2, songs_pb2, types_pb2
from songserve.v1.catalogue_pb2_grpc import CatalogueServiceStub
from songserve.v1.songs_pb2_grpc import SongServiceStub

__all__ = ["CatalogueClient", "DecisionRow", "SongRow", "TypeRow"]

_KINDS = {types_pb2.SOUND_KIND_SONG: "song", types_pb2.SOUND_KIND_NOISE: "noise"}
_KIND_NUMBERS = {name: number for number, name in _KINDS.items()}
_PAGE = 1000


@dataclass(frozen=True)
class TypeRow:
    """One song type, by people's decisions."""

    id: str
    name: str
    kind: str
    n_songs: int
    merged: tuple[str, ...]
    """Types that were merged into it."""
    merged_into: str
    split_from: str
    n_training_songs: int
    exemplars: tuple[str, ...]
    etag: str
    retired: bool
    heirs: tuple[str, ...]
    """Ids under which the songs of a retired type are found now."""


@dataclass(frozen=True)
class SongRow:
    """One stored song: what the model said, and what it is by people's decisions."""

    uid: str
    station: str
    start: datetime
    duration_s: float
    snr_db: float
    model_type: str
    similarity: float
    p_value: float
    type: str
    kind: str
    is_novel: bool
    by_people: bool


@dataclass(frozen=True)
class DecisionRow:
    """One entry of the history."""

    number: int
    time: datetime
    by: str
    action: str
    """name, merge, split, noise, song or undo."""
    type: str
    detail: str
    """The name, the type merged into or made, or the number undone."""
    n_songs: int
    """Of a split."""
    undone: bool


class CatalogueClient:
    """Questions and decisions; each raises what `Connection.call` raises. ``by`` decides where the token does not tell."""

    def __init__(self, connection: Connection, *, by: str = "") -> None:
        self._connection, self._by = connection, by
        self._catalogue = connection.stub(CatalogueServiceStub)
        self._songs = connection.stub(SongServiceStub)

    def types(self) -> list[TypeRow]:
        """Return every type that stands, by id."""
        found: list[TypeRow] = []
        token = ""
        while True:
            request = songs_pb2.ListSongTypesRequest(page_size=_PAGE, page_token=token)
            page = self._connection.call(self._songs.ListSongTypes, request)
            found += [_type_row(one) for one in page.song_types]
            if not (token := page.next_page_token):
                return found

    def type(self, type_id: str) -> TypeRow:
        """Return one type."""
        request = catalogue_pb2.GetSongTypeRequest(name=_type(type_id))
        return _type_row(self._connection.call(self._catalogue.GetSongType, request))

    def songs(self, type_id: str, n: int, *, only_with_clip: bool) -> list[SongRow]:
        """Return the latest songs of a type, noise too."""
        request = songs_pb2.ListSongsRequest(
            page_size=n, song_type=_type(type_id), include_noise=True, newest_first=True, only_with_clip=only_with_clip
        )
        return [_song_row(one) for one in self._connection.call(self._songs.ListSongs, request).songs]

    def clip(self, uid: str) -> bytes:
        """Return the FLAC file of a song's sound."""
        request = songs_pb2.GetSongClipRequest(name=f"songs/{uid}")

        def read(message: songs_pb2.GetSongClipRequest, **options: Any) -> bytes:
            return b"".join(part.data for part in self._songs.GetSongClip(message, **options))

        return self._connection.call(read, request)

    def name(self, type_id: str, name: str, *, etag: str) -> TypeRow:
        """Give a type a name."""
        request = catalogue_pb2.NameSongTypeRequest(
            name=_type(type_id), display_name=name, etag=etag, decided_by=self._by
        )
        return _type_row(self._connection.call(self._catalogue.NameSongType, request))

    def merge(self, type_id: str, into: str, *, etag: str, into_etag: str) -> TypeRow:
        """Merge a type into another, which is returned."""
        request = catalogue_pb2.MergeSongTypesRequest(
            name=_type(type_id), into=_type(into), etag=etag, into_etag=into_etag, decided_by=self._by
        )
        return _type_row(self._connection.call(self._catalogue.MergeSongTypes, request))

    def split(self, type_id: str, uids: Sequence[str], *, etag: str) -> TypeRow:
        """Make a type, which is returned, of songs of another."""
        songs = [uid if uid.startswith("songs/") else f"songs/{uid}" for uid in uids]
        request = catalogue_pb2.SplitSongTypeRequest(name=_type(type_id), songs=songs, etag=etag, decided_by=self._by)
        return _type_row(self._connection.call(self._catalogue.SplitSongType, request))

    def mark(self, type_id: str, kind: Literal["song", "noise"], *, etag: str) -> TypeRow:
        """Say what a type is."""
        request = catalogue_pb2.MarkSongTypeRequest(
            name=_type(type_id), kind=_KIND_NUMBERS[kind], etag=etag, decided_by=self._by
        )
        return _type_row(self._connection.call(self._catalogue.MarkSongType, request))

    def undo(self, number: int) -> DecisionRow:
        """Take a decision back; return the undo."""
        request = catalogue_pb2.UndoDecisionRequest(name=f"decisions/{number}", decided_by=self._by)
        return _decision_row(self._connection.call(self._catalogue.UndoDecision, request))

    def history(self, type_id: str | None) -> Iterator[DecisionRow]:
        """Give decisions, about one type or all, the newest first."""
        token = ""
        while True:
            request = catalogue_pb2.ListDecisionsRequest(
                page_size=_PAGE, page_token=token, song_type=_type(type_id) if type_id else ""
            )
            page = self._connection.call(self._catalogue.ListDecisions, request)
            yield from map(_decision_row, page.decisions)
            if not (token := page.next_page_token):
                return


def _type(type_id: str) -> str:
    return type_id if type_id.startswith("songTypes/") else f"songTypes/{type_id}"


def _id(name: str) -> str:
    return name.rpartition("/")[2]


def _type_row(message: types_pb2.SongType) -> TypeRow:
    return TypeRow(
        id=_id(message.name),
        name=message.display_name,
        kind=_KINDS.get(message.kind, "unknown"),
        n_songs=message.n_songs,
        merged=tuple(map(_id, message.merged)),
        merged_into=_id(message.merged_into),
        split_from=_id(message.split_from),
        n_training_songs=message.n_training_songs,
        exemplars=tuple(message.exemplars),
        etag=message.etag,
        retired=message.retired,
        heirs=tuple(map(_id, message.heirs)),
    )


def _song_row(message: types_pb2.Song) -> SongRow:
    return SongRow(
        uid=_id(message.name),
        station=_id(message.station),
        start=message.start_time.ToDatetime(UTC),
        duration_s=message.offset_s - message.onset_s,
        snr_db=message.snr_db,
        model_type=_id(message.song_type),
        similarity=message.similarity,
        p_value=message.p_value,
        type=_id(message.decided.song_type),
        kind=_KINDS.get(message.decided.kind, "unknown"),
        is_novel=message.decided.is_novel,
        by_people=message.decided.by_people,
    )


def _decision_row(message: catalogue_pb2.Decision) -> DecisionRow:
    action, detail, n_songs = "undo", "", 0
    match message.WhichOneof("action"):
        case "display_name":
            action, detail = "name", message.display_name
        case "merged_into":
            action, detail = "merge", _id(message.merged_into)
        case "split":
            action, detail, n_songs = "split", _id(message.split.song_type), message.split.n_songs
        case "kind":
            action = _KINDS.get(message.kind, "unknown")
        case "undid":
            detail = _id(message.undid)
    return DecisionRow(
        number=int(_id(message.name)),
        time=message.time.ToDatetime(UTC),
        by=message.decided_by,
        action=action,
        type=_id(message.song_type),
        detail=detail,
        n_songs=n_songs,
        undone=message.undone,
    )
