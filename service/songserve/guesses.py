"""When to guess at the song that is being sung: after its first second, then each second. Pure."""

from songcore.stream import Song

__all__ = ["Guesses"]

FIRST_S = 1.0
EVERY_S = 1.0


class Guesses:
    """Follows the open song of one stream."""

    def __init__(self) -> None:
        self._onset = -1
        self._guessed_at = 0
        self._revision = 0

    def due(self, song: Song | None, sample_rate_hz: int) -> bool:
        """Whether a guess at the open song, of so many samples a second, is worth its while now."""
        if song is None:
            return False
        n_samples = song.offset - song.onset
        if song.onset != self._onset:
            return n_samples >= FIRST_S * sample_rate_hz
        return n_samples - self._guessed_at >= EVERY_S * sample_rate_hz

    def take(self, song: Song) -> int:
        """Note that a guess is made now and return its revision."""
        if song.onset != self._onset:
            self._onset, self._revision = song.onset, 0
        self._guessed_at = song.offset - song.onset
        self._revision += 1
        return self._revision
