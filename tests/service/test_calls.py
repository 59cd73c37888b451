"""What becomes of a call that is ended while an answer is on its way."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from serving import failure
from songserve.refusal import Refusal
from songserve.rpc_metrics import RpcMetrics
from songserve.status import abort

Talk = Callable[[Any], Awaitable[None]]


async def ended(talk: Talk, *, waits_s: float = 0.0) -> tuple[int, str, str]:
    """Return how many answers a client gets of a real server that talks, and its status; it first waits for a while."""

    async def handle(_: Any, context: Any) -> None:
        await talk(context)

    server = grpc.aio.server(interceptors=[RpcMetrics(CollectorRegistry())])
    handler: Any = grpc.stream_stream_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("songserve.v1.Talks", {"Talk": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def listen() -> tuple[int, str, str]:
        taken: list[bytes] = []
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]) as channel:
            answers: Any = channel.stream_stream("/songserve.v1.Talks/Talk")(iter(()), timeout=20)
            time.sleep(waits_s)
            with pytest.raises(grpc.RpcError) as error:
                taken.extend(answers)
        return len(taken), *failure(error.value)[:2]

    try:
        return await asyncio.to_thread(listen)
    finally:
        await server.stop(None)


@pytest.mark.parametrize("n_turns", range(6))
def test_a_call_ended_in_the_moment_of_its_first_answer_has_a_status(n_turns: int) -> None:
    """However far the loop of a busy server is with the answer, the client does not wait for its own deadline."""

    async def talk(context: Any) -> None:
        answer = asyncio.ensure_future(context.write(b"one"))
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - the loop is busy, and the answer is on its way meanwhile
        for _ in range(n_turns):
            await asyncio.sleep(0)
        answer.cancel()
        await asyncio.wait({answer})
        await abort(context, Refusal("it is over", reason="IDLE"))

    assert asyncio.run(ended(talk)) == (1, "DEADLINE_EXCEEDED", "IDLE")


def test_a_call_whose_first_answer_nobody_takes_has_a_status() -> None:
    """It waits behind the answer, until the client takes that."""

    async def talk(context: Any) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await context.write(bytes(50_000_000))
        await abort(context, Refusal("it is over", reason="IDLE"))

    assert asyncio.run(ended(talk, waits_s=1.0)) == (1, "DEADLINE_EXCEEDED", "IDLE")
