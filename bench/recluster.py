"""A nightly reclustering of a large pool, against scikit-learn's HDBSCAN on the same embeddings; one JSON line last.

A store is filled with songs that the bundle does not know: embeddings around random directions, types of Zipf-like sizes,
in forty sessions. ``songstream recluster`` then runs on it as a process of its own, and its wall time counts, from reading the
store to the published bundle. scikit-learn's HDBSCAN gets the embeddings of the same songs in the same run; when it takes
``--limit`` seconds it is stopped, and the line says how many times faster the whole reclustering was at least.

``ids_kept_stable`` and ``ids_kept_plain`` tell what ids are worth: a season of ``--season-songs`` embeddings is clustered anew
four times as it grows, and they are the shares of songs called as the time before, with ids matched, and with clusters
numbered by size as they come.

Run as ``python bench/recluster.py --songs 100000 --mode quick``.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any
from uuid import UUID

import numpy as np
import typer
from clustering import mixture
from sqlalchemy import insert

from songcore.arrays import FloatArray, IntArray
from songcore.bundle import load_bundle
from songserve.database import DataDirectory
from songserve.schema import embeddings, songs
from songtrain.clusterers.density import by_size, smallest_cluster
from songtrain.clusterers.reachability import density_labels
from songtrain.recluster.matching import match_types
from songtrain.recluster.songs import RunSongs

ROOT = Path(__file__).resolve().parents[1]
SONGSTREAM = Path(sys.executable).with_name("songstream")
DAY_MS = 86_400_000
START_MS = 1_780_000_000_000
ROWS_AT_ONCE = 5000
MIN_SAMPLES = 5

_EXACT = """
import sys
import numpy as np
from sklearn.cluster import HDBSCAN
points = np.load(sys.argv[1])
labels = HDBSCAN(min_cluster_size=int(sys.argv[2]), min_samples=int(sys.argv[3]), copy=True).fit_predict(points)
np.save(sys.argv[4], labels)
"""


def main(  # noqa: PLR0917 - one parameter per option
    n_songs: Annotated[int, typer.Option("--songs", help="Songs of the pool.")] = 100_000,
    mode: Annotated[str, typer.Option(help="quick; full trains, on features that these songs do not have.")] = "quick",
    types: Annotated[int, typer.Option(help="Types among them.")] = 200,
    spread: Annotated[float, typer.Option(help="Standard deviation of each value within a type.")] = 0.03,
    bundle: Annotated[Path, typer.Option(help="Bundle that does not know them.")] = ROOT / "models" / "demo-v1",
    exact: Annotated[bool, typer.Option(help="Run scikit-learn's HDBSCAN too.")] = True,
    limit: Annotated[float, typer.Option(help="Seconds after which it is stopped.")] = 1200.0,
    season_songs: Annotated[int, typer.Option(help="Songs of the season for what ids are worth.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
) -> None:
    """Fill a store, recluster it, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dimension = load_bundle(bundle, device="cpu").embedder.dimension
        points, truth = mixture(n_songs, types, dimension, spread, seed)
        _fill(folder, bundle, points, np.random.default_rng([seed, 1]))
        result: dict[str, Any] = {"n": n_songs, "dimension": dimension, "mode": mode}
        result |= _recluster(folder, bundle, mode, truth)
        if exact:
            result |= _against_exact(folder, limit, result["seconds"])
        result |= _worth_of_ids(season_songs, dimension, spread, seed)
    result |= {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}))


def _fill(folder: Path, bundle: Path, points: FloatArray, rng: np.random.Generator) -> None:
    """Store songs that the bundle did not know, in forty sessions over forty days."""
    digest = load_bundle(bundle, device="cpu").digest
    sessions = rng.integers(40, size=len(points))
    row = {"station": "north", "sample_rate_hz": 24_000, "type_id": "T0001", "kind": "song", "similarity": 0.1}
    row |= {"novelty_score": 1.0, "p_value": 0.001, "is_novel": True, "forced_cut": False, "snr_db": 20.0}
    row |= {"bundle": digest, "novelty": "novel", "quality": "good"}
    directory = DataDirectory(folder)
    try:
        for first in range(0, len(points), ROWS_AT_ONCE):
            numbers = range(first, min(first + ROWS_AT_ONCE, len(points)))
            rows = [
                {
                    **row,
                    "uid": str(UUID(int=i + 1)),
                    "seq": i + 1,
                    "session": str(UUID(int=int(sessions[i]) + 1)),
                    "start_ms": (begin := START_MS + int(sessions[i]) * DAY_MS + i),
                    "end_ms": begin + 1000,
                    "onset": i * 48_000,
                    "offset": i * 48_000 + 24_000,
                }
                for i in numbers
            ]
            vectors = [
                {"song": str(UUID(int=i + 1)), "bundle": digest, "vector": points[i].astype("<f4").tobytes()}
                for i in numbers
            ]
            with directory.writer.begin() as connection:
                connection.execute(insert(songs), rows)
                connection.execute(insert(embeddings), vectors)
    finally:
        directory.close()


def _recluster(folder: Path, bundle: Path, mode: str, truth: IntArray) -> dict[str, Any]:
    """Run the command and return how long it took and how well its new types are those that were made."""
    command = [SONGSTREAM, "recluster", "--store", f"sqlite:///{folder / 'songs.sqlite'}", "--bundle", bundle]
    begin = perf_counter()
    done = subprocess.run(
        [*map(str, command), "--mode", mode, "--run", "bench", "--json"], check=True, capture_output=True, text=True
    )
    seconds = perf_counter() - begin
    state = json.loads(done.stdout.splitlines()[-1])
    proposal = json.loads((folder / "reclusterings" / "bench" / "proposal.json").read_bytes())
    placed = {uid: k for k, uids in enumerate(proposal["types"].values()) for uid in uids}
    labels = np.asarray([placed.get(str(UUID(int=i + 1)), -1) for i in range(len(truth))], np.int64)
    known = labels >= 0
    purity = sum(np.bincount(truth[labels == k]).max() for k in np.unique(labels[known])) / max(1, known.sum())
    found = {int(np.bincount(truth[labels == k]).argmax()) for k in np.unique(labels[known])}
    large = {int(k) for k in np.flatnonzero(np.bincount(truth) >= smallest_cluster(len(truth)))}
    return {
        "seconds": seconds,
        "n_new": state["facts"]["n_new"],
        "gate": state["facts"]["gate"],
        "purity": float(purity),
        "placed_share": float(known.mean()),
        "types_found_share": len(found & large) / max(1, len(large)),
    }


def _against_exact(folder: Path, limit: float, seconds: float) -> dict[str, Any]:
    """Give scikit-learn the same embeddings, in a process that can be stopped."""
    placed = RunSongs.read(folder / "reclusterings" / "bench" / "placed.npz")
    np.save(folder / "points.npy", placed.embeddings)
    arguments = [
        str(folder / "points.npy"),
        str(smallest_cluster(len(placed))),
        str(MIN_SAMPLES),
        str(folder / "labels"),
    ]
    begin = perf_counter()
    try:
        subprocess.run([sys.executable, "-c", _EXACT, *arguments], check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"exact_s": None, "exact_more_than_s": limit, "times_faster_at_least": limit / seconds}
    exact_s = perf_counter() - begin
    return {"exact_s": exact_s, "times_faster": exact_s / seconds}


def _worth_of_ids(n_songs: int, dimension: int, spread: float, seed: int) -> dict[str, Any]:
    """Cluster a season anew four times as it grows; return the share of songs that keep what they are called, both ways."""
    points, _ = mixture(n_songs, 60, dimension, spread, seed + 1)
    ids: list[str] = []
    last: IntArray | None = None
    kept: dict[str, list[float]] = {"stable": [], "plain": []}
    following = 1
    for night in range(1, 5):
        n = n_songs * night // 4
        labels = by_size(density_labels(points[:n], smallest_cluster(n), MIN_SAMPLES))
        old = np.full(n, -1, np.int64)
        if last is not None:
            old[: len(last)] = last
        matching = match_types(old, ids, labels, first_number=following, since="0" * 64)
        if last is not None:
            both = (old >= 0) & (labels >= 0)
            named = [(ids[o], matching.ids[k]) for o, k in zip(old[both].tolist(), labels[both].tolist(), strict=True)]
            kept["stable"].append(float(np.mean([a == b for a, b in named])))
            kept["plain"].append(float((old[both] == labels[both]).mean()))
        following += sum(entry.change in {"new", "split"} for entry in matching.changes)
        ids, last = list(matching.ids), labels
    return {"ids_kept_stable": float(np.mean(kept["stable"])), "ids_kept_plain": float(np.mean(kept["plain"]))}


if __name__ == "__main__":
    typer.run(main)
