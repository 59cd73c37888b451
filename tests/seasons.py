"""A store full of songs that a bundle named as a server would, with the truth: what a reclustering begins with."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid5

from songcore.arrays import FloatArray
from songcore.bundle import Bundle
from songcore.decisions import Action, write_action
from songserve.clips import ClipSound
from songserve.records import StoredClip, StoredSong
from stores import HOUR_MS, PCM, RATE, START_MS, Opened, Shelf, commit, song

__all__ = ["Season", "decide", "fill_store", "store_url"]

DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Season:
    """A store and what is in it."""

    folder: Path
    truth: Mapping[str, int]
    """By uid, the true type of every song."""
    novel: frozenset[str]
    """Uids of the songs of the pool."""

    @property
    def url(self) -> str:
        """URL of the store."""
        return store_url(self.folder)


def store_url(folder: Path) -> str:
    """Return the URL of the store in a data directory."""
    return f"sqlite:///{folder / 'songs.sqlite'}"


def fill_store(
    folder: Path,
    bundle: Bundle,
    features: Sequence[FloatArray],
    truth: Sequence[int],
    *,
    sessions: Sequence[int] | None = None,
    every_s: float = 3600.0,
    with_features: bool = True,
    database_url: str | None = None,
) -> Season:
    """Store songs as the bundle names them, one every so often, in sessions of the given numbers; return the season."""
    assigned = bundle.catalogue.assign(bundle.embedder.embed(list(features)))
    truths, novel = dict[str, int](), set[str]()
    with Opened(folder, database_url=database_url) as opened:
        shelf = Shelf(opened, choice="all")
        rows: list[StoredSong] = []
        clips: list[StoredClip | None] = []
        embeddings = {}
        for number, one in enumerate(assigned):
            where = 0 if sessions is None else sessions[number]
            session = UUID(int=1000 + where)
            row = song(
                shelf.record,
                number * every_s,
                one.type_id,
                uid=str(uuid5(session, str(number))),
                session=str(session),
                kind=one.kind,
                similarity=one.similarity,
                novelty_score=one.novelty_score,
                p_value=one.p_value,
                novelty=one.novelty,
                bundle=bundle.digest,
            )
            rows.append(row)
            truths[row.uid] = truth[number]
            embeddings[row.uid] = one.embedding.astype("<f4").tobytes()
            if one.novelty != "known":
                novel.add(row.uid)
            if with_features:
                clips += shelf.shelf.write([(row, ClipSound(0, PCM[: RATE // 50], RATE, features[number]))])
        step = commit(shelf.record, 1, *rows)
        kept = tuple(clip for clip in clips if clip)
        opened.store.commit(replace(step, clips=kept, embeddings=embeddings)).result(30)
    return Season(folder, truths, frozenset(novel))


def decide(folder: Path, *actions: Action) -> None:
    """Add what people decided to the store's list."""
    with closing(sqlite3.connect(folder / "songs.sqlite")) as database, database:
        (last,) = database.execute("SELECT coalesce(max(seq), 0) FROM decisions").fetchone()
        rows = [(last + n, START_MS, "anna", write_action(action)) for n, action in enumerate(actions, 1)]
        database.executemany("INSERT INTO decisions (seq, time_ms, who, action) VALUES (?, ?, ?, ?)", rows)
