"""What people decided about song types: an append-only list, and how things stand after it. Pure.

Service and training fold the same list: the service to count and show at once what people decided, training to keep merged
types merged, split ones split and noise noise. Nothing is ever taken off the list. An undo is one more entry, and things
stand as the others leave them, one after the other, without those that were undone. What may be decided is in
`songcore.deciding`.

Ids that people's splits make begin with ``P``, so that they are never those of training, and none is given twice.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = [
    "Action",
    "Decision",
    "Mark",
    "Merge",
    "Name",
    "SoundKind",
    "Split",
    "Undo",
    "View",
    "apply",
    "fold",
    "read_action",
    "type_ids",
    "write_action",
]

SoundKind = Literal["song", "noise"]


class _Action(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Name(_Action):
    """People call the type so; with an empty name it has that of the bundle again."""

    kind: Literal["name"] = "name"
    type_id: str
    name: str


class Merge(_Action):
    """What is or will be named ``type_id`` is of ``into``, and both are of one kind, ``sound``."""

    kind: Literal["merge"] = "merge"
    type_id: str
    into: str
    sound: SoundKind


class Split(_Action):
    """Songs, by uid, are no longer of ``type_id`` but of a type that is made for them, of the same kind, ``sound``."""

    kind: Literal["split"] = "split"
    type_id: str
    new_id: str
    songs: tuple[str, ...]
    sound: SoundKind
    last_song: int = 0
    """Number of the last song stored at the time: of those after it nobody said that they stay where they are."""


class Mark(_Action):
    """The type is noise, or it is song."""

    kind: SoundKind
    type_id: str


class Undo(_Action):
    """The decision with the number ``seq`` no longer holds."""

    kind: Literal["undo"] = "undo"
    seq: int


Action: TypeAlias = Name | Merge | Split | Mark | Undo
_MADE = re.compile(r"P(\d{4,9})")
_ACTIONS: TypeAdapter[Action] = TypeAdapter(Annotated[Action, Field(discriminator="kind")])


@dataclass(frozen=True)
class Decision:
    """One entry of the list."""

    seq: int
    """From 1, in the order of decisions."""
    time_ms: int
    """UTC, milliseconds since 1970."""
    who: str
    action: Action


@dataclass
class View:
    """How things stand; where people decided nothing it says nothing. Made by `fold`, not to be changed by others."""

    names: dict[str, str] = field(default_factory=dict)
    """By type id, what people call it."""
    kinds: dict[str, SoundKind] = field(default_factory=dict)
    """By type id, where a mark, merge or split tells."""
    merged: dict[str, str] = field(default_factory=dict)
    """From the id of a merged type to the one it was merged into, which may be merged itself."""
    made: dict[str, str] = field(default_factory=dict)
    """From the id of a type that people made to the one it was split from."""
    placed: dict[str, str] = field(default_factory=dict)
    """From the uid of a song that people split off to the type they made for it, which may be merged."""
    withdrawn: dict[str, str] = field(default_factory=dict)
    """From an id that an undone split had made to the one it was split from."""
    touched: dict[str, int] = field(default_factory=dict)
    """By type id, the number of the last decision about it, undone ones and their undoing included."""
    undone: set[int] = field(default_factory=set)
    """Numbers of the decisions that no longer hold."""
    last_seq: int = 0
    """Number of the last decision, 0 for none."""

    def next_id(self, taken: Iterable[str]) -> str:
        """Return the id for the type that the next split makes: one that no split made, and none of those ``taken``.

        A bundle may know types that people made in another store.
        """
        known = (_MADE.fullmatch(type_id) for type_id in (*self.made, *self.withdrawn, *taken))
        return f"P{max((int(one[1]) for one in known if one), default=0) + 1:04d}"

    def resolve(self, type_id: str) -> str:
        """Return the id under which the songs of a type count: its own, or where merging or undoing led."""
        while (following := self.merged.get(type_id) or self.withdrawn.get(type_id)) is not None:
            type_id = following
        return type_id

    def type_of(self, uid: str, type_id: str) -> str:
        """Return the type, by people's decisions, of a song that the model named ``type_id``."""
        return self.resolve(self.placed.get(uid, type_id))

    def members(self, type_id: str) -> list[str]:
        """Return every id that resolves to this one, itself first."""
        others = sorted(other for other in {*self.merged, *self.withdrawn} if self.resolve(other) == type_id)
        return [type_id, *others]

    def etag(self, type_id: str) -> str:
        """Return a text that every decision about the type changes."""
        return sha256(f"{type_id} {self.touched.get(type_id, 0)}".encode()).hexdigest()[:16]


def read_action(text: str) -> Action:
    """Return what `write_action` wrote."""
    return _ACTIONS.validate_json(text)


def write_action(action: Action) -> str:
    """Return an action as JSON."""
    return action.model_dump_json()


def fold(decisions: Iterable[Decision]) -> View:
    """Return how things stand after decisions in the order of their numbers."""
    decided = {one.seq: one.action for one in decisions}
    view = View(undone={action.seq for action in decided.values() if isinstance(action, Undo)})
    for seq, action in decided.items():
        about = decided[action.seq] if isinstance(action, Undo) else action
        view.touched.update(dict.fromkeys(type_ids(about), seq))
        view.last_seq = seq
        if seq not in view.undone:
            apply(view, action)
        elif isinstance(action, Split):
            view.withdrawn[action.new_id] = action.type_id
    return view


def apply(view: View, action: Action) -> None:
    """Change how things stand by one action; an undo changes nothing by itself."""
    match action:
        case Name(type_id=type_id, name=""):
            view.names.pop(type_id, None)
        case Name(type_id=type_id, name=name):
            view.names[type_id] = name
        case Merge(type_id=type_id, into=into, sound=sound):
            view.merged[type_id] = into
            view.kinds[into] = sound
        case Split(type_id=type_id, new_id=new_id, songs=songs, sound=sound):
            view.made[new_id] = type_id
            view.kinds[new_id] = sound
            view.placed.update(dict.fromkeys(songs, new_id))
        case Mark(type_id=type_id, kind=kind):
            view.kinds[type_id] = kind
        case Undo():
            pass


def type_ids(action: Action) -> tuple[str, ...]:
    """Return the types that an action is about, the one it makes last."""
    match action:
        case Merge(type_id=type_id, into=into):
            return type_id, into
        case Split(type_id=type_id, new_id=new_id):
            return type_id, new_id
        case Name(type_id=type_id) | Mark(type_id=type_id):
            return (type_id,)
        case Undo():
            return ()
