"""Guesses at the song that is being sung, beside the stream's own work: nothing waits for them."""

import asyncio
import logging
from collections.abc import Callable

from songcore.assign import Assignment
from songserve.guesses import Guesses
from songserve.hearing import Found
from songserve.runtime import Runtime
from songserve.session import Heard

__all__ = ["Guesser"]

log = logging.getLogger(__name__)

BUSY = 0.2
"""Above this load nobody guesses."""


class Guesser:
    """Names one stream's open song, one guess at a time; ``wake`` is called when one is ready."""

    def __init__(self, runtime: Runtime, *, wake: Callable[[], object]) -> None:
        self._runtime, self._wake = runtime, wake
        self._guesses = Guesses()
        self._naming: asyncio.Task[list[Assignment]] | None = None
        self._song: Found | None = None
        self._revision = 0
        self._known_until = 0  # end of the last song that ended: a guess at one before it comes too late

    def consider(self, heard: Heard) -> None:
        """Begin a guess if one is due and the server has little to do."""
        self._known_until = max([self._known_until, *(song.offset for song in heard.songs)])
        song, model = heard.open_song, heard.model
        if (
            self._naming
            or not self._guesses.due(song, model.sample_rate_hz)
            or self._runtime.load > BUSY
            or song is None
        ):
            return
        self._song, self._revision = (song, model), self._guesses.take(song)
        # In the lane that waits: songs that ended go first.
        self._naming = asyncio.create_task(self._runtime.batcher.run(model.classify, [song], lane="backfill"))
        self._naming.add_done_callback(lambda _: self._wake())

    def take(self) -> tuple[Found, Assignment, int] | None:
        """Return a guess that is ready with its revision, or None; one that comes after its song is dropped."""
        if self._naming is None or self._song is None or not self._naming.done():
            return None
        naming, self._naming = self._naming, None
        if naming.cancelled() or self._song[0].onset < self._known_until:
            return None
        if error := naming.exception():
            log.warning("no guess, as the model failed: %s", error)
            return None
        self._runtime.metrics.ingest_guesses_total.inc()
        return self._song, naming.result()[0], self._revision

    async def close(self) -> None:
        """Drop a guess that is being made."""
        if self._naming:
            self._naming.cancel()
            await asyncio.gather(self._naming, return_exceptions=True)
