"""GetSongClip: reads a clip from the disk and sends it in pieces."""

from songserve.records import StoredClip, StoredSong
from songserve.refusal import Refusal
from songserve.responses import clip_data, clip_header
from songserve.runtime import Runtime
from songserve.servicers.calls import Context, write_next

__all__ = ["find_clip", "send_clip"]

PIECE_BYTES = 64 * 1024


async def find_clip(runtime: Runtime, uid: str) -> tuple[StoredSong, StoredClip]:
    """Return a song and its clip, or raise Refusal SONG_UNKNOWN or CLIP_UNKNOWN."""
    song = await runtime.read(runtime.queries.song, uid)
    if song is None:
        raise Refusal(f"there is no songs/{uid}", reason="SONG_UNKNOWN")
    clip = await runtime.read(runtime.queries.clip, uid)
    if clip is None:
        raise Refusal(f"songs/{uid} has no clip, or it was deleted since", reason="CLIP_UNKNOWN")
    return song, clip


async def send_clip(runtime: Runtime, uid: str, context: Context) -> None:
    """Send what the clip is, then its bytes; raises Refusal."""
    song, clip = await find_clip(runtime, uid)
    if clip.shelf != runtime.clips.shelf:
        raise Refusal(f"the clip of songs/{uid} is in the data directory of another server", reason="CLIP_ELSEWHERE")
    try:
        file = await runtime.read(runtime.clips.open, clip)
    except OSError as error:
        raise Refusal(
            f"the clip of songs/{uid} cannot be read ({error.strerror}); `songstream db check` lists such",
            reason="CLIP_UNKNOWN",
        ) from error
    with file:
        await write_next(context, runtime, clip_header(song, clip))
        while piece := await runtime.read(file.read, PIECE_BYTES):
            await write_next(context, runtime, clip_data(piece))
