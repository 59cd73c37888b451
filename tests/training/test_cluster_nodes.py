"""A Ray cluster of several nodes, as processes of this machine: it gives what one machine gives, also when a node is lost."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from pyarrow import Table
from ray.cluster_utils import Cluster

from bundles import make_test_bundle
from ray_marks import ray_marks
from songcore.features import FeatureConfig
from songcore.presets import PRESETS
from songcore.stream import StreamConfig
from songtrain.archive.clusters import _assign, neighbours_of_shard
from songtrain.archive.run import ArchiveJob, cluster_archive
from songtrain.archive.tasks import on_cluster
from songtrain.cluster import ray_session
from songtrain.datasets.distributed import extract_features
from songtrain.datasets.folder import scan_folder
from songtrain.datasets.songs import SongSet
from songtrain.lab.run import LabJob, run_laboratory
from songtrain.lab.systems import choose_systems
from songtrain.loop.distributed import TrainedEncoder, train_encoder
from songtrain.settings import TrainSettings
from songtrain.synth.config import season_config
from songtrain.synth.write import simulate

pytestmark = ray_marks(600)

STREAM = StreamConfig(*PRESETS["song"], FeatureConfig())
SYSTEMS = choose_systems(["classical-floor", "basenet-kmeans"])
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@dataclass
class Nodes:
    """A head without cores, where this process is, and two nodes of one core each that do the work."""

    cluster: Cluster

    def raylets(self) -> dict[int, Any]:
        """Return the working nodes by the process id of their raylet."""
        return {node.all_processes["raylet"][0].process.pid: node for node in self.cluster.worker_nodes}

    def refill(self) -> None:
        """Bring the working nodes to two."""
        while len(self.cluster.worker_nodes) < 2:
            self.cluster.add_node(**NODE)  # type: ignore[arg-type]  # its keywords are a node's
        self.cluster.wait_for_nodes()

    def kill(self, worker: int | None = None) -> None:
        """SIGKILL all processes of a working node: the one that the worker with this process id is on, or any."""
        raylets = self.raylets()
        pid = min(raylets) if worker is None else _parent(worker)
        self.cluster.remove_node(raylets[pid], allow_graceful=False)

    def kill_once(self) -> Callable[..., None]:
        """Return a callback that kills a node when it is first called, whatever with."""
        calls: list[None] = []

        def call(*_: object) -> None:
            if not calls:
                calls.append(None)
                self.kill()

        return call


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small simulated season."""
    folder = tmp_path_factory.mktemp("season")
    simulate(season_config("demo", n_songs=40, n_types=4, n_singers=2, recording_s=20.0, snr_db=(20.0, 30.0)), folder)
    return folder


@dataclass(frozen=True)
class OneMachine:
    """What one machine alone gives."""

    songs: SongSet
    trained: TrainedEncoder
    labels: list[tuple[int, ...]]
    table: Table
    dense: Table
    """As ``table``, of clusters found by density."""
    archive: ArchiveJob


@pytest.fixture(scope="module")
def alone(season: Path, toy_songs: Callable[..., SongSet], tmp_path_factory: pytest.TempPathFactory) -> OneMachine:
    """Run everything once without a cluster."""
    folder = tmp_path_factory.mktemp("alone")
    make_test_bundle(folder / "bundle")
    with ray_session(store_bytes=128 * 2**20):
        features = extract_features(scan_folder(season).recordings, STREAM, folder / "features")
        trained = train_encoder(toy_songs(96), epochs(1), STREAM, folder / "work")
        lab = run_laboratory(LabJob(season, folder / "lab", SYSTEMS, 3, n_clusters=8))
        archive = ArchiveJob(season, folder / "bundle", folder / "archive", n_clusters=3, per_shard=1)
        table = pq.read_table(cluster_archive(archive)["table"])
        dense = pq.read_table(cluster_archive(replace(archive, n_clusters=None, min_songs=2))["table"])
    labels = [row.labels for row in lab.rows]
    return OneMachine(features.songs, trained, labels, table, dense, archive)


@pytest.fixture(scope="module")
def all_nodes(alone: OneMachine) -> Iterator[Nodes]:
    """Start the cluster, on ports of its own."""
    # After the machine alone: there Ray decides on its authentication, for this process and the nodes it starts.
    assert alone.songs
    head = {
        **NODE,
        "num_cpus": 0,
        "include_dashboard": False,
        # A node that says nothing for two seconds is lost; by default it takes half a minute.
        "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 5},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield Nodes(cluster)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray has none here


@pytest.fixture
def nodes(all_nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Return the cluster with both of its working nodes."""
    # Ray Train may count a lost node for a while, and waits a minute for a worker there before it counts again.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    all_nodes.refill()
    return all_nodes


def test_features_with_a_node_lost_are_those_of_one_machine(
    nodes: Nodes, alone: OneMachine, season: Path, tmp_path: Path
) -> None:
    """A node killed after the first recording changes no frame, and no recording is missing."""
    with ray_session(nodes.cluster.address):
        run = extract_features(scan_folder(season).recordings, STREAM, tmp_path, on_recording=nodes.kill_once())
    assert len(nodes.cluster.worker_nodes) == 1
    assert run.skipped == ()
    assert run.songs.places == alone.songs.places
    assert np.array_equal(run.songs.frames, alone.songs.frames)


def test_training_on_a_lost_node_goes_on_and_ends_the_same(
    nodes: Nodes, alone: OneMachine, toy_songs: Callable[..., SongSet], tmp_path: Path
) -> None:
    """One worker whose node is killed after the second epoch goes on at the other; weights and labels are as without."""
    with ray_session(nodes.cluster.address):
        lost = train_encoder(toy_songs(96), epochs(1), STREAM, tmp_path, on_event=kill_host(nodes))
    assert len(nodes.cluster.worker_nodes) == 1
    assert len({row["pid"] for row in lost.history}) == 2
    assert np.array_equal(lost.labels, alone.trained.labels)
    mine, theirs = lost.encoder.state_dict(), alone.trained.encoder.state_dict()
    assert [name for name, tensor in mine.items() if not torch.equal(tensor, theirs[name])] == []


def test_two_workers_become_one_when_a_node_is_lost(
    nodes: Nodes, toy_songs: Callable[..., SongSet], tmp_path: Path
) -> None:
    """A node killed under two workers leaves the run to one, which takes up the checkpoint and ends all epochs."""
    with ray_session(nodes.cluster.address):
        forget_node_count()
        trained = train_encoder(toy_songs(96), epochs(2), STREAM, tmp_path, on_event=kill_host(nodes))
    n_workers = [row["n_workers"] for row in trained.history]
    # The checkpoint of the second epoch may still be on its way when the node is killed.
    assert n_workers[0] == 2
    assert n_workers[-1] == 1
    assert len(n_workers) == 5
    assert {row["n_songs"] for row in trained.history} == {96}


def test_laboratory_with_a_node_lost_gives_the_same_rows(
    nodes: Nodes, alone: OneMachine, season: Path, tmp_path: Path
) -> None:
    """A node killed after the first row: all rows are there, without an error, with the labels of one machine."""
    run = run_laboratory(
        LabJob(season, tmp_path, SYSTEMS, 3, n_clusters=8, address=nodes.cluster.address), nodes.kill_once()
    )
    assert len(nodes.cluster.worker_nodes) == 1
    assert [row.error for row in run.rows] == [""] * 6
    assert [row.labels for row in run.rows] == alone.labels


def test_archive_with_a_node_lost_gives_the_same_table(
    nodes: Nodes, alone: OneMachine, season: Path, tmp_path: Path
) -> None:
    """A node killed after the first shard: the table is that of one machine."""
    job = replace(alone.archive, out=tmp_path, address=nodes.cluster.address)
    kill, n_shards = nodes.kill_once(), len(scan_folder(season).recordings)
    done = cluster_archive(job, lambda n_done, _: kill() if 0 < n_done < n_shards else None)
    assert len(nodes.cluster.worker_nodes) == 1
    assert pq.read_table(done["table"]).equals(alone.table)


@pytest.mark.parametrize(
    ("stage", "changes"), [(_assign, {}), (neighbours_of_shard, {"n_clusters": None, "min_songs": 2})]
)
def test_archive_whose_node_is_lost_while_it_clusters_gives_the_same_table(
    stage: Callable[..., Any],
    changes: dict[str, Any],
    nodes: Nodes,
    alone: OneMachine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node killed while it looks for a shard's clusters, or neighbours: they are found where there is a node."""
    worker = tmp_path / "worker"

    def losing(work: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[tuple[int, Any]]:
        return on_cluster(waiting_once(work, worker) if work is stage else work, *arguments, **options)

    monkeypatch.setattr("songtrain.archive.clusters.on_cluster", losing)
    out = shutil.copytree(alone.archive.out, tmp_path / "archive")
    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(lambda: nodes.kill(process_in(worker)))
        done = cluster_archive(replace(alone.archive, out=out, address=nodes.cluster.address, **changes))
        killed.result()
    assert len(nodes.cluster.worker_nodes) == 1
    assert pq.read_table(done["table"]).equals(alone.dense if changes else alone.table)
    assert done["n_clusters"] > 1


def waiting_once(work: Callable[..., Any], worker: Path) -> Callable[..., Any]:
    """Return the same work, but that who is the first to do it writes its process id and waits to be killed."""

    # A function within a function goes to workers whole; this module they could not import.
    def wait_once(*arguments: Any) -> Any:
        try:
            with worker.open("x", encoding="ascii") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return work(*arguments)
        sleep(120)
        return None

    return wait_once


def process_in(worker: Path) -> int:
    """Return the process id that the file has once it is there."""
    deadline = monotonic() + 120
    while not (worker.exists() and worker.read_text(encoding="ascii")):
        assert monotonic() < deadline, "nobody works"
        sleep(0.05)
    return int(worker.read_text(encoding="ascii"))


def epochs(n_workers: int) -> TrainSettings:
    """Return parameters of a run of five short epochs."""
    return TrainSettings.model_validate(
        {
            "encoder": {"width": 4, "n_features": 32, "dimension": 16},
            "warmup": {"n_epochs": 4, "neighbours_from_epoch": 1},
            "rounds": {"n_rounds": 1, "n_epochs": 1},
            "run": {
                "batch_size": 32,
                "precision": "float32",
                "n_workers": n_workers,
                "threads_per_worker": 1,
                "checkpoint_every_s": 0,
            },
        }
    )


def kill_host(nodes: Nodes) -> Callable[[dict[str, Any]], None]:
    """Return a callback that kills the node of the first worker after the second epoch, once."""

    def call(event: dict[str, Any]) -> None:
        if event["epoch"] == 1 and len(nodes.cluster.worker_nodes) == 2:
            nodes.kill(event["pid"])

    return call


def forget_node_count() -> None:
    """End the actor that counts the nodes for Ray Train, once in 20 s: it may know but the one that an earlier test left."""
    try:
        counter = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
    except ValueError:
        return
    ray.kill(counter)


def _parent(pid: int) -> int:
    """Return the process that started this one: of a Ray worker, its node's raylet."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[1])
