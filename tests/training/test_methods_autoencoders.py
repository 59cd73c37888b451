"""Autoencoders and VaDE: images through a code and back, types told apart by the codes, and what cannot be learned from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError, InputError
from songcore.stream import StreamConfig
from songcore.zipf import zipf_probabilities
from songtrain.datasets.songs import SongSet
from songtrain.encoders.autoencoders import Architecture, StridedAutoencoder, build_autoencoder
from songtrain.evaluation.collapse import CollapseError
from songtrain.evaluation.scores import label_numbers
from songtrain.lab.features import Cepstra, LogMelImage
from songtrain.lab.parts import describe
from songtrain.lab.systems import choose_systems
from songtrain.methods.autoencoder import AutoencoderEncoder
from songtrain.methods.history import History
from songtrain.methods.image_scale import Scaling, learn_scale
from songtrain.methods.vade import VaDE

ToySongs = Callable[..., SongSet]
SMALL: dict[str, Any] = {"n_latent": 8, "batch_size": 8, "n_epochs": 20, "learning_rate": 3e-3}


@pytest.fixture
def toy(toy_songs: ToySongs) -> tuple[FloatArray, IntArray]:
    """Return images (48, 64, 32), every other band, of songs of four types, and the types."""
    songs = toy_songs(48, 4)
    images = LogMelImage(64).fit_transform(songs.all_features())
    return np.ascontiguousarray(images[:, :, ::2]), label_numbers(songs.labels)


@pytest.mark.parametrize("architecture", ["chroma", "mfcc", "mel", "vaenet"])
@pytest.mark.parametrize("size", [(1, 1), (2, 12), (5, 64), (33, 20), (130, 65)])
def test_networks_take_images_of_any_size(architecture: Architecture, size: tuple[int, int]) -> None:
    """From one frame of one value to odd numbers of both: a code of the length asked for, an image of the size given."""
    for variational in (False, True):
        network = build_autoencoder(architecture, size, 7, variational=variational)
        codes = network.encode(torch.zeros(2, *size))
        assert codes.shape == (2, 14 if variational else 7)
        assert network.decode(codes[:, :7]).shape == (2, *size)


def test_networks_have_the_sizes_of_their_sources() -> None:
    """VAENet ends in 8 × 1 × 256 for 512 × 64, the chroma network in 60 × 3 for 474 × 12; MFCC keeps its last map."""
    shapes = {}
    for architecture, size in (("vaenet", (512, 64)), ("chroma", (474, 12))):
        network = build_autoencoder(architecture, size, 8)  # type: ignore[arg-type]  # names, for mypy any text
        assert isinstance(network, StridedAutoencoder)
        shapes[architecture] = network.map_shape
    assert shapes == {"vaenet": (256, 8, 1), "chroma": (32, 60, 3)}
    pooled = build_autoencoder("mfcc", (432, 288), 0)
    assert pooled.encode(torch.zeros(1, 432, 288)).shape == (1, pooled.n_latent) == (1, 27 * 18 * 32)


@pytest.mark.parametrize("architecture", ["chroma", "mel", "vaenet"])
def test_every_frame_is_in_the_code(architecture: Architecture) -> None:
    """Every frame of the image changes the code: the layers step over none, the last ones included."""
    image = torch.zeros(1, 70, 13, requires_grad=True)
    torch.manual_seed(0)
    build_autoencoder(architecture, (70, 13), 16).encode(image + 1).square().sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert (image.grad[0].abs().sum(dim=1) > 0).all()


def test_networks_that_do_not_exist_are_said() -> None:
    """A name, a code without length, and a length that is none."""
    for arguments in (("resnet", (4, 4), 3), ("mel", (4, 4), 0), ("mfcc", (4, 4), -1)):
        with pytest.raises(ConfigError):
            build_autoencoder(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_latent"):
        build_autoencoder("mfcc", (4, 4), 0, variational=True)


@pytest.mark.parametrize("scaling", ["minmax", "standard", "columns", "none"])
def test_scale_is_left_as_it_was_entered(scaling: Scaling) -> None:
    """Images come back in their unit; min-max is 0 to 1, standard has mean 0 and variance 1; resizing keeps a constant."""
    images = np.random.default_rng(0).normal(3, 2, (5, 6, 7)).astype(np.float32)
    scale = learn_scale(images, scaling, (None, None))
    inner = scale.enter(torch.from_numpy(images))
    np.testing.assert_allclose(scale.leave(inner), images, atol=1e-5)
    if scaling == "minmax":
        assert (float(inner.min()), float(inner.max())) == (0, 1)
    if scaling == "standard":
        np.testing.assert_allclose([inner.mean(), inner.var(correction=0)], [0, 1], atol=1e-5)
    if scaling == "columns":
        np.testing.assert_allclose(inner.mean(dim=(0, 1)), np.zeros(7), atol=1e-5)
        np.testing.assert_allclose(inner.var(dim=(0, 1), correction=0), np.ones(7), atol=1e-5)
    constant = np.full((2, 6, 7), 4, np.float32)
    resized = learn_scale(constant, scaling, (11, 3))
    assert resized.enter(torch.from_numpy(constant)).shape == (2, 11, 3)
    np.testing.assert_allclose(resized.leave(resized.enter(torch.from_numpy(constant))), constant, rtol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "bound"),
    [
        ({"architecture": "mel"}, 0.5),
        ({"architecture": "mel", "n_frames": 80, "n_values": 48}, 0.5),
        ({"architecture": "vaenet", "scaling": "standard"}, 0.8),
        ({"architecture": "vaenet", "scaling": "standard", "beta": 1.0}, 0.9),
        ({"architecture": "vaenet", "scaling": "standard", "beta": 0.0}, 0.9),
    ],
)
def test_autoencoders_rebuild_songs_and_tell_types_apart(
    toy: tuple[FloatArray, IntArray], parameters: dict[str, Any], bound: float
) -> None:
    """The error is well below that of the mean image, k-means on the codes finds types, and two runs are one."""
    images, truth = toy
    encoder = AutoencoderEncoder(**(SMALL | parameters))
    codes = encoder.fit_transform(images)
    assert codes.shape == (48, 8)
    assert codes.dtype == np.float32
    rebuilt = encoder.reconstruct(images)
    assert rebuilt.shape == images.shape
    of_mean = np.square(images - images.mean(axis=0)).mean()
    assert np.square(rebuilt - images).mean() < bound * of_mean
    assert adjusted_rand_score(truth, KMeans(4, n_init=3, random_state=0).fit_predict(codes)) > 0.4
    assert np.array_equal(clone(encoder).fit_transform(images), codes)


def test_history_tells_the_terms(toy: tuple[FloatArray, IntArray]) -> None:
    """Loss is reconstruction + beta · KL / pixels in every epoch; without KL term the codes' noise shrinks."""
    images, _ = toy
    ends = []
    for beta in (0.0, 4.0):
        encoder = AutoencoderEncoder("vaenet", **(SMALL | {"n_epochs": 6}), scaling="standard", beta=beta).fit(images)
        assert len(encoder.history_) == 6
        for epoch in encoder.history_:
            expected = epoch["reconstruction"] + beta * epoch["kl"] / images[0].size
            assert epoch["loss"] == pytest.approx(expected, rel=1e-5)
        ends.append(encoder.history_[-1])
    assert ends[0]["kl"] > ends[1]["kl"]


def test_absolute_error_is_trained_for(toy: tuple[FloatArray, IntArray]) -> None:
    """Trained on absolute error the network has less of it than trained on squared error."""
    images, _ = toy
    found = {}
    for error in ("mse", "mae"):
        encoder = AutoencoderEncoder("mel", **(SMALL | {"n_epochs": 6}), error=error).fit(images)
        found[error] = float(np.abs(encoder.reconstruct(images) - images).mean())
    assert found["mae"] < found["mse"]


def test_pooled_autoencoder_learns_from_cepstra(toy_songs: ToySongs) -> None:
    """The MFCC network with its 128 filters, in batches of four, beats the mean image after a few epochs."""
    images = Cepstra(n_frames=32).fit_transform(toy_songs(16, 2).all_features())
    encoder = AutoencoderEncoder("mfcc", 0, scaling="columns", batch_size=4, n_epochs=12).fit(images)
    assert encoder.transform(images).shape == (16, 32 * 2 * 2)
    of_mean = np.square(images - images.mean(axis=0)).mean()
    assert np.square(encoder.reconstruct(images) - images).mean() < of_mean


def test_vade_clusters(toy: tuple[FloatArray, IntArray]) -> None:
    """γ sums to one and its largest finds types; codes are of the same network; the history tells the two stages."""
    images, truth = toy
    small = SMALL | {"n_epochs": 40, "n_pretrain": 20, "n_clusters": 4}
    vade = VaDE(**small).fit(images)
    gamma = vade.transform(images)
    assert gamma.shape == (48, 4)
    np.testing.assert_allclose(gamma.sum(axis=1), 1, atol=1e-5)
    assert adjusted_rand_score(truth, gamma.argmax(axis=1)) > 0.4
    assert [epoch["pretraining"] for epoch in vade.history_] == [1] * 20 + [0] * 20
    last = vade.history_[-1]
    assert last["loss"] == pytest.approx(last["reconstruction"] + last["kl"] / images[0].size, rel=1e-5)
    of_mean = np.square(images - images.mean(axis=0)).mean()
    assert np.square(vade.reconstruct(images) - images).mean() < 0.5 * of_mean
    assert np.array_equal(clone(vade).fit_transform(images), gamma)
    assert vade.set_params(output="codes").transform(images).shape == (48, 8)


def test_zipfs_law_as_a_prior_draws_the_shares_to_it(toy: tuple[FloatArray, IntArray]) -> None:
    """Of four equal types the shares stay near equal; a prior much stronger than the songs makes them Zipf's, and is told."""
    images, _ = toy
    small = SMALL | {"n_epochs": 60, "n_pretrain": 10, "n_clusters": 4}
    priors: dict[str, dict[str, Any]] = {"free": {}, "zipf": {"zipf_exponent": 1.0, "zipf_weight": 20.0}}
    found = {}
    for name, extra in priors.items():
        vade = VaDE(**small, **extra).fit(images)
        shares = vade.prior_.log_shares().exp().detach().cpu().numpy()
        found[name] = np.abs(np.sort(shares)[::-1] - zipf_probabilities(4, 1.0)).sum()
    assert found["free"] > 0.2
    assert found["zipf"] < 0.1
    first, last = vade.history_[10], vade.history_[-1]
    assert last["zipf"] < first["zipf"]
    assert "zipf" not in vade.history_[0]
    expected = last["reconstruction"] + (last["kl"] + 20 * last["zipf"]) / images[0].size
    assert last["loss"] == pytest.approx(expected, rel=1e-5)


def test_rows_of_vade_from_before_the_prior_still_count(stream: StreamConfig) -> None:
    """A description says nothing of a Zipf prior unless there is one."""
    free, zipf = (describe(system, stream) for system in choose_systems(["vade", "vade-zipf"]))
    assert "zipf" not in free
    assert '"zipf_exponent": 1.0' in zipf


@pytest.mark.parametrize("method", [AutoencoderEncoder, VaDE])
def test_time_ends_training(method: type, toy: tuple[FloatArray, IntArray]) -> None:
    """Without any time no epoch is finished, and there are codes all the same."""
    images, _ = toy
    extra = {"n_clusters": 4} if method is VaDE else {"architecture": "vaenet"}
    encoder = method(**extra, n_latent=4, max_minutes=0.0).fit(images)
    assert encoder.history_ == []
    assert encoder.transform(images).shape == (48, 4)


def test_patience_ends_training() -> None:
    """Two epochs without a gain of a thousandth end it with patience 2, and nothing ends it without patience."""
    for patience, ended in ((2, [False, False, False, False, True]), (None, [False] * 5)):
        history = History(patience)
        for loss, end in zip((1.0, 0.9995, 0.9, 0.9, 0.95), ended, strict=True):
            history.add(1, reconstruction=loss)
            assert history(0, loss) is end
        assert [epoch["reconstruction"] for epoch in history.epochs] == [1.0, 0.9995, 0.9, 0.9, 0.95]


@pytest.mark.parametrize("method", [AutoencoderEncoder, VaDE])
def test_what_cannot_be_learned_from_is_said(method: type, toy: tuple[FloatArray, IntArray]) -> None:
    """NaN, no songs and rows instead of images are named."""
    images, _ = toy
    broken = images.copy()
    broken[3, 2, 1] = np.nan
    for wrong, reason in ((broken, "NOT_FINITE"), (images[:0], "NO_IMAGES"), (images[:, 0], "NO_IMAGES")):
        with pytest.raises(InputError) as raised:
            method().fit(wrong)
        assert raised.value.reason == reason


def test_vade_says_what_it_cannot_do(toy: tuple[FloatArray, IntArray]) -> None:
    """More clusters than songs, more pre-training than training, an unknown output; a rate that diverges."""
    images, _ = toy
    with pytest.raises(InputError, match="49 clusters are asked of 48 songs"):
        VaDE(49).fit(images)
    for wrong in ({"n_pretrain": 200}, {"output": "labels"}, {"zipf_exponent": -1.0}, {"zipf_weight": -1.0}):
        with pytest.raises(ConfigError):
            VaDE(4, **wrong).fit(images)
    with pytest.raises(ConfigError, match="beta"):
        AutoencoderEncoder(beta=-1.0).fit(images)
    with pytest.raises(CollapseError):
        AutoencoderEncoder("vaenet", n_epochs=20, learning_rate=1e30).fit(images)


def test_one_song_or_equal_songs_are_no_accident(toy: tuple[FloatArray, IntArray]) -> None:
    """One song trains; songs that are all equal, or silent, have equal codes, from VaDE too."""
    images, _ = toy
    assert AutoencoderEncoder("vaenet", 4, n_epochs=1).fit_transform(images[:1]).shape == (1, 4)
    for same in (np.repeat(images[:1], 6, axis=0), np.zeros_like(images[:6])):
        codes = AutoencoderEncoder("vaenet", 4, n_epochs=2).fit_transform(same)
        assert np.ptp(codes, axis=0).max() < 1e-4
