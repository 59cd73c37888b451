"""Networks that learn their own clusters: fair draws, fresh heads, an honest end, and training on toy songs."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Generator, Tensor
from torch.nn.functional import normalize

from songcore.arrays import FloatArray, IntArray
from songcore.errors import InputError
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongSet
from songtrain.encoders.efficientnet import EfficientNetEncoder
from songtrain.encoders.images import ImageEncoder
from songtrain.lab.features import LogMelImage
from songtrain.lab.options import with_parameters
from songtrain.lab.parts import describe
from songtrain.lab.systems import choose_systems
from songtrain.losses.heads import SoftmaxHead, random_arcface
from songtrain.methods.deep_cluster import DeepCluster, refilled_k_means
from songtrain.methods.fitting import encode, settle_norms
from songtrain.methods.nscnet import NSCNet, k_means_clusters
from songtrain.methods.pseudo_labels import (
    Convergence,
    PseudoLabelEncoder,
    clusters_of,
    in_order_of_songs,
    is_collapsed,
    uniform_batches,
)

N_TYPES = 4
LABELS = st.lists(st.integers(0, 9), min_size=2, max_size=80).map(np.array)


@pytest.fixture
def images(toy_songs: Callable[..., SongSet]) -> FloatArray:
    """Return images of 48 toy songs of four types, in turn."""
    found: FloatArray = LogMelImage().fit_transform(toy_songs(48, N_TYPES).all_features())
    return found


def light(n_epochs: int = 3) -> list[PseudoLabelEncoder]:
    """Return NSCNet with both heads, and DeepCluster, with the light encoder."""
    return [
        NSCNet("light", 6, head="softmax", n_epochs=n_epochs, batch_size=16),
        NSCNet("light", 6, head="arcface", n_epochs=n_epochs, batch_size=16),
        DeepCluster("light", 6, n_epochs=n_epochs, batch_size=16, learning_rate=0.01),
    ]


@settings(max_examples=60)
@given(labels=LABELS, seed=st.integers(0, 5))
def test_draws_are_uniform_over_clusters(labels: IntArray, seed: int) -> None:
    """An epoch draws as many songs as there are, of every cluster equally many up to one, none twice before all came."""
    drawn = np.concatenate(uniform_batches(labels, 8, np.random.default_rng(seed)))
    assert len(drawn) == len(labels)
    present = np.unique(labels)
    counts = np.array([(labels[drawn] == label).sum() for label in present])
    assert np.ptp(counts) <= 1
    for label, count in zip(present, counts, strict=True):
        members = np.flatnonzero(labels == label)
        times = np.bincount(drawn, minlength=len(labels))[members]
        assert times.sum() == count
        assert np.ptp(times) <= 1


@settings(max_examples=60)
@given(first=LABELS, seed=st.integers(0, 5))
def test_lists_of_clusters_are_made_anew(first: IntArray, seed: int) -> None:
    """In the second epoch, as in the first, the lists hold every song once, in its present cluster."""
    second = np.random.default_rng(seed).permutation(first)
    for labels in (first, second):
        lists = clusters_of(labels)
        assert sum(len(songs) for songs in lists) == len(labels)
        assert np.array_equal(np.sort(np.concatenate(lists)), np.arange(len(labels)))
        assert all(len(np.unique(labels[songs])) == 1 for songs in lists)


@settings(max_examples=60)
@given(labels=LABELS, seed=st.integers(0, 5))
def test_numbering_follows_the_songs(labels: IntArray, seed: int) -> None:
    """Clusters numbered in any other way, with gaps, come out with the same numbers, 0 the first song's, none left out."""
    renumbered = np.random.default_rng(seed).permutation(20)[labels]
    ordered = in_order_of_songs(labels)
    assert np.array_equal(ordered, in_order_of_songs(renumbered))
    assert adjusted_rand_score(labels, ordered) == 1
    assert ordered[0] == 0
    assert np.array_equal(np.unique(ordered), np.arange(ordered.max() + 1))
    assert ordered.dtype == np.int64


def test_arcface_head_is_that_of_the_paper() -> None:
    """A margin of 0.5 rad and a scale of 30 give the paper's loss, computed here with arc cosines in numpy."""
    torch.manual_seed(0)
    head = random_arcface(16, 5, margin=0.5, scale=30.0)
    features, labels = torch.randn(12, 16), torch.arange(12) % 5
    cosine = (normalize(features) @ normalize(head.W.detach(), dim=0)).numpy().astype(np.float64)  # type: ignore[operator]
    logits = 30 * cosine
    for row, label in enumerate(labels.numpy()):
        logits[row, label] = 30 * math.cos(math.acos(cosine[row, label]) + 0.5)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(12), labels.numpy()]
    assert float(head(features, labels).detach()) == pytest.approx(expected.mean(), rel=1e-4)


def test_fresh_softmax_head_knows_nothing() -> None:
    """Its first loss is close to the logarithm of the number of classes."""
    torch.manual_seed(0)
    loss = SoftmaxHead(32, 7)(torch.randn(200, 32), torch.arange(200) % 7)
    assert float(loss.detach()) == pytest.approx(math.log(7), abs=0.05)


class _Renumbered(NSCNet):
    """NSCNet whose clusterer numbers its clusters differently."""

    def clusters(self, features: FloatArray, seed: int) -> IntArray:
        """Return the same clusters with other numbers."""
        return 10 - super().clusters(features, seed)


def test_numbers_of_clusters_do_not_matter(images: FloatArray) -> None:
    """With heads made anew for clusters in the songs' order, other numbers from k-means train exactly the same network."""
    for head in ("softmax", "arcface"):
        options = {"encoder": "light", "n_clusters": 6, "head": head, "n_epochs": 2, "batch_size": 16}
        plain, other = NSCNet(**options), _Renumbered(**options)  # type: ignore[arg-type]  # as declared above
        assert np.array_equal(plain.fit_transform(images), other.fit_transform(images))
        assert plain.history_ == other.history_


def test_collapse_does_not_count_as_convergence() -> None:
    """Two labelings with nearly all songs in one cluster agree perfectly, and are no reason to stop."""
    assert is_collapsed(np.zeros(10, np.int64))
    assert is_collapsed(np.array([0] * 7 + [1] * 3))
    assert not is_collapsed(np.array([0] * 6 + [1] * 4))
    rule = Convergence()
    assert not any(rule.is_reached(1.0, collapsed=True) for _ in range(50))
    assert not rule.is_reached(0.5, collapsed=False)
    reached = [rule.is_reached(0.504, collapsed=False) for _ in range(10)]
    assert reached == [False] * 9 + [True]


def test_gains_keep_training_going() -> None:
    """As long as the agreement gains 0.005 within ten epochs, training goes on."""
    rule = Convergence()
    assert not any(rule.is_reached(0.3 + 0.0051 * (epoch // 9), collapsed=False) for epoch in range(90))


def test_training_that_ends_in_one_cluster_says_so(images: FloatArray) -> None:
    """When most songs are in one cluster, history and estimator say that this is a collapse; other training is none."""
    odd = images.copy()
    odd[:40] = odd[0]
    odd[:40] += np.random.default_rng(0).normal(0, 1e-4, odd[:40].shape).astype(np.float32)
    method = NSCNet("light", 2, n_epochs=2).fit(odd)
    assert method.collapsed_
    assert [epoch["collapsed"] for epoch in method.history_] == [1, 1]
    assert method.history_[0]["largest_share"] >= 40 / 48
    fine = NSCNet("light", 6, n_epochs=1).fit(images)
    assert not fine.collapsed_
    assert fine.history_[0]["collapsed"] == 0


def test_k_means_steps_name_their_clusters() -> None:
    """Both clusterings find separate groups; features that do not differ, or fewer groups than clusters, are no error."""
    truth = np.arange(60) % 4
    rows = (10 * np.eye(6)[truth] + np.random.default_rng(0).normal(0, 0.1, (60, 6))).astype(np.float32)
    assert adjusted_rand_score(truth, k_means_clusters(rows, 4, 256, 0)) == 1
    assert adjusted_rand_score(truth, DeepCluster(n_clusters=4, n_components=3).clusters(rows, 0)) > 0.5
    same = np.ones((20, 6), np.float32)
    assert len(np.unique(k_means_clusters(same, 4, 256, 0))) == 1
    assert len(np.unique(DeepCluster(n_clusters=4).clusters(same, 0))) == 1
    two = np.repeat(rows[:2], 10, axis=0)
    assert len(np.unique(k_means_clusters(two, 4, 256, 0))) == 2


def test_whitening_leaves_few_songs_apart() -> None:
    """Of 60 songs in four groups and 100 dimensions DeepCluster finds the groups, but for an unlucky start of k-means."""
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 4
    rows = (4 * np.eye(100)[truth] + rng.normal(0, 0.3, (60, 100))).astype(np.float32)
    found = [adjusted_rand_score(truth, DeepCluster(n_clusters=4).clusters(rows, seed)) for seed in range(5)]
    assert np.median(found) > 0.9


def test_empty_clusters_are_refilled() -> None:
    """Of 16 centres drawn from 40 copies of a point and 24 others about 10 begin as copies; few stay empty."""
    rows = np.concatenate([np.zeros((40, 8)), np.random.default_rng(0).normal(size=(24, 8))]).astype(np.float32)
    for seed in range(5):
        assert len(np.unique(refilled_k_means(rows, 16, seed))) >= 12


@pytest.mark.parametrize("number", range(3))
def test_training_writes_its_history_and_finds_types(number: int, images: FloatArray) -> None:
    """Every epoch tells loss, clusters, largest share and, from the second, NMI; the features find the toy types."""
    method = light()[number].fit(images)
    assert len(method.history_) == 3
    assert "nmi" not in method.history_[0]
    for epoch in method.history_[1:]:
        assert 0 <= epoch["nmi"] <= 1
        assert epoch["n_clusters"] == 6
        assert epoch["largest_share"] < 0.6
    found = KMeans(N_TYPES, n_init=3, random_state=0).fit_predict(normalize(torch.from_numpy(method.transform(images))))
    assert adjusted_rand_score(np.arange(48) % N_TYPES, found) > 0.3


@pytest.mark.parametrize("number", range(3))
def test_same_seed_same_network_and_time_ends_training(number: int, images: FloatArray) -> None:
    """The seed decides everything; without time there is no epoch, but features; clones have the same parameters."""
    method = light(n_epochs=1)[number]
    first, again = clone(method).fit_transform(images), clone(method).fit_transform(images)
    assert np.array_equal(first, again)
    assert not np.allclose(first, clone(method).set_params(random_state=1).fit_transform(images))
    late = clone(method).set_params(n_epochs=10_000, max_minutes=1e-9).fit(images)
    assert late.history_ == []
    assert clone(method).get_params() == method.get_params()
    with pytest.raises(InputError, match="at least 6") as raised:
        clone(method).fit(images[:5])
    assert raised.value.reason == "TOO_FEW_SONGS"


def test_an_epoch_may_be_several_passes_under_one_clustering(
    images: FloatArray, monkeypatch: pytest.MonkeyPatch, stream: StreamConfig
) -> None:
    """Three passes are three times the steps between as many clusterings; what one pass is called has not changed."""
    found: list[Tensor] = []

    def view(self: NSCNet, images: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001 - the method's signature
        found.append(images)
        return images

    monkeypatch.setattr(NSCNet, "view", view)
    n_steps = []
    for length in (1, 3):
        found.clear()
        method = NSCNet("light", 6, n_epochs=2, epoch_length=length, batch_size=16).fit(images)
        n_steps.append(len(found))
        assert len(method.history_) == 2
    assert n_steps == [6, 18]
    system = choose_systems(["nscnet-arcface-light"])[0]
    assert "epoch_length" not in describe(system, stream)
    assert '"epoch_length": 3' in describe(with_parameters(system, {"encoder.epoch_length": 3}), stream)


def test_faithful_network_is_efficientnet_with_maximum_and_leaky_layer() -> None:
    """NSCNet's defaults are its paper's: EfficientNet-B0 of four million parameters → maximum of 1280 maps → 512."""
    network = EfficientNetEncoder()
    assert sum(p.numel() for p in network.backbone.parameters()) / 1e6 == pytest.approx(4.0, abs=0.05)
    assert [tuple(p.shape) for p in network.project.parameters()] == [(512, 1280), (512,)]
    features = network.eval()(torch.rand(2, 1, 64, 64))
    negative = features[features < 0]
    assert 0 < len(negative) < features.numel()
    method = NSCNet()
    assert (method.encoder, method.margin, method.scale) == ("efficientnet-b0", 0.5, 30)
    assert (method.learning_rate, method.batch_size, method.n_components) == (1e-4, 32, 256)


def test_untrained_network_tells_songs_apart(images: FloatArray) -> None:
    """EfficientNet from scratch keeps what differs; settled, it does so in evaluation mode as in training."""
    torch.manual_seed(0)
    network = ImageEncoder("efficientnet-b0", 64).train()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(float(m.weight.detach().min()) == 1 for m in norms)
    settle_norms(network, images[:24])
    assert network.training
    assert all(m.momentum == 0.1 for m in norms)
    with torch.no_grad():
        trained = network(torch.from_numpy(images[:24])).numpy().std(axis=0).mean()
    assert trained > 0.1
    assert encode(network, images[:24]).std(axis=0).mean() == pytest.approx(trained, rel=0.5)
