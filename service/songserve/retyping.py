"""What another bundle makes of stored songs: from what the encoder saw where it hears the same songs, else from clips.

The rows of the songs stay as they are; what comes out stands beside them, by song and bundle. Songs that have theirs are left
out, so a run that was stopped goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid5

import numpy as np
import soundfile
from sqlalchemy import Engine, and_, select

from songcore.arrays import FloatArray
from songcore.assign import Assignment, TypeKind
from songcore.bundle import Bundle
from songcore.errors import InputError
from songcore.stream import Song
from songserve.records import Retyping, StoredClip, StoredSong
from songserve.schema import clips, retypings, songs

__all__ = ["Outcome", "Retyper", "Wanted", "stored_name", "wanted_songs"]

Outcome = Literal["features", "clip", "unheard", "gone", "damaged"]
"""From what encoder or clip saw; no such song in the clip; neither is there any more; cannot be read."""
MIN_OVERLAP = 0.5
"""Of what a song and one found in its clip cover together: less is another song."""


@dataclass(frozen=True)
class Wanted:
    """A song that a bundle has not named yet, and its clip if it has one here."""

    song: StoredSong
    clip: StoredClip | None


def wanted_songs(engine: Engine, bundle: str, shelf: str, *, size: int) -> Iterator[list[Wanted]]:
    """Give songs without a result of the bundle, ``size`` at a time in the order of commits, with their clips of a shelf.

    Each group is read by itself, so that nothing is locked in between; songs that come in meanwhile come last.
    """
    done = and_(retypings.c.song == songs.c.uid, retypings.c.bundle == bundle)
    own_clip = and_(clips.c.song == songs.c.uid, clips.c.shelf == shelf)
    names = [column.name for column in songs.c if column.name in StoredSong.__dataclass_fields__]
    chosen = [songs.c[name].label(f"song_{name}") for name in names] + [
        column.label(f"clip_{column.name}") for column in clips.c
    ]
    joined = songs.outerjoin(retypings, done).outerjoin(clips, own_clip)
    query = select(songs.c.seq, *chosen).select_from(joined).where(retypings.c.song.is_(None)).order_by(songs.c.seq)
    seq = 0
    while True:
        with engine.connect() as connection:
            rows = connection.execute(query.where(songs.c.seq > seq).limit(size)).mappings().all()
        if not rows:
            return
        seq = rows[-1]["seq"]
        yield [
            Wanted(
                StoredSong(**{name: row[f"song_{name}"] for name in names}),
                None
                if row["clip_song"] is None
                else StoredClip(**{column.name: row[f"clip_{column.name}"] for column in clips.c}),
            )
            for row in rows
        ]


def stored_name(song: StoredSong) -> Assignment:
    """Return what its own bundle named a song."""
    kind: TypeKind = "noise" if song.kind == "noise" else "song"
    return Assignment(song.type_id, kind, song.similarity, song.novelty_score, song.p_value, song.novelty)


class Retyper:
    """Names stored songs with ``bundle``.

    ``path_of`` gives the file of a clip, ``features_of`` what the encoder saw of that file's song, or None where it is not
    kept.
    """

    def __init__(
        self,
        bundle: Bundle,
        path_of: Callable[[StoredClip], Path],
        features_of: Callable[[Path], FloatArray | None],
    ) -> None:
        self._bundle, self._path_of, self._features_of = bundle, path_of, features_of

    def name(self, wanted: Sequence[Wanted]) -> list[tuple[Wanted, Outcome, Assignment | None]]:
        """Return what comes out for each song, in order; an assignment where it has one."""
        heard = [self._heard(one) for one in wanted]
        names = iter(self._bundle.classify([song for _, song in heard if song]))
        return [
            (one, outcome, next(names) if song else None) for one, (outcome, song) in zip(wanted, heard, strict=True)
        ]

    def row(self, one: Wanted, outcome: Outcome, name: Assignment | None) -> Retyping | None:
        """Return what to keep: nothing of a song of which nothing is there, which another machine may have."""
        if outcome in {"gone", "damaged"}:
            return None
        if name is None:
            return Retyping(one.song.uid, self._bundle.digest, outcome)
        return Retyping(
            one.song.uid,
            self._bundle.digest,
            outcome,
            type_id=name.type_id,
            kind=name.kind,
            similarity=name.similarity,
            novelty_score=name.novelty_score,
            p_value=name.p_value,
            novelty=name.novelty,
            vector=name.embedding.astype("<f4", copy=False).tobytes(),
        )

    def _heard(self, one: Wanted) -> tuple[Outcome, Song | None]:
        if one.clip is None:
            return "gone", None
        try:
            if self._same_songs(one.song) and (features := self._features_of(self._path_of(one.clip))) is not None:
                song = one.song
                return "features", Song(song.onset, song.offset, song.forced_cut, song.snr_db, features)
            return self._heard_in_clip(one.song, one.clip)
        except FileNotFoundError:  # retention was faster
            return "gone", None
        except (InputError, OSError, soundfile.LibsndfileError):
            return "damaged", None

    def _same_songs(self, song: StoredSong) -> bool:
        """Whether this bundle would have heard the same song, bit for bit: its id says with which parameters it was heard."""
        name = f"{self._bundle.songs_version}:{song.onset}:{song.offset}"
        return str(uuid5(UUID(song.session), name)) == song.uid

    def _heard_in_clip(self, song: StoredSong, clip: StoredClip) -> tuple[Outcome, Song | None]:
        with self._path_of(clip).open("rb") as file:  # says whether it is there, as soundfile does not
            samples, rate = soundfile.read(file, dtype="float32")
        stream = self._bundle.new_stream(rate)
        found = stream.push(np.asarray(samples, np.float32)) + stream.finish()
        begin_s = clip.start_sample / clip.sample_rate_hz
        onset_s, offset_s = (sample / song.sample_rate_hz - begin_s for sample in (song.onset, song.offset))

        def overlap(other: Song) -> float:
            begin, end = (sample / self._bundle.sample_rate_hz for sample in (other.onset, other.offset))
            common = min(end, offset_s) - max(begin, onset_s)
            return max(0.0, common) / (max(end, offset_s) - min(begin, onset_s))

        best = max(found, key=overlap, default=None)
        if best is None or overlap(best) < MIN_OVERLAP:
            return "unheard", None
        return "clip", replace(best, snr_db=song.snr_db)
