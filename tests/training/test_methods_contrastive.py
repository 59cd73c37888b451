"""Networks that learn from two views: losses against their papers, the target that follows, and training on toy songs."""

import math
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import nn

from songcore.arrays import FloatArray
from songcore.errors import ConfigError, InputError
from songtrain.datasets.songs import SongSet
from songtrain.encoders.convolution import ConvolutionEncoder, RunningNorm
from songtrain.encoders.images import EncoderName, ImageEncoder
from songtrain.lab.features import LogMelImage
from songtrain.losses.bootstrap import follow, regression_loss
from songtrain.losses.contrastive_clusters import column_loss, size_entropy_gap
from songtrain.methods.bootstrap import BYOLA
from songtrain.methods.contrastive import ContrastiveClustering, SimCLR

N_TYPES = 4


@pytest.fixture
def images(toy_songs: Callable[..., SongSet]) -> FloatArray:
    """Return images of 48 toy songs of four types, in turn."""
    found: FloatArray = LogMelImage().fit_transform(toy_songs(48, N_TYPES).all_features())
    return found


def agreement(points: FloatArray) -> float:
    """Return the ARI of k-means on the points with the toy songs' types."""
    found = KMeans(N_TYPES, n_init=3, random_state=0).fit_predict(points)
    return float(adjusted_rand_score(np.arange(len(points)) % N_TYPES, found))


def methods(n_epochs: int = 4) -> list[BaseEstimator]:
    """Return the three methods, with the light encoder."""
    return [
        SimCLR("light", n_epochs=n_epochs, batch_size=16),
        BYOLA("light", n_epochs=n_epochs, batch_size=16, learning_rate=1e-3),
        ContrastiveClustering(n_clusters=N_TYPES, output="codes", n_epochs=n_epochs, batch_size=16),
    ]


def naive_column_loss(first: FloatArray, second: FloatArray, temperature: float) -> float:
    """Equations 5 to 7 of contrastive clustering, one pair of clusters at a time, in numpy."""
    columns = np.concatenate([first.T, second.T]).astype(np.float64)
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    k = first.shape[1]
    total = 0.0
    for i in range(2 * k):
        similar = np.exp(columns @ columns[i] / temperature)
        total -= math.log(similar[(i + k) % (2 * k)] / (similar.sum() - similar[i]))
    sizes = [shares.mean(axis=0) for shares in (first, second)]
    return float(total / (2 * k) + sum(math.log(k) + (p * np.log(p)).sum() for p in sizes))


def test_column_loss_is_that_of_the_paper() -> None:
    """The loss on columns equals a loop over clusters, plus how far the sizes' entropy is from its maximum."""
    first, second = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).softmax(1), torch.rand(20, 5)
    second = second / second.sum(dim=1, keepdim=True)
    for temperature in (1.0, 0.5):
        expected = naive_column_loss(first.numpy(), second.numpy(), temperature)
        assert float(column_loss(first, second, temperature)) == pytest.approx(expected, abs=1e-5)


def test_entropy_term_rewards_clusters_of_one_size() -> None:
    """Equal clusters cost nothing, one cluster for all costs log K, and its gradient is finite there."""
    equal, one = torch.eye(6), torch.eye(6)[:1].repeat(6, 1).requires_grad_()
    assert float(size_entropy_gap(equal)) == pytest.approx(0, abs=1e-6)
    gap = size_entropy_gap(one)
    assert float(gap.detach()) == pytest.approx(math.log(6), abs=1e-5)
    gap.backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert one.grad is not None
    assert torch.isfinite(one.grad).all()


def test_regression_loss_is_a_distance_of_directions() -> None:
    """Same, perpendicular and opposite directions cost 0, 2 and 4 whatever the lengths; the target has no gradient."""
    prediction = torch.tensor([[2.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[5.0, 0.0], [0.0, 0.1], [-3.0, 0.0]], requires_grad=True)
    for target, cost in zip(targets, (0.0, 2.0, 4.0), strict=True):
        assert float(regression_loss(prediction, target[None]).detach()) == pytest.approx(cost, abs=1e-6)
    regression_loss(prediction, targets[1:2]).backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert targets.grad is None


def test_target_follows_exactly() -> None:
    """After n steps towards a network that stands still the target is at decay^n of the old distance."""
    torch.manual_seed(0)
    online, target = nn.Linear(4, 3), nn.Linear(4, 3)
    before = deepcopy(target)
    for _ in range(5):
        follow(target, online, 0.9)
    for now, old, goal in zip(target.parameters(), before.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(now, goal + 0.9**5 * (old - goal))


def test_running_norm_is_that_of_all_values_seen() -> None:
    """After batches of several sizes images are normalised by mean and deviation of all their values, and of no others."""
    rng = np.random.default_rng(0)
    batches = [torch.from_numpy(rng.gamma(2, 3, (n, 5, 7))) for n in (3, 8, 1)]
    norm = RunningNorm()
    assert torch.equal(norm.eval()(batches[0]), batches[0])
    norm.train()
    for batch in batches:
        norm(batch)
    norm.eval()
    seen = torch.cat(batches)
    for image in (batches[0], 10 * batches[1]):
        torch.testing.assert_close(norm(image), (image - seen.mean()) / seen.std(correction=0))


@pytest.mark.parametrize("name", ["light", "conv", "resnet-18", "efficientnet-b0"])
@pytest.mark.parametrize("size", [(8, 64), (70, 20)])
def test_networks_take_images_of_any_size(name: EncoderName, size: tuple[int, int]) -> None:
    """A syllable of eight frames and twenty cepstra pass through every network and back."""
    first = None
    for _ in range(3):
        torch.manual_seed(0)
        encoder = ImageEncoder(name, size[1])
        codes = encoder(torch.rand(3, *size))
        assert first is None or torch.equal(codes, first)
        first = codes
    assert codes.shape == (3, encoder.n_features)
    codes.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_convolutions_of_any_width_pass_back() -> None:
    """Widths that torch's channels-last convolutions crash on are kept contiguous."""
    for width in (4, 16):
        encoder = ConvolutionEncoder(16, width=width, n_features=8)
        encoder(torch.rand(2, 1, 16, 40)).sum().backward()
        assert (encoder.memory_format == torch.channels_last) == (width == 16)


def test_resnet_50_has_the_size_of_its_paper() -> None:
    """ResNet-18 and -50 have 11.2 and 23.5 million parameters without their classifier, and one channel."""
    for name, millions, n_features in (("resnet-18", 11.2, 512), ("resnet-50", 23.5, 2048)):
        encoder = ImageEncoder(name, 64)  # type: ignore[arg-type]  # one of the names
        assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
        assert encoder.n_features == n_features


@pytest.mark.parametrize("number", range(3))
def test_training_lowers_the_loss_and_keeps_types_apart(number: int, images: FloatArray) -> None:
    """A few epochs lower the loss of every finished epoch's history, and k-means on the codes finds the toy types."""
    method = methods()[number].fit(images)
    losses = [epoch["loss"] for epoch in method.history_]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.05
    assert agreement(method.transform(images)) > 0.5


@pytest.mark.parametrize("number", range(3))
def test_same_seed_same_codes_and_time_ends_training(number: int, images: FloatArray) -> None:
    """The seed decides everything and torch's own generator is left alone; without time there is no epoch, but codes."""
    method, images = methods(n_epochs=1)[number], images[:16]
    state = torch.get_rng_state()
    first, again = clone(method).fit_transform(images), clone(method).fit_transform(images)
    assert np.array_equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert not np.allclose(first, clone(method).set_params(random_state=1).fit_transform(images))
    late = clone(method).set_params(n_epochs=10_000, max_minutes=1e-9).fit(images)
    assert late.history_ == []
    assert np.isfinite(late.transform(images)).all()
    assert clone(method).get_params() == method.get_params()


def test_contrastive_clustering_gives_shares_of_clusters(images: FloatArray) -> None:
    """Every song's shares add up to one, and the largest of them finds toy types better than chance."""
    shares = ContrastiveClustering(n_clusters=N_TYPES, n_epochs=8, batch_size=16, learning_rate=1e-3).fit_transform(
        images
    )
    assert shares.shape == (48, N_TYPES)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert adjusted_rand_score(np.arange(48) % N_TYPES, shares.argmax(axis=1)) > 0.3


def test_bad_input_is_named(images: FloatArray) -> None:
    """Too few songs, equal songs, NaN, no images and an unknown network are refused before any training."""
    for wrong, reason in (
        (images[:1], "TOO_FEW_SONGS"),
        (np.repeat(images[:1], 5, axis=0), "SONGS_EQUAL"),
        (np.full((4, 8, 8), np.nan, np.float32), "NOT_FINITE"),
        (images.reshape(48, -1), "NO_IMAGES"),
    ):
        with pytest.raises(InputError) as raised:
            SimCLR("light").fit(wrong)
        assert raised.value.reason == reason
    with pytest.raises(InputError, match="at least 64"):
        ContrastiveClustering().fit(images)
    with pytest.raises(ConfigError, match="resnet-50"):
        SimCLR("resnet-19").fit(images)  # type: ignore[arg-type]  # what is tested
