"""ModelBundleService: what decides, and how another bundle takes its place."""

# ruff: noqa: N802 - the methods have the API's names

import asyncio
from functools import partial

from songserve.bundles.requests import read_bundle, read_events_page, read_retypings_page
from songserve.bundles.responses import bundle_list, bundle_message, event_page, shadow_message
from songserve.bundles.retypings import read_retypings, retyping_page, retypings_added
from songserve.bundles.swaps import Swaps
from songserve.runtime import Runtime
from songserve.security.gate import caller
from songserve.servicers.calls import Context, answering
from songserve.v1 import models_pb2, models_pb2_grpc

__all__ = ["ModelBundleServicer"]


class ModelBundleServicer(models_pb2_grpc.ModelBundleServiceServicer):
    """The gRPC side of the bundles."""

    def __init__(self, runtime: Runtime, swaps: Swaps) -> None:
        self._runtime, self._swaps = runtime, swaps

    @answering
    async def GetModelBundle(
        self, request: models_pb2.GetModelBundleRequest, context: Context
    ) -> models_pb2.ModelBundle:
        """Return one bundle."""
        del context
        return bundle_message(await self._swaps.view(self._digest(request.name)))

    @answering
    async def ListModelBundles(
        self, request: models_pb2.ListModelBundlesRequest, context: Context
    ) -> models_pb2.ListModelBundlesResponse:
        """Return every bundle."""
        del request, context
        return bundle_list(await self._swaps.views())

    @answering
    async def ValidateModelBundle(
        self, request: models_pb2.ValidateModelBundleRequest, context: Context
    ) -> models_pb2.ModelBundle:
        """Look at a bundle."""
        del context
        return bundle_message(await self._swaps.validate(self._digest(request.name), who=caller.get().name))

    @answering
    async def ActivateModelBundle(
        self, request: models_pb2.ActivateModelBundleRequest, context: Context
    ) -> models_pb2.ModelBundle:
        """Make a bundle the active one."""
        del context
        view = await self._swaps.activate(
            self._digest(request.name),
            etag=request.etag,
            accepted=frozenset(request.accepted_findings),
            validate_only=request.validate_only,
            who=caller.get().name,
        )
        return bundle_message(view)

    @answering
    async def RollbackModelBundle(
        self, request: models_pb2.RollbackModelBundleRequest, context: Context
    ) -> models_pb2.ModelBundle:
        """Make the bundle before the active one active again."""
        del context
        view = await self._swaps.roll_back(
            etag=request.etag, validate_only=request.validate_only, who=caller.get().name
        )
        return bundle_message(view)

    @answering
    async def ListModelBundleEvents(
        self, request: models_pb2.ListModelBundleEventsRequest, context: Context
    ) -> models_pb2.ListModelBundleEventsResponse:
        """Return what was done with bundles."""
        del context
        before, size = read_events_page(request)
        query = partial(self._runtime.queries.bundle_events, before_seq=before, size=size + 1)
        return event_page(await self._runtime.read(query, self._runtime.clips.shelf), size)

    @answering
    async def StartShadow(self, request: models_pb2.StartShadowRequest, context: Context) -> models_pb2.Shadow:
        """Begin a comparison."""
        del context
        shadow = await self._swaps.start_shadow(self._digest(request.name), who=caller.get().name)
        return shadow_message(shadow)

    @answering
    async def GetShadow(self, request: models_pb2.GetShadowRequest, context: Context) -> models_pb2.Shadow:
        """Return the comparison that runs."""
        del request, context
        return shadow_message(self._swaps.shadow)

    @answering
    async def StopShadow(self, request: models_pb2.StopShadowRequest, context: Context) -> models_pb2.Shadow:
        """End a comparison."""
        del request, context
        return shadow_message(await self._swaps.stop_shadow(who=caller.get().name))

    @answering
    async def AddRetypings(
        self, request: models_pb2.AddRetypingsRequest, context: Context
    ) -> models_pb2.AddRetypingsResponse:
        """Keep what a bundle makes of stored songs."""
        del context
        found = read_retypings(request.retypings, bundle=self._digest(request.name))
        return retypings_added(await asyncio.wrap_future(self._runtime.store.add_retypings(found)))

    @answering
    async def ListRetypings(
        self, request: models_pb2.ListRetypingsRequest, context: Context
    ) -> models_pb2.ListRetypingsResponse:
        """Return what a bundle makes of stored songs."""
        del context
        digest, (after, size) = self._digest(request.name), read_retypings_page(request)
        query = partial(self._runtime.queries.retypings, after=after, size=size + 1)
        return retyping_page(await self._runtime.read(query, digest), size)

    def _digest(self, name: str) -> str:
        return read_bundle(name, active=self._swaps.active)
