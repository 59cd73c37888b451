"""Which clips are deleted, and when: those of old songs, and the oldest while there are too many. Kept ones never are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from songserve.clips_shelf import ClipShelf
from songserve.queries import SongQueries
from songserve.records import StoredClip
from songserve.store import Store
from songserve.times import DAY_MS

__all__ = ["ClipRetention", "Deletion"]

Deletion = Literal["age", "quota"]
AT_ONCE = 500


@dataclass(frozen=True)
class ClipRetention:
    """The limits of one data directory's clips; `sweep` applies them."""

    shelf: ClipShelf
    queries: SongQueries
    store: Store
    max_days: int
    max_bytes: int
    observe: Callable[[Deletion, int], None]
    """Told how many clips were deleted, and why."""

    def sweep(self, now_ms: int) -> int:
        """Delete what is too old, then what is too much, the oldest first; return the bytes that are left.

        Raises Refusal when the store cannot be used; what was deleted until then is deleted on both sides.
        """
        while old := self._oldest(before_ms=now_ms - self.max_days * DAY_MS):
            self._delete(old, "age")
        _, n_bytes = self.queries.clip_totals(self.shelf.shelf)
        while n_bytes > self.max_bytes and (oldest := self._oldest(before_ms=None)):
            surplus, n_over = [], n_bytes - self.max_bytes
            for clip in oldest:
                if n_over <= 0:
                    break
                surplus.append(clip)
                n_over -= clip.total_bytes
            n_bytes -= self._delete(surplus, "quota")
        return n_bytes

    def _oldest(self, *, before_ms: int | None) -> list[StoredClip]:
        return self.queries.oldest_clips(self.shelf.shelf, before_ms=before_ms, size=AT_ONCE)

    def _delete(self, clips: list[StoredClip], why: Deletion) -> int:
        """Delete rows, then files; return the bytes of those that nobody decided to keep meanwhile."""
        gone = self.store.forget_clips([clip.song for clip in clips]).result()
        deleted = [clip for clip in clips if clip.song in gone]
        for clip in deleted:
            self.shelf.delete(clip)
        self.observe(why, len(deleted))
        return sum(clip.total_bytes for clip in deleted)
