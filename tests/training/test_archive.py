"""Songs of an archive embedded and clustered in shards: as in one piece, resumable, with clear errors."""

import json
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from bundles import make_test_bundle
from ray_marks import ray_marks
from songcore.arrays import FloatArray
from songcore.bundle import load_bundle
from songcore.errors import BundleError, ConfigError, InputError
from songtrain.archive.clusters import density_of_shards, kmeans_of_shards, neighbours_of_shards
from songtrain.archive.embedding import _is_whole
from songtrain.archive.run import ArchiveJob, cluster_archive
from songtrain.archive.shards import Shard, _embeddings, read_embeddings, read_shard, write_shard
from songtrain.cluster import ray_session
from songtrain.clusterers.reachability import density_labels, nearest_neighbours
from songtrain.commands.cluster import cluster
from songtrain.datasets.distributed import Skipped
from songtrain.datasets.extract import extract_songs
from songtrain.datasets.folder import scan_folder
from songtrain.datasets.songs import SongPlace
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate

pytestmark = ray_marks(300)


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    """Hold one Ray of this machine for the tests of this file."""
    with ray_session(store_bytes=128 * 2**20):
        yield


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small simulated season of which the last file is no sound."""
    folder = tmp_path_factory.mktemp("season")
    simulate(season_config("demo", n_songs=24, n_types=3, n_singers=2, recording_s=30.0), folder)
    max((folder / "recordings").iterdir()).write_text("this is no sound")
    return folder


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle to embed with."""
    path = tmp_path_factory.mktemp("bundles") / "test"
    make_test_bundle(path)
    return path


def points(n: int = 900) -> FloatArray:
    """Return unit vectors (n, 8) around six directions."""
    rng = np.random.default_rng(3)
    rows = np.linalg.qr(rng.normal(size=(8, 8)))[0][rng.integers(0, 6, n)] + rng.normal(0, 0.06, (n, 8))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def shards_of(rows: FloatArray, folder: Path, borders: list[int]) -> list[Path]:
    """Write the rows as shards that end at the borders."""
    paths = []
    for number, part in enumerate(np.split(rows, borders)):
        places = tuple(SongPlace(f"r{number}.wav", i, i + 1) for i in range(len(part)))
        paths.append(folder / f"songs-{number}.parquet")
        write_shard(paths[-1], Shard(places, part))
    return paths


class Held:
    """How many shards' embeddings this process holds, now and at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        monkeypatch.setattr("songtrain.archive.shards._embeddings", self._read)

    def _read(self, table: pa.Table) -> FloatArray:
        # A copy, so that whoever holds a view holds this array and not what it is a view of.
        rows = _embeddings(table).copy()
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(rows, self._gone)
        return rows

    def _gone(self) -> None:
        self.now -= 1


def here(
    work: Callable[..., Any], items: Sequence[Any], *common: object, in_order: bool = False
) -> Iterator[tuple[int, Any]]:
    """Do as `on_cluster` does, one after the other in this process: in order, asked to or not."""
    assert in_order in {True, False}
    for index, item in enumerate(items):
        yield index, work(item, *common)


def command(*options: str) -> str:
    """Return what ``songstream cluster`` prints, given these options."""
    app = typer.Typer()
    app.command()(cluster)
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def test_command_embeds_as_the_bundle_does_and_goes_on(
    season: Path, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows follow the recordings, embeddings are the encoder's, a bad file is skipped; a second run keeps whole shards.

    Where the command runs, embeddings are not held but to see whether a shard that is there is whole.
    """
    job = ArchiveJob(season, bundle_dir, tmp_path / "out", n_clusters=3, per_shard=2, seed=7)
    held = Held(monkeypatch)
    options = ["--data", str(season), "--bundle", str(bundle_dir), "--out", str(job.out)]
    options += ["--clusters", "3", "--per-shard", "2", "--seed", "7"]
    first = json.loads(command(*options, "--json").splitlines()[-1])
    assert held.most == 0
    assert first["n_skipped"] == 1
    assert first["n_clusters"] == 3
    rows = pq.read_table(first["table"]).to_pylist()
    assert len(rows) == first["n_songs"] > 10
    shards = sorted(job.out.glob("songs-*.parquet"))
    bundle = load_bundle(bundle_dir, device="cpu")
    shard = read_shard(shards[0])
    name = shard.places[0].recording
    assert name == rows[0]["recording"]
    assert rows[0]["onset_s"] == shard.places[0].onset / bundle.stream_config.frontend.sample_rate_hz
    assert [s.recording for path in shards for s in read_shard(path).skipped] == [
        max(p.name for p in (season / "recordings").iterdir())
    ]
    annotated = [place for place in shard.places if place.recording == name]
    file = next(file for file in scan_folder(season).recordings if file.name == name)
    songs = extract_songs(file.path, file.name, file.annotations, bundle.stream_config)
    features = [part.astype(np.float32) for part in np.split(songs.frames, np.cumsum(songs.lengths)[:-1])]
    assert np.array_equal(shard.embeddings[: len(annotated)], bundle.embedder.embed(features))
    kept = {path: path.stat().st_mtime_ns for path in shards}
    damaged = shards[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    own = held.most = held.now
    assert cluster_archive(job) == first
    assert held.most == own + 1
    assert {path for path in shards if path.stat().st_mtime_ns != kept[path]} == {damaged}
    with pytest.raises(ConfigError, match="shards of other recordings") as caught:
        cluster_archive(ArchiveJob(season, bundle_dir, job.out, n_clusters=3, per_shard=3))
    assert caught.value.reason == "OUTPUT_EXISTS"


def test_a_damaged_shard_is_no_shard(tmp_path: Path) -> None:
    """With a bit flipped, wherever, it is found damaged, and made anew, or its embeddings are what they were."""
    path, rows = tmp_path / "songs.parquet", points(6)
    places = tuple(SongPlace(f"r{i}.wav", i, i + 5, "x") for i in range(6))
    write_shard(path, Shard(places, rows, (Skipped("bad.wav", "NOT_AUDIO", "no sound"),)))
    content, n_whole = path.read_bytes(), 0
    for at in range(0, len(content), 5):
        for bit in (0, 3, 7):
            damaged = bytearray(content)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            if _is_whole(path):
                n_whole += 1
                assert np.array_equal(read_embeddings(path), rows)
    assert n_whole < len(content) * 3 / 5 / 2


def test_a_bundle_that_is_replaced_meanwhile_embeds_nothing(
    season: Path, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are called by the bundle that was there at first: what another one would make does not get its name."""
    bundle = tmp_path / "bundle"
    shutil.copytree(bundle_dir, bundle)

    def replaced(work: Callable[..., Any], items: Sequence[Any], *common: object) -> Iterator[tuple[int, Any]]:
        shutil.rmtree(bundle)
        make_test_bundle(bundle, seed=1)
        return here(work, items, *common)

    monkeypatch.setattr("songtrain.archive.embedding.on_cluster", replaced)
    with pytest.raises(BundleError, match="another bundle took the place") as caught:
        cluster_archive(ArchiveJob(season, bundle, tmp_path / "out"))
    assert caught.value.reason == "HASH_MISMATCH"
    assert not list((tmp_path / "out").glob("songs-*"))


def test_neighbours_and_density_are_those_of_one_piece(tmp_path: Path) -> None:
    """However the songs are cut into shards, an empty one among them, neighbours and clusters are as without."""
    rows = points()
    shards = shards_of(rows, tmp_path, [10, 400, 400])
    whole = nearest_neighbours(rows, rows, 24)
    found = neighbours_of_shards(shards, 24)
    assert np.array_equal(found.distances, whole.distances)
    labels = density_of_shards(shards)
    assert labels.max() == 5
    assert np.array_equal(labels, density_labels(rows, 5, 5))
    assert density_of_shards(shards, min_cluster_size=200).max() < 5


def test_many_songs_do_not_make_types_larger(tmp_path: Path) -> None:
    """Of 7,000 songs ten are a type still, as for `train`: more songs may be of more types."""
    rng = np.random.default_rng(5)
    kinds = np.repeat(rng.normal(size=(560, 8)), [*[12] * 460, *[14] * 100], axis=0)
    rows = kinds / np.linalg.norm(kinds, axis=1, keepdims=True) + rng.normal(0, 0.003, kinds.shape)
    rows = np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
    assert len(rows) * 0.002 > 13
    assert density_of_shards(shards_of(rows, tmp_path, [3000])).max() + 1 > 500


def test_kmeans_of_shards_finds_the_groups(tmp_path: Path) -> None:
    """Labels are those of the nearest centre, each centre the mean of its songs, and six groups are found."""
    rows = points()
    labels, centres = kmeans_of_shards(shards_of(rows, tmp_path, [300, 301, 700]), 6, seed=0)
    gaps = ((rows[:, None] - centres) ** 2).sum(axis=2)
    assert np.array_equal(labels, gaps.argmin(axis=1))
    means = np.stack([rows[labels == k].mean(axis=0) for k in range(6)])
    assert np.allclose(centres, means, atol=1e-3)
    truth = density_labels(rows, 5, 5)
    assert adjusted_rand_score(truth[truth >= 0], labels[truth >= 0]) > 0.99


def test_songs_of_a_few_shards_are_enough_for_k_means(tmp_path: Path) -> None:
    """Where all songs are in one of many shards, as many as there are clusters are no fewer than that."""
    rows = points(300)
    labels, _ = kmeans_of_shards(shards_of(rows, tmp_path, [0] * 399), 290, seed=0)
    assert len(labels) == 300


def test_more_clusters_than_songs_are_refused(tmp_path: Path) -> None:
    """Seven clusters of five songs are an error that says so."""
    with pytest.raises(InputError, match="7 clusters are asked of 5 songs"):
        kmeans_of_shards(shards_of(points(5), tmp_path, [2]), 7, seed=0)


def test_clustering_holds_one_shard_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """k-means holds one shard's embeddings, a task that looks for neighbours two; all are joined once, and only if needed."""
    rows = points()
    paths = shards_of(rows, tmp_path, [300, 301, 700])
    monkeypatch.setattr("songtrain.archive.clusters.on_cluster", here)
    held = Held(monkeypatch)
    kmeans_of_shards(paths, 6, seed=0)
    assert held.most == 1
    held.most = 0
    density_of_shards(paths)
    assert held.most == 2
    monkeypatch.setattr("songtrain.archive.clusters._all_embeddings", lambda _: pytest.fail("all neighbours are known"))
    assert len(density_of_shards(shards_of(rows[:20], tmp_path, [8]))) == 20


def test_command_prints_one_line(season: Path, bundle_dir: Path, tmp_path: Path) -> None:
    """``songstream cluster --json`` finds clusters by density and prints what came of it; without it, the same in words."""
    options = ["--data", str(season), "--bundle", str(bundle_dir), "--out", str(tmp_path / "out")]
    options += ["--channel", "1", "--per-shard", "3", "--min-songs", "3"]
    facts = json.loads(command(*options, "--json").splitlines()[-1])
    # It takes up the shards, which it would not of another channel or size.
    job = ArchiveJob(season, bundle_dir, tmp_path / "out", per_shard=3, channel=1, min_songs=3)
    assert cluster_archive(job) == facts
    left_out = f", {facts['n_unclustered']} songs in none" if facts["n_unclustered"] else ""
    assert command(*options) == (
        f"{facts['n_clusters']} clusters in {facts['n_songs']} songs of {facts['n_recordings']} recordings "
        f"(1 skipped){left_out}: {facts['table']}\n"
    )
    assert facts["n_recordings"] == len(list((season / "recordings").iterdir()))
    assert len(pq.read_table(facts["table"])) == facts["n_songs"]
