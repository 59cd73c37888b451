"""ModelService: what decides."""

# ruff: noqa: N802 - the methods have the API's names

from songserve.refusal import Refusal
from songserve.responses import model, model_list
from songserve.runtime import Runtime
from songserve.servicers.calls import Context, answering
from songserve.v1 import models_pb2, models_pb2_grpc

__all__ = ["ModelServicer"]


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """The gRPC side of the bundle."""

    def __init__(self, runtime: Runtime) -> None:
        self._bundle = runtime.bundle

    @answering
    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.Model:
        """Return the bundle of that digest, or the active one."""
        del context
        if request.name not in {"modelBundles/active", f"modelBundles/{self._bundle.digest}"}:
            raise Refusal(f"this server does not hold {request.name}", reason="BUNDLE_UNKNOWN")
        return model(self._bundle)

    @answering
    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """Return every bundle held."""
        del request, context
        return model_list([self._bundle])
