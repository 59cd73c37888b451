"""Results of `songstream retype` to messages of `songserve.v1` and back."""

import re
from collections.abc import Sequence
from typing import cast

from songcore.novelty import Novelty
from songserve.records import Retyping
from songserve.refusal import Refusal
from songserve.v1 import models_pb2, types_pb2

__all__ = [
    "MAX_RETYPINGS",
    "read_retypings",
    "retyping_message",
    "retyping_page",
    "retypings_added",
    "retypings_request",
]

MAX_RETYPINGS = 1000
_SONG = re.compile(r"songs/([0-9a-f-]{36})")
_TYPE = re.compile(r"songTypes/([A-Z]{1,4}[0-9]{4,8})")
_SOURCES = frozenset({"features", "clip", "unheard"})
_KINDS = {"song": types_pb2.SOUND_KIND_SONG, "noise": types_pb2.SOUND_KIND_NOISE}
_NOVELTY = {
    "known": types_pb2.NOVELTY_KNOWN,
    "uncertain": types_pb2.NOVELTY_UNCERTAIN,
    "novel": types_pb2.NOVELTY_NOVEL,
}
_KIND_OF = {value: name for name, value in _KINDS.items()}
_NOVELTY_OF = {value: name for name, value in _NOVELTY.items()}


def retyping_message(found: Retyping) -> models_pb2.Retyping:
    """Return a result as a message, with its embedding."""
    message = models_pb2.Retyping(song=f"songs/{found.song}", source=found.source)
    if found.type_id is not None:
        message.song_type = f"songTypes/{found.type_id}"
        message.kind = _KINDS[found.kind or "song"]
        message.novelty = _NOVELTY[found.novelty or "known"]
        message.similarity, message.p_value = found.similarity or 0.0, found.p_value or 0.0
        message.novelty_score, message.vector = found.novelty_score or 0.0, found.vector or b""
    return message


def retypings_request(found: Sequence[Retyping], bundle: str) -> models_pb2.AddRetypingsRequest:
    """Return the request that results of a bundle are kept."""
    messages = [retyping_message(one) for one in found]
    return models_pb2.AddRetypingsRequest(name=f"modelBundles/{bundle}", retypings=messages)


def retypings_added(n_added: int) -> models_pb2.AddRetypingsResponse:
    """Return how many results are new."""
    return models_pb2.AddRetypingsResponse(n_added=n_added)


def retyping_page(found: Sequence[Retyping], size: int) -> models_pb2.ListRetypingsResponse:
    """Return a page of up to ``size`` results; one more than that says that there is another page."""
    page = [retyping_message(one) for one in found[:size]]
    for message in page:
        message.ClearField("vector")
    token = found[size - 1].song if len(found) > size else ""
    return models_pb2.ListRetypingsResponse(retypings=page, next_page_token=token)


def read_retypings(messages: Sequence[models_pb2.Retyping], *, bundle: str) -> list[Retyping]:
    """Return what a client found out; raises Refusal RETYPINGS_INVALID."""
    if len(messages) > MAX_RETYPINGS:
        raise _invalid(f"{len(messages)} results, at most {MAX_RETYPINGS} are taken at once")
    return [_read(message, bundle) for message in messages]


def _read(message: models_pb2.Retyping, bundle: str) -> Retyping:
    song = _SONG.fullmatch(message.song)
    if song is None or message.source not in _SOURCES:
        raise _invalid(f"{message.song!r} from {message.source!r} is no result of a song")
    if message.source == "unheard":
        return Retyping(song[1], bundle, "unheard")
    song_type = _TYPE.fullmatch(message.song_type)
    if (
        song_type is None
        or message.kind not in _KIND_OF
        or message.novelty not in _NOVELTY_OF
        or len(message.vector) % 4
    ):
        raise _invalid(f"the result of {message.song} lacks a type, kind, novelty or an embedding of float32")
    return Retyping(
        song[1],
        bundle,
        message.source,
        type_id=song_type[1],
        kind=_KIND_OF[message.kind],
        similarity=message.similarity,
        novelty_score=message.novelty_score,
        p_value=message.p_value,
        novelty=cast("Novelty", _NOVELTY_OF[message.novelty]),
        vector=message.vector,
    )


def _invalid(problem: str) -> Refusal:
    return Refusal(f"{problem}; use `songstream retype` of this version", reason="RETYPINGS_INVALID")
