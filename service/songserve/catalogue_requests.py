"""Requests about the catalogue to domain values; what makes no sense is refused here."""

import re

from songcore.decisions import Mark, Merge, Name, Split, Undo
from songserve.decision_writing import MAX_SPLIT
from songserve.refusal import Refusal
from songserve.requests import DEFAULT_PAGE, MAX_PAGE, read_song_uid, read_type_id
from songserve.v1 import catalogue_pb2, types_pb2

__all__ = ["read_decision_page", "read_mark", "read_merge", "read_name", "read_split", "read_undo", "read_who"]

MAX_WHO = 80

Etags = dict[str, str]


def read_name(request: catalogue_pb2.NameSongTypeRequest) -> tuple[Name, Etags]:
    """Return the action and the etags of its types; raises Refusal NAME_INVALID, ETAG_MISSING, as all of these do."""
    type_id = read_type_id(request.name)
    return Name(type_id=type_id, name=request.display_name), _etags({type_id: request.etag})


def read_merge(request: catalogue_pb2.MergeSongTypesRequest) -> tuple[Merge, Etags]:
    """Return the action and the etags of its types."""
    type_id, into = read_type_id(request.name), read_type_id(request.into)
    etags = _etags({type_id: request.etag, into: request.into_etag})
    return Merge(type_id=type_id, into=into, sound="song"), etags


def read_split(request: catalogue_pb2.SplitSongTypeRequest) -> tuple[Split, Etags]:
    """Return the action and the etags of its types; also raises Refusal SPLIT_TOO_LARGE."""
    type_id = read_type_id(request.name)
    if len(request.songs) > MAX_SPLIT:
        raise Refusal(
            f"{len(request.songs)} songs are to be split off, at most {MAX_SPLIT} are in one split; leave more to a model "
            "that is trained anew",
            reason="SPLIT_TOO_LARGE",
        )
    uids = tuple(dict.fromkeys(read_song_uid(name) for name in request.songs))
    return Split(type_id=type_id, new_id="", songs=uids, sound="song"), _etags({type_id: request.etag})


def read_mark(request: catalogue_pb2.MarkSongTypeRequest) -> tuple[Mark, Etags]:
    """Return the action and the etags of its types; also raises Refusal MESSAGE_INVALID."""
    type_id = read_type_id(request.name)
    if request.kind == types_pb2.SOUND_KIND_SONG:
        return Mark(kind="song", type_id=type_id), _etags({type_id: request.etag})
    if request.kind == types_pb2.SOUND_KIND_NOISE:
        return Mark(kind="noise", type_id=type_id), _etags({type_id: request.etag})
    raise Refusal(f"kind {request.kind} is neither song nor noise", reason="MESSAGE_INVALID")


def read_undo(request: catalogue_pb2.UndoDecisionRequest) -> Undo:
    """Return the action; raises Refusal NAME_INVALID."""
    found = re.fullmatch(r"decisions/([1-9][0-9]{0,17})", request.name)
    if found is None:
        raise Refusal(f"name {request.name!r} is not of the form decisions/{{number}}", reason="NAME_INVALID")
    return Undo(seq=int(found[1]))


def read_who(caller_name: str, decided_by: str) -> str:
    """Return who decides: the holder of the call's token, or where there is none, who the request says; or WHO_INVALID."""
    who = caller_name or decided_by
    if not 0 < len(who) <= MAX_WHO or not who.isprintable() or who != who.strip():
        raise Refusal(
            f"decided_by has {len(who)} characters; say who decides, in at most {MAX_WHO} printable characters",
            reason="WHO_INVALID",
        )
    return who


def read_decision_page(request: catalogue_pb2.ListDecisionsRequest) -> tuple[str | None, int | None, int]:
    """Return the type, the number before which the page begins, and how many; also raises Refusal PAGE_TOKEN_INVALID."""
    type_id = read_type_id(request.song_type) if request.song_type else None
    if request.page_token and not re.fullmatch(r"[0-9]{1,18}", request.page_token):
        raise Refusal("page_token is none that this server gave; begin again without one", reason="PAGE_TOKEN_INVALID")
    before = int(request.page_token) if request.page_token else None
    return type_id, before, min(request.page_size or DEFAULT_PAGE, MAX_PAGE)


def _etags(etags: Etags) -> Etags:
    if missing := [type_id for type_id, etag in etags.items() if not etag]:
        raise Refusal(f"no etag of {missing[0]}; get the type first and give its etag back", reason="ETAG_MISSING")
    return etags
