"""The training loop on Ray Train: one worker or several, checkpointed as it goes, resumed after a lost worker or driver."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from time import perf_counter, process_time
from types import MappingProxyType
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, prepare_model
from torch import Tensor, nn

from songcore.arrays import IntArray
from songcore.errors import ConfigError, SongError
from songcore.stream import StreamConfig
from songtrain.cluster import cores_per_worker, posted_events
from songtrain.datasets.songs import SongSet
from songtrain.encoders.build import build_encoder
from songtrain.encoders.efficientnet import EfficientNetEncoder
from songtrain.encoders.light import LightEncoder
from songtrain.encoders.network import SongNetwork
from songtrain.evaluation.collapse import CollapseError
from songtrain.loop.checkpoint import load_state, mend_list, save_state
from songtrain.loop.learner import Learner
from songtrain.loop.schedule import plan_epochs
from songtrain.loop.world import World
from songtrain.settings import TrainSettings

__all__ = ["TrainedEncoder", "train_encoder"]


@dataclass(frozen=True)
class TrainedEncoder:
    """What training leaves."""

    encoder: LightEncoder | EfficientNetEncoder
    """On the CPU, in evaluation mode."""
    labels: IntArray
    """(n_rounds, n_songs) core labels of every round."""
    history: tuple[dict[str, Any], ...]
    """One row per epoch."""


def train_encoder(
    songs: SongSet,
    settings: TrainSettings,
    stream: StreamConfig,
    work: Path,
    *,
    use_gpu: bool = False,
    start: Mapping[str, Tensor] = MappingProxyType({}),
    on_event: Callable[[dict[str, Any]], None] = lambda _: None,
) -> TrainedEncoder:
    """Train on these songs; needs a Ray connection. The same call after a kill goes on where the last checkpoint was.

    ``start`` are the weights that the encoder has before the first epoch, random ones if not given; ``on_event`` gets a dict
    per epoch as it ends. Raises CollapseError when training loses what tells songs apart.
    """
    run = settings.run
    threads = cores_per_worker(run.n_workers, run.threads_per_worker)
    checkpoints, name = work.absolute() / "checkpoints", _run_name(songs, settings, stream, start)
    mend_list(checkpoints / name, ray.__version__)
    with posted_events(on_event) as board:
        config = {
            "settings": settings.model_dump_json(),
            "songs": ray.put(songs),
            "stream": stream,
            "start": ray.put(dict(start)),
            "threads": threads,
            "use_gpu": use_gpu,
            "board": board,
        }
        trainer = TorchTrainer(
            _train_worker,  # type: ignore[arg-type]  # Ray's annotations know of no value that is returned
            train_loop_config=config,
            # GPUs compare gradients by NCCL; what the loop itself gathers lies in main memory.
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                # With fewer nodes than before the run goes on with the workers that there is room for.
                num_workers=(1, run.n_workers) if run.n_workers > 1 else 1,  # type: ignore[arg-type]  # its dataclass's base
                use_gpu=use_gpu,
                resources_per_worker={"CPU": threads},
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(checkpoints),
                failure_config=FailureConfig(max_failures=run.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise _workers_lost(error, run.max_failures) from error
    failure: dict[str, str] | None = result.return_value  # type: ignore[attr-defined]  # as above
    if failure:
        raise CollapseError(failure["message"], reason=failure["reason"])
    if result.checkpoint is None:
        raise CollapseError(
            "training ended without a checkpoint; this is a fault of songstream", reason="NO_CHECKPOINT"
        )
    with result.checkpoint.as_directory() as folder:
        return _load_trained(Path(folder), settings, stream.frontend.n_mels)


def _workers_lost(error: TrainingFailedError, max_failures: int) -> ConfigError:
    # Ray's text ends with the worker's traceback.
    last = " ".join(str(error).split())[-300:]
    return ConfigError(
        f"training workers failed more than {max_failures} times, at last with: {last}; look after memory and nodes, then "
        "give the same command again: it goes on from the last checkpoint",
        reason="WORKERS_LOST",
    )


def _train_worker(config: dict[str, Any]) -> dict[str, str] | None:
    """Train, and return why that cannot succeed if so: a run that is not to be tried again.

    Returned and not reported, since Ray forgets a report without a checkpoint and would hand out the last one as the result.
    """
    try:
        _learn(config)
    except SongError as error:
        return {"reason": error.reason, "message": str(error)}
    return None


def _learn(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    settings = TrainSettings.model_validate_json(config["settings"])
    device = torch.device("cuda" if config["use_gpu"] else "cpu")
    learner = Learner(
        ray.get(config["songs"]),
        settings,
        config["stream"],
        device=device,
        world=world,
        wrap=_distribute if world.size > 1 else lambda network: network,
    )
    if start := ray.get(config["start"]):
        learner.network.encoder.load_state_dict(start)
    history = _resume(learner)
    epochs = plan_epochs(settings)
    saved_at = perf_counter()
    for epoch in epochs[len(history) :]:
        begin = perf_counter()
        result = learner.run_epoch(epoch)
        where = {"stage": epoch.stage, "round": epoch.round, "pid": os.getpid()}
        row = {**where, "n_workers": world.size, **asdict(result), "seconds": perf_counter() - begin}
        history.append(row)
        # Ray takes reports every half second: on a GPU short epochs would wait for it longer than they take.
        due = perf_counter() - saved_at >= settings.run.checkpoint_every_s or len(history) == len(epochs)
        if world.from_first(np.array([due]))[0]:  # all workers report, or none
            _report(learner, history, world)
            saved_at = perf_counter()
        if world.rank == 0:
            # Waited for, so that a run that is killed next has told what it did.
            clocks = {"ended_at": perf_counter(), "worked_s": process_time()}
            ray.get(config["board"].post.remote({"epoch": epoch.index, **clocks, **row}))


def _distribute(network: nn.Module) -> nn.Module:
    """Return the network with its gradients averaged over the workers; statistics of batches the loop averages itself."""
    return prepare_model(network, parallel_strategy_kwargs={"broadcast_buffers": False})


def _resume(learner: Learner) -> list[dict[str, Any]]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        state, history = load_state(Path(folder))
    learner.restore(state)
    return history


def _report(learner: Learner, history: list[dict[str, Any]], world: World) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if world.rank == 0:
            save_state(Path(folder), learner.state(), history)
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report({"epoch": len(history), "loss": history[-1]["loss"]}, checkpoint=checkpoint)


def _load_trained(folder: Path, settings: TrainSettings, n_mels: int) -> TrainedEncoder:
    state, history = load_state(folder)
    network = SongNetwork(build_encoder(settings.encoder, n_mels))
    network.load_state_dict(state["network"])
    network.encoder.eval()
    return TrainedEncoder(network.encoder, state["labels"].numpy(), tuple(history))


def _run_name(songs: SongSet, settings: TrainSettings, stream: StreamConfig, start: Mapping[str, Tensor]) -> str:
    """Name of a run: another one for other songs or parameters, so that no foreign checkpoint is taken up.

    Workers, their threads and how often they write checkpoints are not among these: a run may go on with others.
    """
    digest = blake2b(digest_size=8)
    run = settings.run.model_copy(
        update={"n_workers": 1, "threads_per_worker": None, "max_failures": 0, "checkpoint_every_s": 0.0}
    )
    training = settings.model_copy(update={"name": "songs", "run": run})
    digest.update(training.model_dump_json().encode() + stream.fingerprint())
    digest.update(songs.lengths.tobytes())
    for array in (songs.frames, songs.background):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name, tensor in start.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return f"run-{digest.hexdigest()}"
