"""CatalogueService: what people decide about song types."""

# ruff: noqa: N802 - the methods have the API's names

import asyncio
from collections.abc import Mapping

from songcore.decisions import Action, Decision, type_ids
from songserve.catalogue import entry, history
from songserve.catalogue_requests import (
    read_decision_page,
    read_mark,
    read_merge,
    read_name,
    read_split,
    read_undo,
    read_who,
)
from songserve.catalogue_responses import decision_message, decision_page, song_type
from songserve.decision_writing import Intent
from songserve.requests import read_type_id
from songserve.runtime import Runtime
from songserve.security.gate import caller
from songserve.servicers.calls import Context, answering
from songserve.v1 import catalogue_pb2, catalogue_pb2_grpc, types_pb2

__all__ = ["CatalogueServicer"]


class CatalogueServicer(catalogue_pb2_grpc.CatalogueServiceServicer):
    """The gRPC side of people's decisions."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @answering
    async def GetSongType(self, request: catalogue_pb2.GetSongTypeRequest, context: Context) -> types_pb2.SongType:
        """Return one type."""
        del context
        return await self._type(read_type_id(request.name))

    @answering
    async def NameSongType(self, request: catalogue_pb2.NameSongTypeRequest, context: Context) -> types_pb2.SongType:
        """Give a type a name."""
        del context
        action, etags = read_name(request)
        await self._decide(action, etags, request.decided_by)
        return await self._type(action.type_id)

    @answering
    async def MergeSongTypes(
        self, request: catalogue_pb2.MergeSongTypesRequest, context: Context
    ) -> types_pb2.SongType:
        """Merge a type into another."""
        del context
        action, etags = read_merge(request)
        await self._decide(action, etags, request.decided_by)
        return await self._type(action.into)

    @answering
    async def SplitSongType(self, request: catalogue_pb2.SplitSongTypeRequest, context: Context) -> types_pb2.SongType:
        """Make a type of some songs of another."""
        del context
        action, etags = read_split(request)
        made = await self._decide(action, etags, request.decided_by)
        return await self._type(type_ids(made.action)[-1])

    @answering
    async def MarkSongType(self, request: catalogue_pb2.MarkSongTypeRequest, context: Context) -> types_pb2.SongType:
        """Say whether a type is song or noise."""
        del context
        action, etags = read_mark(request)
        await self._decide(action, etags, request.decided_by)
        return await self._type(action.type_id)

    @answering
    async def UndoDecision(
        self, request: catalogue_pb2.UndoDecisionRequest, context: Context
    ) -> catalogue_pb2.Decision:
        """Take a decision back."""
        del context
        made = await self._decide(read_undo(request), {}, request.decided_by)
        return decision_message(made, undone=False)

    @answering
    async def ListDecisions(
        self, request: catalogue_pb2.ListDecisionsRequest, context: Context
    ) -> catalogue_pb2.ListDecisionsResponse:
        """Return a page of decisions, the newest first."""
        del context
        wanted = read_decision_page(request)
        known = await self._runtime.read(self._runtime.queries.decisions)
        page, following = history(known, *wanted)
        return decision_page(page, self._runtime.queries.view.undone, following)

    async def _decide(self, action: Action, etags: Mapping[str, str], decided_by: str) -> Decision:
        """Add a decision, and return what was decided; where it was so already, what was wished."""
        runtime, bundle = self._runtime, self._runtime.bundle
        who = read_who(caller.get().name, decided_by)
        intent = Intent(action, who, runtime.now_ms, etags, bundle.type_by_id, bundle.manifest.retired)
        made = await asyncio.wrap_future(runtime.store.decide(intent))
        return made or Decision(0, runtime.now_ms, who, action)

    async def _type(self, type_id: str) -> types_pb2.SongType:
        tally, _ = await self._runtime.read(self._runtime.queries.totals)
        return song_type(entry(type_id, self._runtime.bundle, self._runtime.queries.view, tally))
