"""What the laboratory does when processes, nodes, points or the disk are lost: rows say so, and finished work is kept."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import ray
import soundfile
from ray.cluster_utils import Cluster

from own_modules import importable
from ray_marks import ray_marks
from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.songs import SongSet
from songtrain.datasets.sound import SoundSource
from songtrain.lab.grid import grid_settings
from songtrain.lab.keepsakes import has_songs, read_points, read_songs
from songtrain.lab.ledger import Trial, plan_trial
from songtrain.lab.options import with_clusters
from songtrain.lab.results import read_rows
from songtrain.lab.run import LabJob, run_systems
from songtrain.lab.sweep import Sweep, run_sweep
from songtrain.lab.systems import System, choose_systems, part
from songtrain.lab.tasks import Bench, note_songs

pytestmark = ray_marks(600)

ToySongs = Callable[..., SongSet]

OWN_PARTS = '''
import os, signal
from pathlib import Path
import ray
from sklearn.cluster import KMeans

class Deadly(KMeans):
    """Kills its process as often as `file` has lines left."""
    def __init__(self, file="", n_clusters=6, random_state=0):
        super().__init__(n_clusters, random_state=random_state)
        self.file = file

    def fit_predict(self, X, y=None):
        lives = Path(self.file)
        if left := int(lives.read_text()):
            lives.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit_predict(X)

class Counted(KMeans):
    """Writes into `file` how many clusters it was asked for, and how much of a GPU it has."""
    def __init__(self, file="", n_clusters=6, random_state=0):
        super().__init__(n_clusters, random_state=random_state)
        self.file = file

    def fit_predict(self, X, y=None):
        with Path(self.file).open("a") as lines:
            share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0)
            lines.write(f"{self.n_clusters} {share}\\n")
        return super().fit_predict(X)

class Trained(Counted):
    """Says that it is a network."""
    def __init__(self, file="", n_clusters=6, n_epochs=1, random_state=0):
        super().__init__(file, n_clusters, random_state=random_state)
        self.n_epochs = n_epochs

class DeadlyPaths(dict):
    """Paths of recordings that kill the process that asks for one."""
    def __getitem__(self, name):
        os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture(scope="module")
def own_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put a package of estimators of one's own on the path of this process and of Ray's workers."""
    with importable(tmp_path_factory.mktemp("own"), "deadly_parts", OWN_PARTS):
        yield


@pytest.fixture(scope="module")
def ray_here(own_parts: None) -> Iterator[None]:  # noqa: ARG001 - must be on the path before workers start
    """Hold one Ray of this machine for the tests of this file."""
    with ray_session(store_bytes=128 * 2**20):
        yield


def system(name: str, **options: object) -> System:
    """Return a system of log-mel images whose clusterer, or encoder, is one's own."""
    return System(name, "", part("log-mel", n_frames=96), None, part("pca"), part("deadly_parts:Deadly", **options))


def system_of(features: str) -> System:
    """Return k-means on these features, by their name."""
    return System(features, "", part(features), None, part("pca"), part("kmeans", n_clusters=4))


@pytest.mark.usefixtures("ray_here")
def test_killed_worker_is_replaced_once(toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path) -> None:
    """A row whose process is killed once is made by another process; killed twice it is a row that says so, others go on."""
    once, always = tmp_path / "once", tmp_path / "always"
    once.write_text("1")
    always.write_text("9")
    systems = [system("once", file=str(once)), system("always", file=str(always)), *choose_systems(["classical-floor"])]
    rows = run_systems(toy_songs(48), stream, LabJob(Path("unused"), tmp_path, systems, 1)).rows
    assert [row.error[-13:] for row in rows] == ["", "[WORKER_LOST]", ""]
    assert rows[0].n_clusters == 6
    assert always.read_text() == "7", "two tries, not more"


@pytest.mark.usefixtures("ray_here")
def test_a_row_is_not_there_before_its_points(toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path) -> None:
    """Where the points cannot be kept the row is not, either, so that the same command makes both once there is room."""
    job = LabJob(Path("unused"), tmp_path, choose_systems(["modulation-kmeans"]), 1, 6)
    (tmp_path / "points").write_text("in the way")
    with pytest.raises(ConfigError) as raised:
        run_systems(toy_songs(24), stream, job)
    assert raised.value.reason == "OUTPUT_NOT_WRITABLE"
    assert read_rows(tmp_path) == []
    (tmp_path / "points").unlink()
    assert run_systems(toy_songs(24), stream, job).n_kept == 0
    assert read_points(tmp_path, "modulation-kmeans") is not None


@pytest.mark.usefixtures("ray_here")
def test_points_that_are_lost_are_a_failed_row(toy_songs: ToySongs, stream: StreamConfig) -> None:
    """A row whose points are gone when they are to be kept says so, and the rows after it are made."""

    @ray.remote(max_retries=0)
    def lost() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Careless(Bench):
        asked: ClassVar[set[str]] = set()

        def points(self, trial: Trial) -> Any:
            if trial.system.name == "modulation-kmeans" and trial.system.name in self.asked:
                return lost.remote()
            self.asked.add(trial.system.name)
            return super().points(trial)

    songs = toy_songs(24)
    systems = [with_clusters(choose_systems(["modulation-kmeans"])[0], 4), system_of("mfcc")]
    trials = [plan_trial(system, 0, songs, "digest", stream) for system in systems]
    rows = {row.system: row.error for _, row, _ in Careless(songs, stream, None, trials).run(trials)}
    assert rows["mfcc"] == ""
    assert rows["modulation-kmeans"].endswith("[WORKER_LOST]")


@pytest.mark.usefixtures("ray_here")
def test_statistics_lost_with_a_worker_are_made_by_the_next_command(
    toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path
) -> None:
    """Workers that die over the songs' sound leave a table without statistics that does not count as the songs' own."""
    from deadly_parts import DeadlyPaths  # type: ignore[import-not-found]  # written by a fixture

    songs = toy_songs(8)
    paths = {place.recording: tmp_path / "a.wav" for place in songs.places}
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 48_000), 24_000)
    note_songs(tmp_path, songs, stream, SoundSource(DeadlyPaths(paths), 24_000), "digest")
    table = read_songs(tmp_path)
    assert table is not None
    assert table.statistics == {}
    assert not has_songs(tmp_path, "digest")
    note_songs(tmp_path, songs, stream, SoundSource(paths, 24_000), "digest")
    table = read_songs(tmp_path)
    assert table is not None
    assert "rms_db" in table.statistics
    assert has_songs(tmp_path, "digest")


@pytest.mark.usefixtures("ray_here")
def test_a_full_disk_ends_a_sweep_and_names_itself(toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path) -> None:
    """When rows cannot be written any more no further setting is tried, none is called lost, and what was written stays."""
    counted = part("deadly_parts:Counted", file=str(tmp_path / "tried"))
    system = System("counted", "", part("log-mel", n_frames=96), None, part("pca"), counted)
    sweep = Sweep(system, grid_settings({"clusterer.n_clusters": range(2, 22)}), 1)
    table, aside = tmp_path / "results.parquet", tmp_path / "aside"

    def fill(*_: object) -> None:
        if not aside.exists():
            table.rename(aside)
            table.mkdir()

    with pytest.raises(ConfigError) as raised:
        run_sweep(toy_songs(48), stream, sweep, tmp_path, fill)
    assert raised.value.reason == "OUTPUT_NOT_WRITABLE"
    assert len(set((tmp_path / "tried").read_text().splitlines())) < 20
    table.rmdir()
    aside.rename(table)
    assert [row.error for row in read_rows(tmp_path)] == [""]
    run = run_sweep(toy_songs(48), stream, replace(sweep, settings=sweep.settings[:4]), tmp_path)
    assert [row.error for row in run.rows] == [""] * 4


@contextmanager
def three_nodes() -> Iterator[Callable[[], None]]:
    """Hold a Ray cluster of three nodes, the head with what it takes for a GPU, and give what takes another one away."""
    if ray.is_initialized():
        ray.shutdown()
    # Without memory to give away the head gets nothing by chance.
    head = {"num_cpus": 1, "num_gpus": 1, "memory": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    other, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    try:
        with ray_session(cluster.address):
            yield lambda: cluster.remove_node(other, allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray has none here


def test_lost_node_costs_no_row(own_parts: None, toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path) -> None:  # noqa: ARG001
    """On a cluster a node that dies in the middle of the rows loses none of them: its work is done by the other."""
    removed: list[bool] = []
    with three_nodes() as remove:
        job = LabJob(Path("unused"), tmp_path, choose_systems(["modulation-kmeans"]), 4, 6)

        def lose(*_: object) -> None:
            if not removed:
                removed.append(True)
                remove()

        rows = run_systems(toy_songs(48), stream, job, lose).rows
    assert removed
    assert [row.error for row in rows] == [""] * 4
    assert read_rows(tmp_path) == list(rows)


def test_lost_node_costs_no_setting(own_parts: None, toy_songs: ToySongs, stream: StreamConfig, tmp_path: Path) -> None:  # noqa: ARG001
    """In a sweep, too, other nodes do what the lost one had begun; what only waits for it was not there."""
    removed: list[bool] = []
    with three_nodes() as remove:
        settings = grid_settings({"clusterer.n_clusters": range(2, 10)})

        def lose(*_: object) -> None:
            if not removed:
                removed.append(True)
                remove()

        sweep = Sweep(choose_systems(["modulation-kmeans"])[0], settings, 1)
        rows = run_sweep(toy_songs(48), stream, sweep, tmp_path, lose).rows
    assert removed
    assert [row.error for row in rows] == [""] * 8
    assert sorted(row.key for row in rows) == [row.key for row in read_rows(tmp_path)]


def test_clusterers_that_are_networks_get_the_gpu(
    own_parts: None,  # noqa: ARG001 - on the path of the nodes
    toy_songs: ToySongs,
    stream: StreamConfig,
    tmp_path: Path,
) -> None:
    """Where Ray has a GPU, a clusterer that is trained for epochs is given it, or its share of it, any other none."""
    given = {}
    with three_nodes():
        for name, rows_per_gpu in (("Trained", 1), ("Trained", 4), ("Counted", 1)):
            file = tmp_path / f"{name}-{rows_per_gpu}"
            clusterer = part(f"deadly_parts:{name}", file=str(file))
            system = System(name, "", part("log-mel", n_frames=96), None, part("pca"), clusterer)
            job = LabJob(Path("unused"), tmp_path / f"{file.name}-out", [system], 1, rows_per_gpu=rows_per_gpu)
            (row,) = run_systems(toy_songs(48), stream, job).rows
            assert row.error == ""
            given[file.name] = file.read_text().splitlines()[0]
    assert given == {"Trained-1": "6 1.0", "Trained-4": "6 0.25", "Counted-1": "6 0"}
