"""The report of a reclustering: one HTML page that shows every change with songs before and after."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from songcore.arrays import FloatArray, IntArray
from songcore.features import SCALE_DB
from songcore.lineage import TypeChange
from songcore.manifest import GateCheck
from songtrain.clusterers.prototypes import medoids
from songtrain.recluster.proposal import Proposal
from songtrain.recluster.run_folder import write_whole_file
from songtrain.recluster.songs import RunInput
from songtrain.report.figures import song_picture

__all__ = ["ChangesContent", "change_scores", "write_changes_report"]

MAX_ROWS = 60
N_PICTURES = 4
PIXELS_PER_S = 36
Facts = Mapping[str, float | int | str | None]


@dataclass(frozen=True)
class ChangesContent:
    """Everything the report tells."""

    name: str
    """Of the run."""
    run: RunInput
    proposal: Proposal
    gate: Sequence[GateCheck]
    embeddings: FloatArray
    """(n, d) of the run's songs by the encoder that is proposed."""
    facts: Facts
    digest: str
    features: Callable[[Sequence[int]], Mapping[int, FloatArray]]
    """Gives the features of those of some songs that have any left."""


def change_scores(
    old: IntArray, old_ids: Sequence[str], new: IntArray, new_ids: Sequence[str]
) -> dict[str, float | None]:
    """Return ARI of old and new types, and the share of songs that are called otherwise now, over songs with both."""
    from sklearn.metrics import adjusted_rand_score

    both = (old >= 0) & (new >= 0)
    if not both.any():
        return {"ari": None, "changed_share": None}
    changed = [old_ids[o] != new_ids[n] for o, n in zip(old[both].tolist(), new[both].tolist(), strict=True)]
    return {"ari": float(adjusted_rand_score(old[both], new[both])), "changed_share": float(np.mean(changed))}


def write_changes_report(path: Path, content: ChangesContent) -> None:
    """Write the report to ``path``, whole or not at all; ConfigError when the disk does not take it."""
    environment = Environment(loader=PackageLoader("songtrain.report", "."), autoescape=True, undefined=StrictUndefined)
    run, proposal = content.run, content.proposal
    gallery = _Gallery(content)
    rows = [gallery.changed(entry) for entry in proposal.changes[:MAX_ROWS]]
    touched = {name for entry in proposal.changes for name in (entry.id, *entry.others)}
    kept = [one.id for one in proposal.types if one.id not in touched]
    page = environment.get_template("changes.html").render(
        run=content.name,
        parent=run.digest,
        digest=content.digest,
        facts=content.facts,
        gate=content.gate,
        passed=all(check.passed for check in content.gate),
        summary=_summary(content.facts),
        rows=rows,
        n_more=max(0, len(proposal.changes) - MAX_ROWS),
        described_anew=proposal.described_anew(run.parts.types),
        kept=[gallery.kept(name) for name in kept[:MAX_ROWS]],
        n_more_kept=max(0, len(kept) - MAX_ROWS),
        pixels_per_s=PIXELS_PER_S,
    )
    write_whole_file(path, page.encode())


def _summary(facts: Facts) -> str:
    words = {"n_new": "new", "n_split": "split off", "n_merged": "merged", "n_retired": "retired"}
    told = [f"{facts[name]} {word}" for name, word in words.items() if facts.get(name)]
    return f"{facts['n_types']} song types: {', '.join(told) or 'none added or lost'}"


class _Gallery:
    """Typical songs of types before and after."""

    def __init__(self, content: ChangesContent) -> None:
        run, proposal = content.run, content.proposal
        self._uids, self._changes = run.songs.uids, proposal.changes
        self._names = dict(zip(run.named.type_ids, run.named.names, strict=True))
        self._kinds = {one.id: one.kind for one in proposal.types}
        before = _typical(run.songs.embeddings, run.named.type_index, run.named.type_ids)
        self._before, self._n_before = before
        ids = [one.id for one in proposal.types]
        self._now, self._n_now = _typical(content.embeddings, proposal.labels, ids)
        wanted = {song for side in (self._before, self._now) for songs in side.values() for song in songs}
        self._features = content.features(sorted(wanted))
        self._hop_s = run.parts.stream.frontend.hop_s
        self._ceiling = run.parts.stream.features.range_db / SCALE_DB

    def changed(self, entry: TypeChange) -> dict[str, Any]:
        """Return the row of a change: the types it came from beside those it led to."""
        from_others = entry.change in {"split", "merged"}
        before = [*(entry.others if from_others else ()), *([entry.id] if entry.change != "split" else [])]
        now = (
            entry.others
            if entry.change == "retired"
            else (entry.id, *(entry.others if entry.change == "split" else ()))
        )
        return self._row(entry.id, entry.change, self._told(entry), before, now)

    def kept(self, name: str) -> dict[str, Any]:
        """Return the row of a type that stayed."""
        words = f"{self._n_before.get(name, 0)} songs before, {self._n_now.get(name, 0)} now"
        return self._row(name, "kept", words, [name], [name])

    def _told(self, entry: TypeChange) -> str:
        songs, others = f"{entry.n_songs} songs", " and ".join(entry.others)
        return {
            "new": f"{songs} that had no type",
            "split": f"{songs} that were of {others}",
            "merged": f"took in {songs} of {others}",
            "retired": f"its {songs} are found in {others}" if others else f"none of its {songs} is found again",
        }[entry.change]

    def _row(self, name: str, change: str, words: str, before: Sequence[str], now: Sequence[str]) -> dict[str, Any]:
        return {
            "id": name,
            "name": self._names.get(name, ""),
            "kind": self._kinds.get(name, "song"),
            "change": change,
            "words": words,
            "before": self._groups(before, self._before, self._n_before),
            "now": self._groups(now, self._now, self._n_now),
        }

    def _groups(
        self, names: Sequence[str], typical: Mapping[str, Sequence[int]], n_songs: Mapping[str, int]
    ) -> list[dict[str, Any]]:
        return [
            {"title": f"{name}, {n_songs[name]} songs", "pictures": self._pictures(typical[name])}
            for name in names
            if name in typical
        ]

    def _pictures(self, songs: Sequence[int]) -> list[dict[str, Any]]:
        pictures = []
        for song in songs:
            if (features := self._features.get(song)) is None:
                continue
            heard = np.flatnonzero(features.max(axis=1) > 0)
            n_frames = int(heard[-1]) + 1 if len(heard) else len(features)
            image = base64.b64encode(song_picture(features, self._ceiling)).decode()
            pictures.append(
                {
                    "image": f"data:image/png;base64,{image}",
                    "width": max(8, round(n_frames * self._hop_s * PIXELS_PER_S)),
                    "where": f"songs/{self._uids[song]}",
                }
            )
        return pictures


def _typical(
    embeddings: FloatArray, labels: IntArray, ids: Sequence[str]
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Return typical songs and how many there are, by type id, of those types that have any."""
    typical, counts = {}, {}
    for number, name in enumerate(ids):
        members = np.flatnonzero(labels == number)
        if len(members):
            (best,) = medoids(embeddings[members], np.zeros(len(members), np.int64), N_PICTURES)
            typical[name], counts[name] = [int(members[i]) for i in best], len(members)
    return typical, counts
