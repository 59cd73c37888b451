"""Requests about bundles to domain values; what makes no sense is refused here."""

import re

from songserve.refusal import Refusal
from songserve.v1 import models_pb2

__all__ = ["read_bundle", "read_events_page", "read_retypings_page"]

DEFAULT_PAGE = 100
MAX_PAGE = 1000
_NAME = re.compile(r"modelBundles/(active|[0-9a-f]{1,64})")
_SONG = re.compile(r"[0-9a-f-]{36}")
_PAGE_TOKEN = re.compile(r"\d{1,18}")


def read_bundle(name: str, *, active: str) -> str:
    """Return the digest in ``modelBundles/{digest}``, or of the ``active`` one; raises Refusal NAME_INVALID."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise Refusal(f"name {name!r} is not of the form modelBundles/{{digest}}", reason="NAME_INVALID")
    return active if found[1] == "active" else found[1]


def read_events_page(request: models_pb2.ListModelBundleEventsRequest) -> tuple[int | None, int]:
    """Return the number before which a page begins, None for the first page, and its size; raises PAGE_TOKEN_INVALID."""
    token = request.page_token
    if token and not _PAGE_TOKEN.fullmatch(token):
        raise Refusal("page_token is none that this server gave; begin again without one", reason="PAGE_TOKEN_INVALID")
    return int(token) if token else None, min(request.page_size or DEFAULT_PAGE, MAX_PAGE)


def read_retypings_page(request: models_pb2.ListRetypingsRequest) -> tuple[str | None, int]:
    """Return the song after which a page begins, None for the first page, and its size; raises PAGE_TOKEN_INVALID."""
    token = request.page_token
    if token and not _SONG.fullmatch(token):
        raise Refusal("page_token is none that this server gave; begin again without one", reason="PAGE_TOKEN_INVALID")
    return token or None, min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
