"""SongService: what was heard, and how often."""

# ruff: noqa: N802 - the methods have the API's names

import asyncio
from dataclasses import replace

from songserve.catalogue import entries, page_of
from songserve.catalogue_responses import type_page
from songserve.frequencies import FrequencyFilter, FrequencyPosition
from songserve.refusal import Refusal
from songserve.requests import read_frequency_page, read_page, read_song_uid, read_types_page
from songserve.responses import clip_message, frequency_page, song_message, song_page
from songserve.runtime import Runtime
from songserve.servicers.calls import Context, admitted, answering
from songserve.servicers.song_clips import find_clip, send_clip
from songserve.servicers.song_watch import watch_songs
from songserve.v1 import songs_pb2, songs_pb2_grpc, types_pb2

__all__ = ["SongServicer"]


class SongServicer(songs_pb2_grpc.SongServiceServicer):
    """The gRPC side of the store's questions."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._queries = runtime.queries

    @answering
    async def GetSong(self, request: songs_pb2.GetSongRequest, context: Context) -> types_pb2.Song:
        """Return one song."""
        del context
        song = await self._runtime.read(self._queries.song, read_song_uid(request.name))
        if song is None:
            raise Refusal(f"there is no {request.name}", reason="SONG_UNKNOWN")
        return song_message(song, self._queries.view)

    @answering
    async def ListSongs(self, request: songs_pb2.ListSongsRequest, context: Context) -> songs_pb2.ListSongsResponse:
        """Return a page of songs."""
        del context
        page, following = await self._runtime.read(self._queries.page, *read_page(request))
        return song_page(page, following, self._queries.view)

    @answering
    async def WatchSongs(  # type: ignore[override] # gRPC also takes a coroutine that writes by itself
        self, request: songs_pb2.WatchSongsRequest, context: Context
    ) -> None:
        """Send songs as they are stored."""
        async with admitted(self._runtime):
            await watch_songs(self._runtime, request, context)

    @answering
    async def GetSongClip(  # type: ignore[override] # gRPC also takes a coroutine that writes by itself
        self, request: songs_pb2.GetSongClipRequest, context: Context
    ) -> None:
        """Send the sound of a song."""
        await send_clip(self._runtime, read_song_uid(request.name), context)

    @answering
    async def KeepSongClip(self, request: songs_pb2.KeepSongClipRequest, context: Context) -> songs_pb2.SongClip:
        """Keep a clip, or no longer."""
        del context
        uid = read_song_uid(request.name)
        song, clip = await find_clip(self._runtime, uid)
        if not await asyncio.wrap_future(self._runtime.store.keep_clip(uid, keep=request.keep)):
            raise Refusal(f"the clip of {request.name} was deleted", reason="CLIP_UNKNOWN")
        return clip_message(song, replace(clip, kept=request.keep))

    @answering
    async def ListSongTypes(
        self, request: songs_pb2.ListSongTypesRequest, context: Context
    ) -> songs_pb2.ListSongTypesResponse:
        """Return the catalogue with counts."""
        del context
        after, size = read_types_page(request)
        tally, _ = await self._runtime.read(self._queries.totals)
        return type_page(*page_of(entries(self._runtime.bundle, self._queries.view, tally), after, size))

    @answering
    async def QueryFrequencies(
        self, request: songs_pb2.QueryFrequenciesRequest, context: Context
    ) -> songs_pb2.QueryFrequenciesResponse:
        """Return a page of counts by type, station and time beside the effort."""
        del context
        return await self._runtime.read(self._frequency_page, *read_frequency_page(request))

    def _frequency_page(
        self, wanted: FrequencyFilter, after: FrequencyPosition | None, size: int
    ) -> songs_pb2.QueryFrequenciesResponse:
        """Ask and answer in one thread: a page has so many parts that putting them together takes as long as reading them."""
        # One more tells whether there are more.
        with self._queries.reading_frequencies(wanted, after, size + 1) as found:
            return frequency_page(found, size)
