"""The catalogue of a running server: its types, and what people decided about them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from songcore.errors import ConfigError, InputError
from songcore.lineage import TYPE_ID_PATTERN
from songserve.clients.connection import Connection
from songserve.clients.names import KIND_NUMBERS, KINDS, short_id, type_name
from songserve.v1 import catalogue_pb2, songs_pb2, types_pb2
from songserve.v1.catalogue_pb2_grpc import CatalogueServiceStub
from songserve.v1.songs_pb2_grpc import SongServiceStub

__all__ = ["CatalogueClient", "DecisionRow", "TypeRow"]

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
        request = catalogue_pb2.GetSongTypeRequest(name=type_name(type_id))
        return _type_row(self._connection.call(self._catalogue.GetSongType, request))

    def names(self) -> dict[str, str]:
        """Return the names of types by id, of those that have one."""
        return {one.id: one.name for one in self.types() if one.name}

    def find(self, text: str) -> TypeRow:
        """Return the type of an id or of a name, each in any case; of one that was merged, what it was merged into.

        Raises InputError NAME_INVALID, TYPE_UNKNOWN.
        """
        if not text.strip():
            # Types without a name are called nothing.
            raise InputError("the name of the type is empty; give its id or name", reason="NAME_INVALID")
        id_asked = short_id(type_name(text))
        types = self.types()
        found = [one for one in types if one.id == id_asked]
        found = found or [one for one in types if one.name.casefold() == text.casefold()]
        if len(found) == 1:
            return found[0]
        if found:
            there = ", ".join(one.id for one in found)
            raise InputError(f"several types are called {text!r}: {there}; give an id", reason="TYPE_UNKNOWN")
        if re.fullmatch(TYPE_ID_PATTERN, id_asked):
            one = self.type(id_asked)
            return self.type(one.merged_into) if one.merged_into else one
        raise InputError(
            f"no song type has the id or name {text!r}; `songstream types list` shows those there are",
            reason="TYPE_UNKNOWN",
        )

    def find_id(self, text: str) -> str:
        """Return the id that an id or a name means, for good: of a type that was merged, its own; raises as `find`."""
        one, id_asked = self.find(text), short_id(type_name(text))
        return id_asked if id_asked in one.merged else one.id

    def current_ids(self, type_ids: Sequence[str]) -> tuple[tuple[str, ...], str]:
        """Return the ids under which the songs of types count, each once, and the last decision, after which that is so.

        The decision is named as in responses of a watch, empty when there is none. A type that the server does not know, as
        after a swap to an older bundle, keeps its id.
        """
        decision = self.last_decision()
        while True:
            found = tuple(dict.fromkeys(map(self._current_id, type_ids)))
            # Somebody may decide between two questions.
            before, decision = decision, self.last_decision()
            if decision == before:
                return found, decision

    def last_decision(self) -> str:
        """Return the resource name of the last decision, empty when there is none."""
        request = catalogue_pb2.ListDecisionsRequest(page_size=1)
        found = self._connection.call(self._catalogue.ListDecisions, request).decisions
        return found[0].name if found else ""

    def _current_id(self, type_id: str) -> str:
        try:
            one = self.type(type_id)
        except ConfigError as error:
            if error.reason != "TYPE_UNKNOWN":
                raise
            return type_id
        return one.merged_into or one.id

    def name(self, type_id: str, name: str, *, etag: str) -> TypeRow:
        """Give a type a name."""
        request = catalogue_pb2.NameSongTypeRequest(
            name=type_name(type_id), display_name=name, etag=etag, decided_by=self._by
        )
        return _type_row(self._connection.call(self._catalogue.NameSongType, request))

    def merge(self, type_id: str, into: str, *, etag: str, into_etag: str) -> TypeRow:
        """Merge a type into another, which is returned."""
        request = catalogue_pb2.MergeSongTypesRequest(
            name=type_name(type_id), into=type_name(into), etag=etag, into_etag=into_etag, decided_by=self._by
        )
        return _type_row(self._connection.call(self._catalogue.MergeSongTypes, request))

    def split(self, type_id: str, uids: Sequence[str], *, etag: str) -> TypeRow:
        """Make a type, which is returned, of songs of another."""
        songs = [uid if uid.startswith("songs/") else f"songs/{uid}" for uid in uids]
        request = catalogue_pb2.SplitSongTypeRequest(
            name=type_name(type_id), songs=songs, etag=etag, decided_by=self._by
        )
        return _type_row(self._connection.call(self._catalogue.SplitSongType, request))

    def mark(self, type_id: str, kind: Literal["song", "noise"], *, etag: str) -> TypeRow:
        """Say what a type is."""
        request = catalogue_pb2.MarkSongTypeRequest(
            name=type_name(type_id), kind=KIND_NUMBERS[kind], etag=etag, decided_by=self._by
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
                page_size=_PAGE, page_token=token, song_type=type_name(type_id) if type_id else ""
            )
            page = self._connection.call(self._catalogue.ListDecisions, request)
            yield from map(_decision_row, page.decisions)
            if not (token := page.next_page_token):
                return


def _type_row(message: types_pb2.SongType) -> TypeRow:
    return TypeRow(
        id=short_id(message.name),
        name=message.display_name,
        kind=KINDS.get(message.kind, "unknown"),
        n_songs=message.n_songs,
        merged=tuple(map(short_id, message.merged)),
        merged_into=short_id(message.merged_into),
        split_from=short_id(message.split_from),
        n_training_songs=message.n_training_songs,
        exemplars=tuple(message.exemplars),
        etag=message.etag,
        retired=message.retired,
        heirs=tuple(map(short_id, message.heirs)),
    )


def _decision_row(message: catalogue_pb2.Decision) -> DecisionRow:
    action, detail, n_songs = "undo", "", 0
    match message.WhichOneof("action"):
        case "display_name":
            action, detail = "name", message.display_name
        case "merged_into":
            action, detail = "merge", short_id(message.merged_into)
        case "split":
            action, detail, n_songs = "split", short_id(message.split.song_type), message.split.n_songs
        case "kind":
            action = KINDS.get(message.kind, "unknown")
        case "undid":
            detail = short_id(message.undid)
    return DecisionRow(
        number=int(short_id(message.name)),
        time=message.time.ToDatetime(UTC),
        by=message.decided_by,
        action=action,
        type=short_id(message.song_type),
        detail=detail,
        n_songs=n_songs,
        undone=message.undone,
    )
