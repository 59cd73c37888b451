"""Asks a server about its bundles, and to swap them."""

from collections.abc import Sequence

from songcore.errors import ConfigError
from songserve.clients.connection import Connection
from songserve.v1 import models_pb2
from songserve.v1.models_pb2_grpc import ModelBundleServiceStub

__all__ = ["BundleClient"]

SWAP_TIMEOUT_S = 600.0
"""A large bundle is read, its golden songs recomputed, and it is tried out before the answer comes."""


class BundleClient:
    """The bundles of the server at the other end of a connection; every method raises ConfigError as `Connection.call`."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._stub = connection, connection.stub(ModelBundleServiceStub)

    def list(self) -> Sequence[models_pb2.ModelBundle]:
        """Return all bundles, the active one first."""
        request = models_pb2.ListModelBundlesRequest()
        return self._connection.call(self._stub.ListModelBundles, request).model_bundles

    def find(self, text: str) -> models_pb2.ModelBundle:
        """Return the bundle whose digest begins so, or that has this name; raises ConfigError NAME_INVALID, BUNDLE_UNKNOWN."""
        if not text.strip():
            # Every digest begins with nothing.
            raise ConfigError("the name of the bundle is empty; give its name or digest", reason="NAME_INVALID")
        bundles = self.list()
        found = [bundle for bundle in bundles if bundle.digest.startswith(text) or bundle.display_name == text]
        if len(found) != 1:
            there = ", ".join(f"{bundle.digest[:12]} ({bundle.display_name})" for bundle in found or bundles)
            raise ConfigError(
                f"{'several' if found else 'no'} bundles of the server have a digest or name {text!r}: {there}; give more of "
                "the digest",
                reason="BUNDLE_UNKNOWN",
            )
        return found[0]

    def validate(self, bundle: models_pb2.ModelBundle) -> models_pb2.ModelBundle:
        """Return the bundle after the server looked at it."""
        request = models_pb2.ValidateModelBundleRequest(name=bundle.name)
        return self._connection.call(self._stub.ValidateModelBundle, request, timeout_s=SWAP_TIMEOUT_S)

    def activate(
        self, bundle: models_pb2.ModelBundle, *, accepted: Sequence[str], dry_run: bool
    ) -> models_pb2.ModelBundle:
        """Return the bundle once it is active; refused when something changed since it was found."""
        request = models_pb2.ActivateModelBundleRequest(
            name=bundle.name, etag=bundle.etag, accepted_findings=accepted, validate_only=dry_run
        )
        return self._connection.call(self._stub.ActivateModelBundle, request, timeout_s=SWAP_TIMEOUT_S)

    def roll_back(self, *, dry_run: bool) -> models_pb2.ModelBundle:
        """Return the bundle before the active one once it is active again."""
        request = models_pb2.RollbackModelBundleRequest(etag=self.list()[0].etag, validate_only=dry_run)
        return self._connection.call(self._stub.RollbackModelBundle, request, timeout_s=SWAP_TIMEOUT_S)

    def events(self, size: int) -> Sequence[models_pb2.ModelBundleEvent]:
        """Return what was done last, the newest first."""
        request = models_pb2.ListModelBundleEventsRequest(page_size=size)
        return self._connection.call(self._stub.ListModelBundleEvents, request).events

    def start_shadow(self, bundle: models_pb2.ModelBundle) -> models_pb2.Shadow:
        """Return the comparison that begins."""
        request = models_pb2.StartShadowRequest(name=bundle.name)
        return self._connection.call(self._stub.StartShadow, request, timeout_s=SWAP_TIMEOUT_S)

    def shadow(self) -> models_pb2.Shadow:
        """Return the comparison that runs."""
        return self._connection.call(self._stub.GetShadow, models_pb2.GetShadowRequest())

    def stop_shadow(self) -> models_pb2.Shadow:
        """Return the comparison that ends."""
        return self._connection.call(self._stub.StopShadow, models_pb2.StopShadowRequest())
