"""WatchSongs: follows the store for one client, from where the client left it."""

import asyncio

from songserve.refusal import Refusal
from songserve.requests import read_watch, resume_token
from songserve.responses import songs_stored
from songserve.runtime import Runtime
from songserve.servicers.calls import Context, write_next
from songserve.v1 import songs_pb2

__all__ = ["watch_songs"]

PAGE_SIZE = 200
POLL_S = 1.0
"""What another server stored in the same database is found this often; what this one did at once."""
QUIET_S = 15.0
"""After this long without songs a token is sent."""


async def watch_songs(runtime: Runtime, request: songs_pb2.WatchSongsRequest, context: Context) -> None:
    """Send songs until the client leaves; raises Refusal, DRAINING among others, at the server's end."""
    queries = runtime.queries
    store, last_seq = await runtime.read(queries.position)
    wanted, seq = read_watch(request, store=store, last_seq=last_seq)
    stored, loop = asyncio.Event(), asyncio.get_running_loop()
    unsubscribe = runtime.store.subscribe(lambda: loop.call_soon_threadsafe(stored.set))
    try:
        sent_at, decided = -QUIET_S, -1
        while not runtime.draining:
            stored.clear()
            songs, seq = await runtime.read(queries.after, wanted, seq, PAGE_SIZE)
            view = queries.view
            if songs or view.last_seq != decided or loop.time() - sent_at >= QUIET_S:
                # Waits while the client does not read, for so long, and holds one page meanwhile.
                await write_next(context, runtime, songs_stored(songs, resume_token(store, seq), view))
                sent_at, decided = loop.time(), view.last_seq
            if len(songs) < PAGE_SIZE:
                await _until(stored)
    finally:
        unsubscribe()
    raise Refusal("the server is shutting down; come back with the resume token", reason="DRAINING")


async def _until(stored: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(POLL_S):
            await stored.wait()
    except TimeoutError:
        pass
