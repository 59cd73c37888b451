"""What a song is by people's decisions, and the songs that are of a type by them."""

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import ColumnElement, func

from songcore.decisions import SoundKind, View
from songserve.schema import songs

__all__ = ["SongVerdict", "is_novel", "is_of_type", "is_sound", "verdict"]


class Named(Protocol):
    """A song, or a row of the table with these columns."""

    @property
    def type_id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def is_novel(self) -> bool: ...
    @property
    def placed_in(self) -> str | None: ...


@dataclass(frozen=True)
class SongVerdict:
    """What a song is; without decisions, what the model said."""

    type_id: str
    kind: SoundKind
    is_novel: bool
    by_people: bool
    """It differs from what the model said."""


def verdict(song: Named, view: View) -> SongVerdict:
    """Return what a song is. A type of kind noise is recognised, so nothing that is nearest to it is novel."""
    type_id = view.resolve(song.placed_in or song.type_id)
    said: SoundKind = "noise" if song.kind == "noise" else "song"
    kind = view.kinds.get(type_id, said)
    novel = song.is_novel and song.placed_in is None and kind == "song"
    by_people = (type_id, kind, novel) != (song.type_id, said, song.is_novel)
    return SongVerdict(type_id, kind, novel, by_people)


def is_of_type(type_id: str, view: View) -> ColumnElement[bool]:
    """Return the condition that a song is of a type, or of the one that it was merged into; novel songs are of none."""
    members = view.members(view.resolve(type_id))
    named = songs.c.type_id.in_(members) if len(members) > 1 else songs.c.type_id == members[0]
    by_model = named & songs.c.is_novel.is_(False)
    if not view.made:
        return by_model
    made = [member for member in members if member in view.made]
    by_model &= songs.c.placed_in.is_(None)
    return by_model | songs.c.placed_in.in_(made) if made else by_model


def is_sound(kind: SoundKind, view: View) -> ColumnElement[bool]:
    """Return the condition that a song is of a kind."""
    said = songs.c.kind == kind
    if not view.kinds:
        return said
    mine, others = _ids_of_kind(kind, view), _ids_of_kind("song" if kind == "noise" else "noise", view)
    type_id = func.coalesce(songs.c.placed_in, songs.c.type_id)
    return type_id.in_(mine) | (said & type_id.notin_(others))


def is_novel(view: View) -> ColumnElement[bool]:
    """Return the condition that a song is novel."""
    novel: ColumnElement[bool] = songs.c.is_novel.is_(True)
    if view.made:
        novel &= songs.c.placed_in.is_(None)
    noise = _ids_of_kind("noise", view)
    return novel & songs.c.type_id.notin_(noise) if noise else novel


def _ids_of_kind(kind: SoundKind, view: View) -> list[str]:
    """Return every id whose songs are of a kind because people said so of the type it leads to."""
    ends = [type_id for type_id, said in view.kinds.items() if said == kind and view.resolve(type_id) == type_id]
    return [member for end in ends for member in view.members(end)]
