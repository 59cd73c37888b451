"""Resource names of the API and the short ids that people type, and how kinds are called."""

import re

from songcore.errors import ConfigError, InputError
from songcore.names import NAME
from songserve.v1 import types_pb2

__all__ = ["KINDS", "KIND_NUMBERS", "short_id", "station_in", "type_name", "uuid_in"]

KINDS = {types_pb2.SOUND_KIND_SONG: "song", types_pb2.SOUND_KIND_NOISE: "noise"}
KIND_NUMBERS = {name: number for number, name in KINDS.items()}

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def short_id(name: str) -> str:
    """Return what stands behind the last slash of a resource name."""
    return name.rpartition("/")[2]


def station_in(name: str) -> str:
    """Return the station in ``stations/{station}``, fit for a file's name; raises ConfigError NAME_INVALID."""
    return _plain(name, NAME, "the name of a station, of a-z, 0-9 and -")


def uuid_in(name: str) -> str:
    """Return the UUID behind the last slash of a resource name; raises ConfigError NAME_INVALID."""
    return _plain(name, _UUID, "a UUID")


def _plain(name: str, pattern: str, expected: str) -> str:
    # Files are called by them, and a server that is broken or hostile must not choose the folder.
    found = short_id(name)
    if not re.fullmatch(pattern, found):
        raise ConfigError(
            f"the server sent the name {name!r}; expected {expected}, behind the last slash; is it a songstream server, of "
            "this version?",
            reason="NAME_INVALID",
        )
    return found


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
