"""The loop on one worker: epochs planned, batches complete, state resumable, collapse named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongSet
from songtrain.encoders.light import LightEncoder
from songtrain.evaluation.collapse import CollapseError
from songtrain.loop.batches import epoch_batches, mutual_neighbours, sampling_weights
from songtrain.loop.checkpoint import load_state, mend_list, save_state
from songtrain.loop.learner import Learner
from songtrain.loop.schedule import learning_rate, plan_epochs
from songtrain.loop.world import World
from songtrain.reducers.components import UnitComponents
from songtrain.settings import TrainSettings

SongMaker = Callable[..., SongSet]


def learner(songs: SongSet, settings: TrainSettings, stream: StreamConfig) -> Learner:
    """Return a learner alone on the CPU."""
    return Learner(songs, settings, stream, device=torch.device("cpu"), world=World())


def test_epochs_are_planned_in_order(tiny: TrainSettings) -> None:
    """The warm-up comes first, then every round, and indices count through."""
    epochs = plan_epochs(tiny)
    assert [(e.index, e.stage, e.round, e.opens_stage) for e in epochs] == [
        (0, "warmup", 0, True),
        (1, "warmup", 0, False),
        (2, "round", 1, True),
    ]


def test_learning_rate_rises_then_falls_to_zero() -> None:
    """The rate peaks after the rise and ends near zero."""
    rates = [learning_rate(1.0, progress) for progress in np.linspace(0, 0.999, 200)]
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[0] < 0.1
    assert rates[-1] < 1e-3


@pytest.mark.parametrize(("n", "batch_size"), [(97, 16), (5, 64), (64, 64), (1000, 128)])
def test_every_song_is_in_one_batch(n: int, batch_size: int) -> None:
    """Without weights the batches of an epoch hold every song once, and no batch is far from the size asked for."""
    batches = epoch_batches(np.arange(n), batch_size, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert max(map(len, batches)) <= 1.5 * batch_size


def test_workers_share_an_epoch_evenly() -> None:
    """Two workers with the same order get different songs and equally many batches."""
    first, second = (
        epoch_batches(np.arange(101), 16, np.random.default_rng(0), rank=rank, n_ranks=2) for rank in (0, 1)
    )
    assert len(first) == len(second)
    assert not set(np.concatenate(first).tolist()) & set(np.concatenate(second).tolist())


def test_sampling_follows_cluster_size_and_knows_gaps() -> None:
    """A song's weight is its cluster's size to the power -0.5; unused numbers and songs in no cluster do no harm."""
    weights = sampling_weights(np.array([0, 0, 0, 0, 7, -1]), 0.5)
    assert weights[:5] == pytest.approx([0.5] * 4 + [1])
    assert weights[5] == pytest.approx(weights[:5].mean())
    assert (sampling_weights(np.full(3, -1), 0.5) == 1).all()


def test_mutual_neighbours_are_mutual() -> None:
    """If b is listed for a then a is listed for b, and nobody is its own neighbour."""
    found = mutual_neighbours(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), 5)
    pairs = {(a, int(b)) for a, row in enumerate(found) for b in row if b >= 0}
    assert pairs
    assert all((b, a) in pairs and a != b for a, b in pairs)


def test_training_finds_toy_types(toy_songs: SongMaker, stream: StreamConfig, tiny: TrainSettings) -> None:
    """After two epochs of warm-up and a round the dense cores of six easy types are pure."""
    songs = toy_songs(120)
    run = learner(songs, tiny, stream)
    losses = [run.run_epoch(epoch).loss for epoch in plan_epochs(tiny)]
    assert np.isfinite(losses).all()
    core = run.labels[-1]
    assert (core >= 0).mean() > 0.5
    truth = np.arange(120) % 6
    purity = sum(np.bincount(truth[core == label]).max() for label in np.unique(core[core >= 0])) / (core >= 0).sum()
    assert purity > 0.9


def test_efficientnet_learns_songs(toy_songs: SongMaker, stream: StreamConfig, tiny: TrainSettings) -> None:
    """An epoch of warm-up with EfficientNet-B0 ends with a loss, changes its weights, and songs are not all alike to it."""
    encoder = tiny.encoder.model_copy(update={"name": "efficientnet-b0"})
    run = learner(toy_songs(24), tiny.model_copy(update={"encoder": encoder}), stream)
    before = {name: value.clone() for name, value in run.network.encoder.named_parameters()}
    assert np.isfinite(run.run_epoch(plan_epochs(tiny)[0]).loss)
    changed = [not torch.equal(before[name], value) for name, value in run.network.encoder.named_parameters()]
    assert np.mean(changed) > 0.9
    run.network.eval()
    with torch.inference_mode():
        found = run.network.encoder(run.store.plain(np.arange(24)))
    assert found.shape == (24, 32)
    assert float(found.std(dim=0).max()) > 0


def test_resumed_run_equals_an_uninterrupted_one(
    toy_songs: SongMaker, stream: StreamConfig, tiny: TrainSettings, tmp_path: Path
) -> None:
    """State written to disk after every epoch and restored into a fresh learner gives the same weights and labels."""
    songs, epochs = toy_songs(96), plan_epochs(tiny)
    whole = learner(songs, tiny, stream)
    for epoch in epochs:
        whole.run_epoch(epoch)
        drawn = torch.rand(3)
        resumed = learner(songs, tiny, stream)
        torch.rand(100)  # as other code of the process may
        if epoch.index:
            state, history = load_state(tmp_path)
            assert history == [{"loss": 1.5}]
            resumed.restore(state)
        result = resumed.run_epoch(epoch)
        assert torch.equal(torch.rand(3), drawn), "layers that draw by themselves, as dropout, draw the same"
        save_state(tmp_path, resumed.state(), [{"loss": 1.5}])
    assert np.isfinite(result.loss)
    for (name, expected), found in zip(
        whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True
    ):
        assert torch.allclose(expected, found, atol=1e-5), name
    assert (np.stack(whole.labels) == np.stack(resumed.labels)).all()


def test_a_list_of_checkpoints_is_mended_only_where_it_is_broken(
    toy_songs: SongMaker, stream: StreamConfig, tiny: TrainSettings, tmp_path: Path
) -> None:
    """It then names the newest whole one; without any it is taken away, so that the run begins anew."""
    file = tmp_path / "checkpoint_manager_snapshot.json"
    mend_list(tmp_path / "absent", "2.0")
    mend_list(tmp_path, "2.0")
    assert not file.exists()
    file.write_text("")
    mend_list(tmp_path, "2.0")
    assert not file.exists()
    state = learner(toy_songs(24), tiny, stream).state()
    for number in (1, 2, 3):
        (tmp_path / f"checkpoint_{number}").mkdir()
        save_state(tmp_path / f"checkpoint_{number}", state, [{"loss": 1.5}] * number)
    (tmp_path / "checkpoint_3" / "state.safetensors").write_bytes(b"half")
    file.write_text('{"checkpoint_results": [')
    mend_list(tmp_path, "2.0")
    mended = file.read_text()
    assert json.loads(mended)["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_2"
    assert json.loads(mended)["checkpoint_results"][0]["metrics"] == {"epoch": 2, "loss": 1.5}
    mend_list(tmp_path, "3.0")
    assert file.read_text() == mended
    shutil.rmtree(tmp_path / "checkpoint_2")
    mend_list(tmp_path, "3.0")
    assert json.loads(file.read_text())["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_1"


def test_a_resumed_run_keeps_its_number_format(
    toy_songs: SongMaker, stream: StreamConfig, tiny: TrainSettings, tmp_path: Path
) -> None:
    """What was quicker when the run began is kept, unless it goes on on another kind of device."""
    first, second = (learner(toy_songs(40), tiny, stream) for _ in range(2))
    first._use_bfloat16 = True
    save_state(tmp_path, first.state(), [])
    state, _ = load_state(tmp_path)
    second.restore(state | {"device": "cuda"})
    assert not second._use_bfloat16
    second.restore(state)
    assert second._use_bfloat16


def test_forced_collapse_ends_training_by_name(toy_songs: SongMaker, stream: StreamConfig, tiny: TrainSettings) -> None:
    """A network whose output no longer depends on the song raises CollapseError instead of going on."""
    run = learner(toy_songs(60), tiny, stream)
    with torch.no_grad():
        assert isinstance(run.network.encoder, LightEncoder)
        run.network.encoder.per_frame.weight.zero_()
        run.network.encoder.per_frame.bias.fill_(1.0)
    with pytest.raises(CollapseError) as raised:
        run.run_epoch(plan_epochs(tiny)[-1])
    assert raised.value.reason == "TRAINING_COLLAPSED"


def test_a_loss_that_is_no_number_ends_training_by_name(
    toy_songs: SongMaker, stream: StreamConfig, tiny: TrainSettings
) -> None:
    """A network that gives NaN raises CollapseError at the end of the epoch, by which all workers leave it."""
    run = learner(toy_songs(60), tiny, stream)
    with torch.no_grad():
        assert isinstance(run.network.encoder, LightEncoder)
        run.network.encoder.per_frame.bias.fill_(torch.nan)
    with pytest.raises(CollapseError, match="the loss of epoch 1 is nan") as raised:
        run.run_epoch(plan_epochs(tiny)[0])
    assert raised.value.reason == "TRAINING_DIVERGED"


def test_bfloat16_gives_nearly_the_same_embeddings(
    toy_songs: SongMaker, stream: StreamConfig, tiny: TrainSettings
) -> None:
    """The encoder under bfloat16 autocast names at least 99 % of songs as in float32."""
    songs = toy_songs(60)
    run = learner(songs, tiny, stream)
    for epoch in plan_epochs(tiny)[:2]:
        run.run_epoch(epoch)
    run.network.eval()
    plain = run.store.plain(np.arange(60))
    with torch.inference_mode():
        exact = run.network.encoder(plain).numpy()
        with torch.autocast("cpu", torch.bfloat16):
            rough = run.network.encoder(plain).float().numpy()
    # As served: songs that two epochs hardly tell apart differ little before they are centred.
    components = UnitComponents(16).fit(exact)
    exact, rough = components.transform(exact), components.transform(rough)
    centres = np.stack([exact[np.arange(60) % 6 == kind].mean(axis=0) for kind in range(6)])
    assert ((exact @ centres.T).argmax(1) == (rough @ centres.T).argmax(1)).mean() >= 0.99
