"""What a network learns is the same whether its steps are replayed or not."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from songtrain.methods.fitting import usual_size
from songtrain.methods.pseudo_labels import uniform_batches
from songtrain.methods.replay import replayed

# torch warns of the first product in a thread of its own that works backwards.
pytestmark = pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@pytest.mark.parametrize("n_songs", [5, 31, 500, 600, 1000, 4000, 11_000])
@pytest.mark.parametrize("batch_size", [32, 64])
def test_the_recorded_size_is_that_of_most_batches(n_songs: int, batch_size: int) -> None:
    """However songs are divided: otherwise a graph would be recorded and hardly ever replayed."""
    labels = np.arange(n_songs) % 3
    sizes = Counter(len(batch) for batch in uniform_batches(labels, batch_size, np.random.default_rng(0)))
    assert sizes[usual_size(n_songs, batch_size)] >= sum(sizes.values()) / 2


def small_network(device: str) -> nn.Module:
    """Return a network with running statistics, which a recording must not disturb."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).to(device)


def test_a_processor_runs_the_network_itself() -> None:
    """There is nothing to record on a processor."""
    network = small_network("cpu")
    assert replayed(network, torch.rand(8, 4, 6)) is network


@needs_gpu
def test_replays_give_what_the_network_gives() -> None:
    """Outputs, gradients and running statistics of replays are those of plain calls, also for a batch of another size."""
    plain, recorded = small_network("cuda"), small_network("cuda")
    images = torch.rand(8, 4, 6, device="cuda")
    call = replayed(recorded, images)
    for batch in (images, images.flip(0) * 2, images[:5]):
        expected, found = plain(batch), call(batch)
        torch.testing.assert_close(found, expected)
        for network, output in ((plain, expected), (recorded, found)):
            network.zero_grad(set_to_none=True)
            output.square().sum().backward()
        for one, other in zip(plain.parameters(), recorded.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(recorded.get_buffer(name), buffer, msg=name)


@needs_gpu
def test_replays_follow_the_weights() -> None:
    """A replay computes with the weights as they are now."""
    network = small_network("cuda")
    images = torch.rand(8, 4, 6, device="cuda")
    call = replayed(network, images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad(set_to_none=True)
        loss = call(images).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
