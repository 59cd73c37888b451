"""Cluster heads: losses against closed forms, then whether they find what there is to find."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import cross_entropy, linear, normalize, relu

from songcore.arrays import FloatArray, IntArray
from songcore.errors import InputError
from songcore.presets import STREAMS
from songtrain.augment.joined import joined
from songtrain.clusterers.shares import BalancedLabels
from songtrain.clusterers.temi import NeighbourHeads
from songtrain.datasets.songs import SongSet
from songtrain.encoders.heads import ParallelHeads
from songtrain.losses.pointwise import head_agreement, pointwise_information
from songtrain.losses.prototype import double_softmax, prototype_labels
from songtrain.losses.stable import centre_loss, representation_loss
from songtrain.methods.secu import StableClusters
from songtrain.methods.spice import PrototypeLabels, reliable_songs
from songtrain.methods.untrained import UntrainedEncoder
from songtrain.settings import PRESETS, TrainSettings

ToySongs = Callable[..., SongSet]

TINY = TrainSettings.model_validate(
    {
        "encoder": {"width": 4, "n_features": 32, "dimension": 16},
        "warmup": {"n_epochs": 12, "neighbours_from_epoch": 99},
        # Gentle views: what these tests are about is not how hard songs can be made.
        "augment": {"raise_floor_probability": 0, "background_probability": 0, "mix_probability": 0, "n_masks": 1},
        "run": {"batch_size": 32, "precision": "float32"},
    }
)


def balls(n_songs: int = 150, n_types: int = 5) -> tuple[FloatArray, IntArray]:
    """Return unit vectors about five far directions, two thirds of them about the first two, and their numbers."""
    rng = np.random.default_rng(0)
    truth = rng.choice(n_types, size=n_songs, p=[0.35, 0.3, 0.15, 0.1, 0.1])
    points = np.eye(16)[truth] + rng.normal(0, 0.08, (n_songs, 16))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), truth


def truth_of(songs: SongSet) -> IntArray:
    """Return the toy songs' types as numbers."""
    return np.asarray([int(label.removeprefix("type")) for label in songs.labels])


def test_parallel_heads_are_separate_networks() -> None:
    """Every head gives what its own three linear layers give, for shared and for own inputs."""
    torch.manual_seed(0)
    heads = ParallelHeads(3, 5, 4, n_hidden=7, n_layers=3)
    shared, own = torch.randn(6, 5), torch.randn(3, 6, 5)
    for x in (shared, own):
        out = heads(x)
        for h in range(3):
            hidden = x if x.ndim == 2 else x[h]
            for layer in range(3):
                weight, bias = heads.weights[layer][h].T, heads.biases[layer][h, 0]
                hidden = linear(relu(hidden) if layer else hidden, weight, bias)
            torch.testing.assert_close(out[h], hidden)


def test_pointwise_information_in_closed_form() -> None:
    """Sure agreement on one of k equal clusters costs -log k whatever β; no opinion costs -(2 - 2β) log k."""
    k = 8
    prior = torch.full((1, k), 1 / k)
    sure, unsure = torch.eye(k)[None, :1], torch.full((1, 1, k), 1 / k)
    for beta in (0.6, 1.0):
        assert pointwise_information(sure, sure, prior, beta).item() == pytest.approx(-math.log(k), abs=1e-4)
        assert pointwise_information(unsure, unsure, prior, beta).item() == pytest.approx(-(2 - 2 * beta) * math.log(k))
    apart = pointwise_information(sure, torch.eye(k)[None, 1:2], prior, 1.0)
    assert apart.item() > 20


def test_pairs_are_weighted_by_what_all_heads_say() -> None:
    """Two heads of which one is sure that songs belong together and one that they do not give a half."""
    first = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    second = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert head_agreement(first, second).tolist() == [0.5]


def test_prototypes_are_the_surest_songs_and_take_the_nearest() -> None:
    """The centre of a cluster's surest songs takes its nearest, also one that the probabilities give to another."""
    codes = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4]])
    # Surest of cluster 0: songs 0 and 3, of cluster 1: 2 and 1; their centres lie between.
    songs, labels = prototype_labels(codes, probabilities)
    assert labels.tolist() == [0, 1, 0, 1]
    sure = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.0, 1.0]])
    songs, labels = prototype_labels(codes, sure)
    found = {c: set(songs[labels == c].tolist()) for c in (0, 1)}
    assert found == {0: {0, 1}, 1: {2, 3}}


def test_double_softmax_has_a_floor() -> None:
    """However sure and right, the loss of k clusters is log(1 + (k - 1) / e); the same logits once cost nothing."""
    logits = 1000 * torch.eye(6)
    assert double_softmax(logits, torch.arange(6)).item() == pytest.approx(math.log(1 + 5 / math.e), rel=1e-5)
    assert cross_entropy(logits, torch.arange(6)).item() == 0


def test_reliable_songs_live_among_their_own() -> None:
    """In two tight groups all songs are reliable but the one that is labelled as the other group."""
    codes = np.repeat(np.eye(2, 4), 20, axis=0) + np.random.default_rng(0).normal(0, 0.01, (40, 4))
    labels = np.repeat([0, 1], 20)
    labels[3] = 1
    found = reliable_songs(codes.astype(np.float32), labels, 10, 0.8)
    assert not found[3]
    assert found[20:].all()
    assert found[:20].sum() >= 10


def test_other_songs_do_not_move_a_centre() -> None:
    """Only the centres of this batch's clusters get a gradient: that of the own cosine, as far as a song is unsure."""
    torch.manual_seed(0)
    songs = normalize(torch.randn(3, 8)).requires_grad_()
    centres = normalize(torch.randn(5, 8)).requires_grad_()
    labels = torch.tensor([1, 1, 4])
    centre_loss(songs, centres, labels, 0.05).backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert songs.grad is None
    assert centres.grad is not None
    assert centres.grad[[0, 2, 3]].abs().max() == 0
    unsure = 1 - (songs @ centres.T / 0.05).softmax(dim=1)[torch.arange(3), labels].detach()
    pull = torch.zeros(5, 8).index_add_(0, labels, -(unsure / 0.05 / 3)[:, None] * songs.detach())
    unit = centres.detach()
    torch.testing.assert_close(centres.grad, pull - (pull * unit).sum(dim=1, keepdim=True) * unit)


def test_representations_follow_label_and_other_view() -> None:
    """With all weight on the label the loss is cross-entropy of both views; with none it is the other view's distribution."""
    torch.manual_seed(0)
    views, centres = normalize(torch.randn(2, 4, 8), dim=2), normalize(torch.randn(5, 8))
    labels = torch.tensor([0, 3, 3, 1])
    logits = views @ centres.T / 0.05
    plain = (cross_entropy(logits[0], labels) + cross_entropy(logits[1], labels)) / 2
    torch.testing.assert_close(representation_loss(views, centres, labels, 0.05, 1.0), plain)
    crossed = [cross_entropy(logits[i], logits[1 - i].softmax(dim=1)) for i in (0, 1)]
    torch.testing.assert_close(representation_loss(views, centres, labels, 0.05, 0.0), sum(crossed) / 2)


@pytest.mark.parametrize(("least_share", "expected"), [(0.2, 0.05), (0.8, 0.2)])
def test_every_cluster_gets_its_least_share(least_share: float, expected: float) -> None:
    """When all songs are nearest to one of four centres, the duals still give the others their part, and no more."""
    given = BalancedLabels(4, "size", least_share=least_share, dual_rate=0.02)
    similar = torch.rand(1000, 4, generator=torch.Generator().manual_seed(0)) * 0.2
    similar[:, 0] += 0.5
    for _ in range(400):
        sizes = torch.bincount(given.assign(similar), minlength=4) / 1000
    assert sizes[1:].tolist() == pytest.approx([expected] * 3, abs=0.02)
    free = BalancedLabels(4, "size", least_share=0.0, dual_rate=0.5)
    assert torch.bincount(free.assign(similar), minlength=4)[0] == 1000


def test_entropy_prefers_small_clusters() -> None:
    """Equal similarities go to the smallest cluster, so that sizes even out over batches."""
    given = BalancedLabels(3, "entropy", least_share=0.0, dual_rate=0.0)
    given.shares = torch.tensor([0.8, 0.15, 0.05])
    assert given.assign(torch.zeros(4, 3)).tolist() == [2, 2, 2, 2]


def test_views_of_unequal_length_join() -> None:
    """The shorter batch is followed by silence."""
    out = joined([torch.ones(1, 1, 2, 3), torch.ones(2, 1, 2, 5)])
    assert out.shape == (3, 1, 2, 5)
    assert out[0, 0, :, 3:].abs().max() == 0


def heads_for_balls(**changes: Any) -> NeighbourHeads:
    """Return few and narrow heads, which is plenty here."""
    options = {"n_clusters": 5, "n_heads": 4, "n_hidden": 32, "n_epochs": 30, "learning_rate": 2e-3, "momentum": 0.98}
    return NeighbourHeads(**(options | changes))


def test_temi_finds_separate_groups() -> None:
    """Five tight groups of unequal size are found, and the head that decides has the least loss."""
    points, truth = balls()
    heads = heads_for_balls().fit(points)
    assert adjusted_rand_score(truth, heads.labels_) > 0.9
    assert heads.best_head_ == heads.head_losses_.argmin()
    assert len(heads.history_) == 30
    assert heads.history_[-1]["loss"] < heads.history_[0]["loss"]
    np.testing.assert_allclose(heads.predict_proba(points).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(heads.predict(points[:7]), heads.labels_[:7])


def test_temi_follows_from_its_seed_and_stops_in_time() -> None:
    """The same seed gives the same probabilities, another others; no time gives no epoch and still labels."""
    points, _ = balls(60)
    short = heads_for_balls(n_epochs=2, random_state=1)
    first = short.fit(points).predict_proba(points)
    np.testing.assert_array_equal(first, clone(short).fit(points).predict_proba(points))
    assert not np.allclose(first, clone(short).set_params(random_state=2).fit(points).predict_proba(points))
    late = clone(short).set_params(max_minutes=0.0).fit(points)
    assert late.history_ == []
    assert late.labels_.shape == (60,)


def spice(**changes: Any) -> PrototypeLabels:
    """Return SPICE for three types of toy songs."""
    options: dict[str, Any] = {
        "n_clusters": 3,
        "n_heads": 4,
        "n_head_epochs": 12,
        "n_joint_epochs": 3,
        "settings": TINY,
    }
    return PrototypeLabels(**(options | changes))


def secu(**changes: Any) -> StableClusters:
    """Return SeCu for three types of toy songs."""
    options: dict[str, Any] = {"n_clusters": 3, "n_heads": 3, "n_epochs": 20, "learning_rate": 1e-3, "settings": TINY}
    return StableClusters(**(options | changes))


@pytest.mark.parametrize("make", [spice, secu])
def test_songs_are_told_apart(make: Callable[..., Any], toy_songs: ToySongs) -> None:
    """Three types of toy songs are told apart far better than by chance, and every song's probabilities sum to one."""
    songs = toy_songs(60, 3)
    method = make().fit(songs)
    shares = method.transform(songs)
    assert shares.shape == (60, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert adjusted_rand_score(truth_of(songs), shares.argmax(axis=1)) > 0.25
    assert all("loss" in epoch for epoch in method.history_)
    assert len(method.history_) == getattr(method, "n_epochs_", method.n_epochs if make is secu else None)
    assert method.set_params(output="codes").transform(songs).shape == (60, 32)


@pytest.mark.parametrize(
    ("make", "short"),
    [
        (spice, {"n_head_epochs": 1, "n_joint_epochs": 1, "least_agreement": 0.0}),
        (secu, {"n_epochs": 1}),
        (secu, {"n_epochs": 1, "constraint": "entropy"}),
    ],
)
def test_networks_follow_from_their_seed(make: Callable[..., Any], short: dict[str, Any], toy_songs: ToySongs) -> None:
    """Two clones with one seed give the same probabilities, another seed gives others; torch's own state stays as it was."""
    songs = toy_songs(24, 3)
    hurried = TINY.model_copy(update={"warmup": TINY.warmup.model_copy(update={"n_epochs": 1})})
    method = make(random_state=1, settings=hurried, **short)
    before = torch.get_rng_state()
    first = method.fit_transform(songs)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first, clone(method).fit_transform(songs))
    assert not np.allclose(first, clone(method).set_params(random_state=2).fit_transform(songs))


@pytest.mark.parametrize("make", [spice, secu])
def test_no_time_is_no_epoch(make: Callable[..., Any], toy_songs: ToySongs) -> None:
    """Out of time at once, the methods still answer for every song."""
    songs = toy_songs(24, 3)
    method = make(max_minutes=0.0).fit(songs)
    assert method.history_ == []
    assert make is secu or method.n_epochs_ >= TINY.warmup.n_epochs + 12
    assert method.transform(songs).shape == (24, 3)


def test_fewer_songs_than_clusters_are_refused(toy_songs: ToySongs) -> None:
    """More clusters than songs are an error that says both numbers."""
    for method in (spice(n_clusters=30), secu(n_clusters=30)):
        with pytest.raises(InputError, match="24 songs, at least 30 are needed"):
            method.fit(toy_songs(24, 3))


def test_the_warm_up_follows_the_kind_of_sound(toy_songs: ToySongs) -> None:
    """Without settings of its own SPICE warms up as the recipe does for this kind of sound."""
    for kind, preset in (("general", PRESETS["general"]), ("song", PRESETS["default"])):
        method = PrototypeLabels(3, n_heads=1, stream=STREAMS[kind], max_minutes=0.0, n_head_epochs=1, n_joint_epochs=1)
        method.fit(toy_songs(24, 3))
        assert method.n_epochs_ - preset.warmup.n_epochs in {1, 2}  # of the heads, and of what may come after


def test_untrained_encoder_is_not_blind(toy_songs: ToySongs) -> None:
    """Random weights, the same for the same seed, already put toy songs of a type nearer to each other than to others."""
    songs = toy_songs(36, 3)
    codes = UntrainedEncoder(TINY, random_state=1).fit_transform(songs)
    np.testing.assert_array_equal(codes, UntrainedEncoder(TINY, random_state=1).fit_transform(songs))
    unit = codes - codes.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similar, truth = unit @ unit.T, truth_of(songs)
    same = truth[:, None] == truth
    assert similar[same & ~np.eye(36, dtype=bool)].mean() > similar[~same].mean() + 0.1
