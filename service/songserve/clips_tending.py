"""What a server does about its clips: takes the shelf over at start, and applies the limits while it runs."""

import asyncio
import logging

from songserve.clips_retention import ClipRetention
from songserve.clips_shelf import ClipShelf
from songserve.database import CLIPS_FOLDER, DataDirectory
from songserve.metrics import Metrics
from songserve.queries import SongQueries
from songserve.refusal import Refusal
from songserve.runtime import Runtime
from songserve.settings import ServeSettings

__all__ = ["open_shelf", "tend_clips"]

log = logging.getLogger(__name__)

INTERVAL_S = 60.0


def open_shelf(settings: ServeSettings, directory: DataDirectory, queries: SongQueries, metrics: Metrics) -> ClipShelf:
    """Return the shelf of a data directory, cleaned of what a crash left; raises Refusal when the store cannot be read."""
    # Clips never take the room that commits need, nor what a stream needs to begin.
    reserve = 3 * settings.min_free_disk_mb * 2**20
    shelf = ClipShelf(
        directory.path / CLIPS_FOLDER,
        directory.shelf,
        choice=settings.clips,
        has_room=lambda: directory.free_bytes >= reserve,
        observe=metrics.clip_handled,
    )
    if settings.clips != "none" or (directory.path / CLIPS_FOLDER).is_dir():
        shelf.clean(queries.position()[0], queries.clip_shelves)
    return shelf


async def tend_clips(runtime: Runtime) -> None:
    """Delete, for ever, the clips that are too old or too many."""
    settings, metrics = runtime.settings, runtime.metrics
    retention = ClipRetention(
        runtime.clips,
        runtime.queries,
        runtime.store,
        max_days=settings.clip_days,
        max_bytes=settings.clip_quota_mb * 2**20,
        observe=metrics.clips_deleted,
    )
    while True:
        try:
            metrics.clip_bytes.set(await runtime.read(retention.sweep, runtime.now_ms))
        except (Refusal, OSError) as error:
            log.warning("clips could not be tended: %s", error)
        await asyncio.sleep(INTERVAL_S)
