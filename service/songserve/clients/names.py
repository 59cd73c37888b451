"""Resource names of the API and the short ids that people type, and how kinds are called."""

import re

from songcore.errors import InputError
from songserve.v1 import types_pb2

__all__ = ["KINDS", "KIND_NUMBERS", "short_id", "type_name"]

KINDS = {types_pb2.SOUND_KIND_SONG: "song", types_pb2.SOUND_KIND_NOISE: "noise"}
KIND_NUMBERS = {name: number for number, name in KINDS.items()}


def short_id(name: str) -> str:
    """Return what stands behind the last slash of a resource name."""
    return name.rpartition("/")[2]


def type_name(type_id: str) -> str:
    """Return the resource name of a type by its id, which may be in lower case.

    Raises InputError TYPE_UNKNOWN for *novel*, which tables say of a song and which is no type.
    """
    if type_id.casefold() == "novel":
        raise InputError(
            "novel songs are of no type yet; `songstream songs list --novel` shows them, with --type TYPE those nearest to it",
            reason="TYPE_UNKNOWN",
        )
    if re.fullmatch(r"[A-Za-z]{1,4}[0-9]+", type_id):
        type_id = type_id.upper()
    return type_id if type_id.startswith("songTypes/") else f"songTypes/{type_id}"
