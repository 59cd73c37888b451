"""What retrainings did to the song types of a bundle, from its first ancestor on: an id never changes its meaning silently.

A bundle's manifest holds the whole list; every retraining adds to it and nothing is taken out. So an id that ever named a
type is in the list of retired ones or among the living, and is never given to another.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TYPE_ID_PATTERN", "Change", "TypeChange", "current_ids", "next_number", "retired_ids"]

Change = Literal["new", "split", "merged", "retired"]
TYPE_ID_PATTERN = r"^[A-Z]{1,4}[0-9]{4,8}$"
_TRAINED = re.compile(r"T([0-9]{4,8})")


class TypeChange(BaseModel):
    """What one retraining did to one type; a type that was kept as it was has no entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=TYPE_ID_PATTERN)
    change: Change
    """new: of songs that had no type; split: of a part of ``others``; merged: took in ``others``; retired: is no more."""
    others: tuple[str, ...] = ()
    """new: none; split: the type it was part of; merged: the types it took in; retired: the types that have its songs now."""
    since: str
    """Digest of the bundle that was retrained: the last one before the change."""
    n_songs: int = Field(default=0, ge=0)
    """Songs that show the change: those of a new, split or retired type, those that a merged one took in."""


def retired_ids(lineage: Iterable[TypeChange]) -> frozenset[str]:
    """Return the ids that name no type any more, and never will again."""
    return frozenset(entry.id for entry in lineage if entry.change == "retired")


def current_ids(type_id: str, lineage: Sequence[TypeChange]) -> tuple[str, ...]:
    """Return the ids under which the songs of a type are found now: itself while it lives, none where they have no type."""
    heirs = {entry.id: entry.others for entry in lineage if entry.change == "retired"}
    found: dict[str, None] = {}
    waiting, seen = [type_id], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if name in heirs:
            waiting += heirs[name]
        else:
            found[name] = None
    return tuple(found)


def next_number(ids: Collection[str]) -> int:
    """Return the first number that no id given by training, ``T0042``, has; ids given by people count for themselves."""
    return 1 + max((int(found[1]) for name in ids if (found := _TRAINED.fullmatch(name))), default=0)
