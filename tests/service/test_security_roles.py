"""Roles: every RPC of every service has one, and what has none nobody may call."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import songserve.v1
from serving import failure
from songserve.refusal import Refusal
from songserve.security.gate import Gate
from songserve.security.guard import Guard
from songserve.security.roles import PUBLIC, ROLES, roles_of


def described() -> Iterator[str]:
    """Give the full name of every RPC of `songserve.v1`, and of health and reflection, from the descriptors."""
    from importlib import import_module
    from pkgutil import iter_modules

    modules: list[Any] = [
        import_module(f"songserve.v1.{module.name}")
        for module in iter_modules(songserve.v1.__path__)
        if module.name.endswith("_pb2")
    ]
    for module in (*modules, health_pb2, reflection_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from (f"/{service.full_name}/{method.name}" for method in service.methods)


METHODS = sorted(described())


def test_every_rpc_has_a_role() -> None:
    """An RPC that is added to the API and not to the map fails here, and nobody can call it."""
    assert len(METHODS) > 12
    assert [method for method in METHODS if method not in PUBLIC and not roles_of(method)] == []


def test_a_station_may_call_only_what_it_needs() -> None:
    """The role ingest reaches its stream, its sessions and its songs, and nothing that changes or shows more."""
    allowed = {method.rpartition("/")[2] for method, roles in ROLES.items() if "ingest" in roles}
    assert allowed == {"StreamAudio", "GetSessionStatus", "FinishSession", "ListSongs"}


def test_the_docs_name_all_that_an_admin_may() -> None:
    """docs/security.md names every RPC that readers may not call and admins may, in the row of that role, and no other."""
    rows = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith("| `admin` |")]
    needed = {method.rpartition("/")[2] for method, roles in ROLES.items() if "admin" in roles and "read" not in roles}
    known = {method.rpartition("/")[2] for method in METHODS}
    assert needed >= {"KeepSongClip", "ActivateModelBundle", "StartReclustering"}
    assert known & set(re.findall(r"\w+", row)) == needed


@pytest.mark.parametrize("method", ["/songserve.v1.SongService/DropAll", "", "/", "/songserve.v1.SongService/getsong"])
def test_what_has_no_role_is_refused_even_without_credentials(method: str) -> None:
    """The gate of a server that lets everyone in still knows only the methods of the map."""
    with pytest.raises(Refusal) as refused:
        Gate(None, certificates=False, now=lambda: 0.0).admit(method, None, frozenset())
    assert refused.value.reason == "METHOD_UNMAPPED"


class _Unmapped(grpc.GenericRpcHandler):
    """A service that nobody has given a role, with a method of every kind."""

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of the method's kind."""
        kind = handler_call_details.method.rpartition("/")[2]

        async def single(request: Any, context: Any) -> bytes:
            del request, context
            return b"served"

        async def several(request: Any, context: Any) -> Any:
            del request, context
            yield b"served"

        make = getattr(grpc, f"{kind}_rpc_method_handler", None)
        return make and make(several if kind.endswith("stream") else single)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_a_method_of_any_kind_is_behind_the_guard(kind: str) -> None:
    """Calls of all four kinds to a service without a role are refused over a real port, and unknown ones stay unknown."""

    async def call(method: str) -> tuple[str, str]:
        server = grpc.aio.server(interceptors=[Guard(Gate(None, certificates=False, now=lambda: 0.0), recheck_s=60)])
        server.add_generic_rpc_handlers([_Unmapped()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            made: Any = getattr(channel, kind)(f"/test.Unmapped/{method}")
            request = iter([b"x"]) if kind.startswith("stream") else b"x"
            answer = made(request)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await (answer.read() if kind.endswith("stream") else answer)
        await server.stop(0)
        code, reason, _ = failure(error.value)
        return code, reason

    assert asyncio.run(call(kind)) == ("PERMISSION_DENIED", "METHOD_UNMAPPED")
    assert asyncio.run(call("missing")) == ("UNIMPLEMENTED", "")
