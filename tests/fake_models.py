"""What stands for a bundle where no real one is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from songcore.assign import Assignment
from songcore.stream import Song, SongStream

__all__ = ["FakeModel"]

NAME = Assignment("T0001", "song", 0.9, 0.1, 0.5, novelty="known")


def no_stream(rate_in: int, state: bytes | None) -> SongStream:
    """Fail: the test needs no stream."""
    raise AssertionError(f"a stream of {rate_in} Hz was asked for, from {state!r}")


def same_name(songs: Sequence[Song]) -> list[Assignment]:
    """Call every song the same."""
    return [NAME] * len(songs)


@dataclass(eq=False)
class FakeModel:
    """A model made of two functions: one for its streams, one that names."""

    make: Callable[[int, bytes | None], SongStream] = no_stream
    names: Callable[[Sequence[Song]], list[Assignment]] = same_name
    digest: str = "digest"
    songs_version: str = "v1"
    sample_rate_hz: int = 24_000

    def new_stream(self, rate_in: int) -> SongStream:
        """Return a stream from its beginning."""
        return self.make(rate_in, None)

    def resume_stream(self, rate_in: int, state: bytes) -> SongStream:
        """Return a stream from a checkpoint."""
        return self.make(rate_in, state)

    def classify(self, songs: Sequence[Song]) -> list[Assignment]:
        """Name songs."""
        return self.names(songs)
