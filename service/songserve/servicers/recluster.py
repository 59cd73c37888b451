"""ReclusterService: reclusterings beside the server, as messages."""

# ruff: noqa: N802 - the methods have the API's names

from datetime import UTC, datetime

from songserve.recluster_responses import PREFIX, reclustering_list, reclustering_message
from songserve.reclusterings import Mode, Reclusterings
from songserve.refusal import Refusal
from songserve.runtime import Runtime
from songserve.servicers.calls import Context, answering
from songserve.v1 import recluster_pb2, recluster_pb2_grpc

__all__ = ["ReclusterServicer"]

_MODES: dict[int, Mode] = {
    recluster_pb2.RECLUSTER_MODE_UNSPECIFIED: "quick",
    recluster_pb2.RECLUSTER_MODE_QUICK: "quick",
    recluster_pb2.RECLUSTER_MODE_FULL: "full",
}


class ReclusterServicer(recluster_pb2_grpc.ReclusterServiceServicer):
    """The gRPC side of the reclusterings."""

    def __init__(self, runtime: Runtime, reclusterings: Reclusterings) -> None:
        self._runtime, self._reclusterings = runtime, reclusterings

    @answering
    async def StartReclustering(
        self, request: recluster_pb2.StartReclusteringRequest, context: Context
    ) -> recluster_pb2.Reclustering:
        """Start one."""
        del context
        if request.mode not in _MODES:
            raise Refusal(f"mode {request.mode} is unknown to this server", reason="MODE_INVALID")
        now = datetime.fromtimestamp(self._runtime.now_ms / 1000, UTC)
        found = await self._reclusterings.start(request.reclustering_id, _MODES[request.mode], now)
        return reclustering_message(found)

    @answering
    async def GetReclustering(
        self, request: recluster_pb2.GetReclusteringRequest, context: Context
    ) -> recluster_pb2.Reclustering:
        """Return one."""
        del context
        return reclustering_message(await self._reclusterings.get(_read_name(request.name)))

    @answering
    async def ListReclusterings(
        self, request: recluster_pb2.ListReclusteringsRequest, context: Context
    ) -> recluster_pb2.ListReclusteringsResponse:
        """Return the latest."""
        del request, context
        return reclustering_list(await self._reclusterings.latest())

    @answering
    async def CancelReclustering(
        self, request: recluster_pb2.CancelReclusteringRequest, context: Context
    ) -> recluster_pb2.Reclustering:
        """Stop one."""
        del context
        return reclustering_message(await self._reclusterings.cancel(_read_name(request.name)))


def _read_name(name: str) -> str:
    if not name.startswith(PREFIX):
        raise Refusal(f"name {name!r} is not of the form reclusterings/{{id}}", reason="NAME_INVALID")
    return name.removeprefix(PREFIX)
