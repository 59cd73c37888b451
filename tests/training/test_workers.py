"""Several workers of one training run: what they compute together, and that they never drift apart."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray

from ray_marks import ray_marks
from songcore.errors import ConfigError
from songcore.stream import StreamConfig
from songtrain import cluster
from songtrain.cluster import cores_per_worker, ray_session, store_room
from songtrain.datasets.songs import SongSet
from songtrain.loop.schedule import plan_epochs
from songtrain.loop.world import World
from songtrain.losses.contrastive import nt_xent
from songtrain.settings import TrainSettings

pytestmark = ray_marks(300)


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    """Hold one Ray of this machine for the tests of this file."""
    with ray_session(store_bytes=128 * 2**20):
        yield


def on_workers(n_workers: int, folder: Path, work: Callable[[World], Any]) -> list[Any]:
    """Return what ``work`` returns on each of several processes joined by torch.distributed."""

    def run(rank: int) -> Any:
        import torch as library

        library.set_num_threads(1)
        library.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=n_workers
        )
        try:
            return work(World(rank, n_workers))
        finally:
            library.distributed.destroy_process_group()

    # A process of its own each: a group is joined once per process.
    task: Any = ray.remote(num_cpus=1, max_calls=1)(run)
    return list(ray.get([task.remote(rank) for rank in range(n_workers)]))


def test_gathered_batch_has_the_gradient_of_one_worker(tmp_path: Path) -> None:
    """The contrastive loss of two workers' halves, gradients averaged, moves a layer as the whole batch on one worker does."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 8, 5)).astype(np.float32)
    weight = rng.normal(size=(5, 3)).astype(np.float32)
    songs = np.array([0, 1, 2, 3, 1, 5, 6, 7])

    def gradient(world: World) -> tuple[float, NDArray[np.float32]]:
        layer = torch.tensor(weight, requires_grad=True)
        mine = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
        every = world.gather_batch(songs[mine])
        same = torch.from_numpy(every[:, None] == every)
        one, other = (world.gather_outputs(torch.from_numpy(view[mine]) @ layer) for view in rows)
        loss = nt_xent(one, other, 0.2, same)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        world.average_gradients([layer])
        assert layer.grad is not None
        return float(loss.detach()), layer.grad.numpy()

    alone = gradient(World())
    for loss, moved in on_workers(2, tmp_path, gradient):
        assert loss == pytest.approx(alone[0], rel=1e-6)
        assert np.allclose(moved, alone[1], atol=1e-6)


def test_workers_gather_and_agree(tmp_path: Path) -> None:
    """Rows come back in order, the first worker's numbers reach all, buffers become their mean and totals their sum."""

    def work(world: World) -> tuple[Any, ...]:
        rows = np.arange(14, dtype=np.float32).reshape(7, 2)
        layer = torch.nn.BatchNorm1d(2)
        assert layer.running_mean is not None
        layer.running_mean.fill_(world.rank)
        world.average_buffers(layer)
        first = world.from_first(np.full(2, 10.5 + world.rank, np.float32))
        return world.gather_rows(rows[world.share(7)], 7), first, layer.running_mean.tolist(), world.total(2.0, 3)

    for rows, first, mean, total in on_workers(2, tmp_path, work):
        assert np.array_equal(rows, np.arange(14).reshape(7, 2))
        assert first.dtype == np.float32
        assert first.tolist() == [10.5, 10.5]
        assert mean == [0.5, 0.5]
        assert total == [4.0, 6.0]


def test_two_workers_end_with_equal_weights_and_labels(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig, tmp_path: Path
) -> None:
    """After warm-up and a round, weights, batch statistics, proxies and labels are bit-equal, and every song was seen."""
    songs = toy_songs(96)

    def work(world: World) -> tuple[dict[str, NDArray[Any]], int]:
        from torch.nn.parallel import DistributedDataParallel

        from songtrain.loop.learner import Learner

        learner = Learner(
            songs,
            tiny,
            stream,
            device=torch.device("cpu"),
            world=world,
            wrap=lambda network: DistributedDataParallel(network, broadcast_buffers=False),
        )
        results = [learner.run_epoch(epoch) for epoch in plan_epochs(tiny)]
        state = learner.state()
        arrays = {name: tensor.numpy() for name, tensor in state["network"].items()}
        arrays |= {name: state[name].numpy() for name in ("proxies", "labels", "neighbours")}
        return arrays, results[0].n_songs

    (one, n_one), (other, n_other) = on_workers(2, tmp_path, work)
    assert n_one == n_other == 96
    assert one["labels"].max() >= 1
    assert one.keys() == other.keys()
    assert [name for name, array in one.items() if not np.array_equal(array, other[name])] == []


def test_workers_that_fit_no_node_are_refused() -> None:
    """More cores than a node has, or more workers than the nodes have cores, are an error and no endless wait."""
    n_cores = cores_per_worker(1)
    assert cores_per_worker(n_cores) == 1
    for n_workers, asked in [(1, n_cores + 1), (n_cores + 1, None), (n_cores, 2)]:
        with pytest.raises(ConfigError, match="do not fit") as caught:
            cores_per_worker(n_workers, asked)
        assert caught.value.reason == "WORKERS_DO_NOT_FIT"


@pytest.mark.parametrize(
    ("free", "shared", "store"),
    [(40, 60, 10), (40, 6, 3), (1, 60, 0.5), (40, None, 0.5)],
)
def test_the_store_of_shared_objects_goes_by_what_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, shared: float | None, store: float
) -> None:
    """In GiB: a quarter of the free memory, no more than half of what can be shared, half a gigabyte at least."""
    monkeypatch.setattr(cluster, "estimate_available_memory", lambda: round(free * 2**30))
    monkeypatch.setattr(cluster, "SHARED_MEMORY", tmp_path if shared is not None else tmp_path / "absent")
    usage = SimpleNamespace(free=round((shared or 0) * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert store_room() == store * 2**30
