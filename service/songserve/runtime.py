"""What the servicers share while the server runs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID

from songcore.assign import Assignment
from songcore.bundle import Bundle
from songcore.stream import Song
from songserve.batching import Batcher, Lane
from songserve.bundles.shadow import Shadow
from songserve.clips import ClipSounds, ClipTape
from songserve.clips_shelf import ClipShelf, WantedClip
from songserve.credit import Credit, granted
from songserve.gathering import Gatherer
from songserve.intake import Finish
from songserve.metrics import Metrics
from songserve.queries import SongQueries
from songserve.records import AudioFormat, Commit, StoredClip
from songserve.refusal import Refusal
from songserve.security.stations import StationLimits
from songserve.session import Heard, SessionLimits
from songserve.settings import ServeSettings
from songserve.store import Store

__all__ = ["Connected", "Runtime", "finished"]

T = TypeVar("T")
FULL_CREDIT_CHUNKS = 8
"""Chunks of the largest size that a station may send ahead of an idle server."""
CLIPS_AT_ONCE = 8
"""Songs of a step beyond these wait for another turn: a backlog's step has hundreds, and live ones wait behind it."""


class Connected(Protocol):
    """An audio stream that is connected now."""

    @property
    def received_sequence_number(self) -> int:
        """Of the last chunk that came in."""
        ...

    def fence(self) -> None:
        """End it, as a newer stream has taken its session."""
        ...

    def drain(self) -> None:
        """End it, as the server stops."""
        ...

    async def finish(self, finish: Finish) -> bool:
        """Finish its session with what came in; False when it has ended without."""
        ...


@dataclass
class Runtime:
    """Model, store, threads and who is connected."""

    settings: ServeSettings
    bundle: Bundle
    """Active: what begins now is heard and named by it. A swap puts another one here."""
    store: Store
    queries: SongQueries
    batcher: Batcher[Song, Assignment]
    """Names songs."""
    metrics: Metrics
    gatherer: Gatherer
    """Listens to what streams send, in the threads of signal processing."""
    aside: Executor
    """Threads of longer work: recordings, long steps, sessions that begin; live sound does not wait behind it."""
    reading: Executor
    """Threads of database reads and uploads."""
    clips: ClipShelf
    clip_writing: Batcher[WantedClip, StoredClip | None]
    """Writes clips."""
    upload_dir: Path
    now: Callable[[], float]
    """UTC, seconds since 1970."""
    stations: StationLimits = field(default_factory=StationLimits)
    """What one station may take."""
    shadow: Shadow | None = None
    """Compares another bundle with the active one."""
    streams: dict[UUID, Connected] = field(default_factory=dict)
    n_in_flight_bytes: int = 0
    """Audio of all streams that came in and is not listened to yet, and of recordings what is in memory."""
    n_calls: int = 0
    """Streams and recordings being served."""
    draining: bool = False

    @property
    def now_ms(self) -> int:
        """UTC, milliseconds since 1970."""
        return round(self.now() * 1000)

    @property
    def limits(self) -> SessionLimits:
        """What a session may hold."""
        return SessionLimits(
            max_chunk_bytes=self.settings.max_chunk_bytes,
            commit_interval_s=self.settings.commit_interval_s,
            # An ack comes long before the client has to wait for one.
            max_chunks_per_commit=max(1, self.settings.max_in_flight_chunks // 4),
        )

    @property
    def load(self) -> float:
        """From 0, idle, to 1 and more, overloaded."""
        memory = self.n_in_flight_bytes / self.settings.max_in_flight_bytes
        return max(self.batcher.load, self.gatherer.load, self.clip_writing.load, memory)

    @property
    def credit(self) -> Credit:
        """What a station may send ahead now."""
        chunk = self.settings.max_chunk_bytes
        chunks = self.settings.max_in_flight_chunks
        full = Credit(chunks, min(chunks, FULL_CREDIT_CHUNKS) * chunk)
        return granted(full, self.load, max_chunk_bytes=chunk)

    def hold_bytes(self, n: int) -> None:
        """Count bytes of audio that came in, or, negative, that were listened to."""
        self.n_in_flight_bytes += n
        self.metrics.ingest_in_flight_bytes.set(self.n_in_flight_bytes)

    def take_bytes(self, n: int) -> None:
        """Count bytes of a recording that came in; raises Refusal OVERLOADED, and counts none, where they are too many."""
        # A stream is slowed down by its credit; who uploads has none, and can only be sent away.
        if self.n_in_flight_bytes + n > self.settings.max_in_flight_bytes:
            raise Refusal(
                f"{self.n_in_flight_bytes} bytes wait in memory, and {n} more are too many; come back",
                reason="OVERLOADED",
            )
        self.hold_bytes(n)

    def clip_tape(self, audio_format: AudioFormat) -> ClipTape:
        """Return what remembers a stream's latest sound."""
        settings = self.settings
        return ClipTape(
            audio_format,
            pre_roll_s=settings.clip_pre_roll_s,
            post_roll_s=settings.clip_post_roll_s,
            recording=settings.clips != "none",
        )

    async def name(self, heard: Heard, *, lane: Lane = "live") -> list[Assignment]:
        """Return what the songs of a step are, one each, every one named by the bundle that heard it."""
        names: list[Assignment] = []
        for model, group in groupby(zip(heard.songs, heard.models, strict=True), key=itemgetter(1)):
            names += await self.batcher.run(model.classify, [song for song, _ in group], lane=lane)
        if self.shadow and heard.songs:
            self.shadow.offer(heard.songs, heard.models, names)
        return names

    async def with_clips(self, commit: Commit, sounds: ClipSounds, *, lane: Lane) -> Commit:
        """Write the clips of a commit's songs; return the commit with the rows that name them."""
        wanted = [
            (song, sounds[key])
            for song in commit.songs
            if self.clips.wants(song) and (key := (song.onset, song.offset)) in sounds
        ]
        written: list[StoredClip | None] = []
        for first in range(0, len(wanted), CLIPS_AT_ONCE):
            part = wanted[first : first + CLIPS_AT_ONCE]
            written += await self.clip_writing.run(self.clips.write, part, lane=lane)
        return replace(commit, clips=tuple(clip for clip in written if clip))

    def admit(self) -> None:
        """Raise Refusal DRAINING, STREAM_LIMIT or OVERLOADED when no further call is taken."""
        if self.draining:
            raise Refusal("the server is shutting down; come back", reason="DRAINING")
        if self.n_calls >= self.settings.max_streams:
            raise Refusal(f"{self.n_calls} streams are connected, the most this server takes", reason="STREAM_LIMIT")
        # Those who are connected are slowed down by their credit; another one would make it worse for all.
        if self.load >= 1:
            raise Refusal("the server does not keep up with the streams it has; come back", reason="OVERLOADED")

    async def listen(self, run: Callable[..., T], *arguments: Any) -> T:
        """Run signal processing in its threads."""
        return await finished(self.aside.submit(run, *arguments))

    async def read(self, run: Callable[..., T], *arguments: Any) -> T:
        """Run something that waits for a disk in the threads for that."""
        return await finished(self.reading.submit(run, *arguments))


async def finished(work: Future[T]) -> T:
    """Return what the work gives; when cancelled, end only after it has, as it still uses what the caller will close."""
    running = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if not work.cancel():
            await asyncio.wait({running})
        raise
