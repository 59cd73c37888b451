"""Turns the sound of one session into songs: with one bundle, and for a moment with two while another one takes over. Pure.

A bundle that hears the same songs takes over at once, as the stream goes on for it unchanged. Of another one a stream of its
own is begun, and both listen. All songs that begin within ``WARM_UP_S`` after that are the old bundle's; once it has decided
about these, the new one's songs count from the end of the last of them, and the old stream is dropped.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from songcore.arrays import FloatArray
from songcore.assign import Assignment
from songcore.stream import Checkpoint, Song, SongStream

__all__ = ["Found", "Hearing", "Model"]

WARM_UP_S = 2.0
"""For the new stream to learn the background, before its songs count."""


class Model(Protocol):
    """What a session and the batcher use of a bundle."""

    @property
    def digest(self) -> str:
        """For the songs' rows."""
        ...

    @property
    def songs_version(self) -> str:
        """Of the parameters that decide where songs are and what the encoder gets of them; goes into the songs' ids."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """At which its songs are counted."""
        ...

    def new_stream(self, rate_in: int) -> SongStream:
        """Return a stream from its beginning."""
        ...

    def resume_stream(self, rate_in: int, state: bytes) -> SongStream:
        """Return a stream from a checkpoint; raises InputError CHECKPOINT_FOREIGN for one of another `songs_version`."""
        ...

    def classify(self, songs: Sequence[Song]) -> list[Assignment]:
        """Name songs that it heard."""
        ...


Found = tuple[Song, Model]
"""A song counted from the session's start, and the bundle that heard it."""


class _Ear:
    """One bundle's stream, with songs and positions counted from the session's start."""

    def __init__(self, model: Model, rate_in: int, origin_sample: int, stream: SongStream) -> None:
        self.model, self.origin_sample, self.stream, self._rate_in = model, origin_sample, stream, rate_in
        self._shift = round(origin_sample * model.sample_rate_hz / rate_in)

    @property
    def open_since(self) -> int:
        """First input sample that a song not yet returned may begin at."""
        return self.origin_sample + self.stream.open_since * self._rate_in // self.model.sample_rate_hz

    def placed(self, songs: list[Song]) -> list[Song]:
        """Return songs counted from the session's start rather than from the stream's."""
        shift = self._shift
        if not shift:
            return songs
        return [replace(song, onset=song.onset + shift, offset=song.offset + shift) for song in songs]

    def starts_before(self, song: Song, input_sample: int) -> bool:
        """Whether a placed song begins before an input sample."""
        return song.onset * self._rate_in < input_sample * self.model.sample_rate_hz

    def ms(self, sample: int) -> int:
        """Return a sample of a placed song as its row will have it, milliseconds since the session's start."""
        return round(sample * 1000 / self.model.sample_rate_hz)


class Hearing:
    """Listens from ``input_sample`` on, with a stream of ``model`` that counts from ``origin_sample``."""

    def __init__(
        self, model: Model, rate_in: int, stream: SongStream, *, origin_sample: int = 0, input_sample: int = 0
    ) -> None:
        self._rate_in, self._position = rate_in, input_sample
        self._ear = _Ear(model, rate_in, origin_sample, stream)
        self._next: _Ear | None = None
        self._next_songs: list[Song] = []
        self._next_from = 0  # songs that begin before this input sample are the old bundle's
        self._held: tuple[int, Checkpoint] | None = None
        self.heard_until_ms = 0
        """Songs that begin earlier were heard by the bundle before; milliseconds since the session's start."""

    @property
    def model(self) -> Model:
        """What hears now."""
        return self._ear.model

    @property
    def open_since(self) -> int:
        """First input sample that a song not yet returned may begin at."""
        return min(self._ear.open_since, self._next.open_since) if self._next else self._ear.open_since

    def follow(self, model: Model) -> bool:
        """Let a bundle take over from the next sample on; False when it has, or is about to."""
        if model is (self._next or self._ear).model:
            return False
        if model.songs_version == self._ear.model.songs_version:
            self._drop_next()
            self._ear.model = model
        elif self._next and model.songs_version == self._next.model.songs_version:
            self._next.model = model
        else:
            self._drop_next()
            # Until the new bundle has taken over, the session stands here for a server that has to begin again.
            self._held = self.checkpoint()
            self._next = _Ear(model, self._rate_in, self._position, model.new_stream(self._rate_in))
            self._next_from = self._position + round(WARM_UP_S * self._rate_in)
        return True

    def push(self, samples: FloatArray) -> list[Found]:
        """Return the songs that are over."""
        self._position += len(samples)
        songs = self._fresh(self._ear, self._ear.stream.push(samples))
        if self._next is None:
            return [(song, self._ear.model) for song in songs]
        self._next_songs += self._next.stream.push(samples)
        return self._handed_over(songs, self._next, done=self._ear.open_since >= self._next_from)

    def finish(self) -> list[Found]:
        """Return the last songs before the end of the sound, or before a gap; `restart` goes on behind it."""
        songs = self._fresh(self._ear, self._ear.stream.finish())
        if self._next is None:
            return [(song, self._ear.model) for song in songs]
        self._next_songs += self._next.stream.finish()
        return self._handed_over(songs, self._next, done=True)

    def restart(self, input_sample: int) -> None:
        """Begin anew, as nothing is known of the sound before ``input_sample``."""
        self._position = input_sample
        self._ear = _Ear(self.model, self._rate_in, input_sample, self.model.new_stream(self._rate_in))

    def checkpoint(self) -> tuple[int, Checkpoint]:
        """Return where listening can be taken up again: an origin, and the checkpoint of the stream that counts from it."""
        return self._held or (self._ear.origin_sample, self._ear.stream.checkpoint())

    def open_song(self) -> Song | None:
        """Return the song that is being sung, as far as it has been heard by the bundle that hears now."""
        song = self._ear.stream.open_song()
        return self._ear.placed([song])[0] if song else None

    def _fresh(self, ear: _Ear, songs: list[Song]) -> list[Song]:
        """Return songs in their places without those that the bundle before has heard."""
        placed, until = ear.placed(songs), self.heard_until_ms
        return [song for song in placed if ear.ms(song.onset) >= until] if until else placed

    def _handed_over(self, songs: list[Song], new: _Ear, *, done: bool) -> list[Found]:
        """Return the old bundle's songs and, when it is ``done``, those of the new one, which hears from then on."""
        old = self._ear
        songs = [song for song in songs if old.starts_before(song, self._next_from)]
        self.heard_until_ms = max([self.heard_until_ms, *(old.ms(song.offset) for song in songs)])
        found: list[Found] = [(song, old.model) for song in songs]
        if done:
            found += [(song, new.model) for song in self._fresh(new, self._next_songs)]
            self._ear = new
            self._drop_next()
        return found

    def _drop_next(self) -> None:
        self._next, self._next_songs, self._held = None, [], None
