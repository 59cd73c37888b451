"""The laboratory's parts against closed forms and scikit-learn; names that do not exist are answered with the choices."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import idct
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError
from songcore.frontend import FrontendConfig, mel_matrix
from songcore.stream import StreamConfig
from songtrain.datasets.songs import SongSet
from songtrain.lab.features import Cepstra, Chroma, LogMelImage, ModulationSpectrum
from songtrain.lab.options import n_clusters_given, with_clusters
from songtrain.lab.parts import PARTS, Kind, build, describe, n_clusters_asked
from songtrain.lab.systems import SYSTEMS, System, choose_systems, part
from songtrain.methods.self_labelled import SelfLabelledEncoder
from songtrain.reducers.projections import Components, NeighbourMap, UniformMap
from songtrain.settings import TrainSettings


def balls(n_each: int = 20, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Return four far, tight groups of points in 6 dimensions and their numbers."""
    centres = np.vstack([np.eye(6)[:2], -np.eye(6)[2:4]]) * 10
    truth = np.repeat(np.arange(4), n_each)
    noise = np.random.default_rng(seed).normal(0, 0.3, (4 * n_each, 6))
    return (centres[truth] + noise).astype(np.float32), truth


def test_image_is_the_song_cut_or_padded() -> None:
    """A short song is followed by silence, a long one cut, and nothing is longer than the longest song."""
    short, long = np.ones((3, 4), np.float32), np.full((9, 4), 2, np.float32)
    images = LogMelImage(n_frames=5).fit_transform([short, long])
    assert np.array_equal(images[0], np.vstack([short, np.zeros((2, 4))]))
    assert np.array_equal(images[1], long[:5])
    assert LogMelImage().fit_transform([short, long]).shape == (2, 9, 4)


@settings(max_examples=25)
@given(shift=st.integers(0, 20), rate=st.integers(1, 15))
def test_modulation_spectrum_forgets_where_the_song_begins(shift: int, rate: int) -> None:
    """A song within silence has one spectrum wherever it lies; a full cosine has its power at its own rate."""
    song = np.random.default_rng(rate).random((12, 3), np.float32)
    moved = [np.pad(song, ((s, 20 - s), (0, 0))) for s in (0, shift)]
    first, second = ModulationSpectrum(n_frames=32, n_rates=17).fit_transform(moved)
    np.testing.assert_allclose(first, second, atol=1e-4)
    wave = np.cos(2 * np.pi * rate * np.arange(32) / 32)[:, None].astype(np.float32)
    expected = np.zeros(17)
    expected[rate] = 16
    np.testing.assert_allclose(ModulationSpectrum(32, 17).fit_transform([wave])[0, :, 0], expected, atol=1e-4)
    loud = ModulationSpectrum(32, 17, logarithm=True).fit_transform([wave])[0, :, 0]
    np.testing.assert_allclose(loud, np.log1p(expected), atol=1e-4)


def test_cepstra_are_librosas_and_can_be_undone() -> None:
    """The coefficients are those that librosa makes of a log-mel spectrogram, and all of them give the bands back."""
    from librosa.feature import mfcc

    song = np.random.default_rng(0).random((7, 64), np.float32)
    ours = Cepstra(n_coefficients=20).fit_transform([song])[0]
    np.testing.assert_allclose(ours, mfcc(S=song.T, n_mfcc=20).T, rtol=1e-4, atol=1e-5)
    every = Cepstra(n_coefficients=64).fit_transform([song])[0]
    np.testing.assert_allclose(idct(every, norm="ortho", axis=1), song, atol=1e-5)


@pytest.mark.parametrize("hz", [1760.0, 2637.0, 3520.0])
def test_chroma_names_the_pitch_class_of_a_tone(hz: float) -> None:
    """A tone in one mel band lights its pitch class, counted from C; a silent frame lights none."""
    frontend = FrontendConfig(n_mels=256, n_fft=4096)
    song = np.zeros((2, 256), np.float32)
    nearest = round(hz * frontend.n_fft / frontend.sample_rate_hz)
    song[0, mel_matrix(frontend)[nearest].argmax()] = 4.0
    chroma = Chroma(frontend=frontend).fit_transform([song])[0]
    assert chroma[0].argmax() == round(12 * np.log2(hz / 440) + 9) % 12
    assert chroma[0].max() == 1
    assert not chroma[1].any()


def test_components_are_pca_whitened_and_unit_as_asked() -> None:
    """The rows are scikit-learn's up to sign; whitened they have variance 1; unit rows have length 1."""
    rows = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)
    for whiten in (False, True):
        ours = Components(3, whiten=whiten, unit=False).fit_transform(rows)
        np.testing.assert_allclose(
            np.abs(ours), np.abs(PCA(3, whiten=whiten).fit_transform(rows)), rtol=1e-2, atol=1e-2
        )
    np.testing.assert_allclose(ours.var(axis=0, ddof=1), 1, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(Components(3).fit_transform(rows), axis=1), 1, rtol=1e-5)


def test_components_without_variance_are_left_out() -> None:
    """Points on a line have one component, however many are asked for, and whitening it blows nothing up."""
    line = np.outer(np.arange(10), np.ones(5)).astype(np.float32)
    found = Components(4, whiten=True, unit=False).fit_transform(line)
    assert found.shape == (10, 1)
    assert np.abs(found).max() < 3


def test_neighbour_map_takes_few_points() -> None:
    """t-SNE with its usual perplexity of 30 places ten points, since the perplexity is lowered."""
    assert NeighbourMap().fit_transform(balls()[0][::8]).shape == (10, 2)


def test_umap_keeps_far_groups_apart_and_takes_few_points() -> None:
    """Groups that lie apart do so in two dimensions; of hardly more songs than dimensions come principal components."""
    points, truth = balls()
    uniform = UniformMap(2)
    places = uniform.fit_transform(points)
    assert places.dtype == np.float32
    assert adjusted_rand_score(truth, KMeans(len(set(truth)), n_init=3, random_state=0).fit_predict(places)) == 1
    np.testing.assert_array_equal(places, uniform.embedding_)
    others = uniform.transform(balls(5, seed=1)[0])
    assert others.dtype == np.float32
    near = np.linalg.norm(places[None] - others[:, None], axis=2).argmin(axis=1)
    assert np.array_equal(truth[near], balls(5)[1])
    assert UniformMap(2).fit_transform(points[::10][:3]).shape == (3, 2)
    assert UniformMap(8).fit_transform(points[:9]).shape == (9, 6)


QUICK: dict[str, dict[str, float]] = {"temi": {"n_clusters": 4, "n_heads": 2, "n_epochs": 2, "min_steps": 1}}
"""Parameters of parts that take long with their own: nothing is asked of what they find."""


@pytest.mark.parametrize("name", PARTS["clusterer"])
def test_clusterers_have_scikit_learns_habits(name: str) -> None:
    """A clone has the same parameters and nothing learned; fit returns the estimator, and keeps what fit_predict returns."""
    clusterer, again = fitted_and_clone("clusterer", name)
    kept = clusterer.labels_ if hasattr(clusterer, "labels_") else clusterer.predict(balls()[0])
    found = again.fit_predict(balls()[0])
    assert np.array_equal(found, kept)
    assert (found.shape, found.dtype.kind) == ((80,), "i")


@pytest.mark.parametrize("name", PARTS["reducer"])
def test_reducers_have_scikit_learns_habits(name: str) -> None:
    """As for clusterers; what fit_transform returns is kept, or what transform gives for the same rows."""
    reducer, again = fitted_and_clone("reducer", name)
    places = again.fit_transform(balls()[0])
    if hasattr(reducer, "transform"):
        assert np.allclose(reducer.transform(balls()[0]), places, atol=1e-5)
    if hasattr(reducer, "embedding_") or not hasattr(reducer, "transform"):
        assert np.array_equal(reducer.embedding_, places)


def fitted_and_clone(kind: Kind, name: str) -> tuple[Any, Any]:
    """Return the part, fitted to `balls`, and a clone of it that is not."""
    estimator: Any = build(kind, part(name, **QUICK.get(name, {})), seed=1)
    parameters = estimator.get_params()
    assert estimator.fit(balls()[0]) is estimator
    again = clone(estimator)
    assert again.get_params() == parameters == estimator.get_params()
    assert not [attribute for attribute in vars(again) if attribute.endswith("_")]
    assert type(estimator)().set_params(**parameters).get_params() == parameters
    return estimator, again


def test_umap_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional package the reducer names it."""
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match="umap-learn") as raised:
        UniformMap().fit_transform(balls()[0])
    assert raised.value.reason == "PART_MISSING"


@pytest.mark.parametrize("name", sorted(set(PARTS["clusterer"]) - {"argmax"}))
def test_every_clusterer_finds_separate_groups(name: str) -> None:
    """Four far groups come out as four clusters from every clusterer, told their number or not."""
    points, truth = balls()
    count = {"gmm": "n_components"}.get(name, "n_clusters")
    extra: dict[str, dict[str, float]] = {
        "dbscan": {"eps": 2.0},
        "optics": {"min_samples": 10},
        "meanshift": {"bandwidth": 4.0},
        # A teacher that follows sooner, and larger steps: a tenth of the steps.
        "temi": {"n_heads": 4, "n_epochs": 15, "momentum": 0.98, "learning_rate": 2e-3},
    }
    told = name in {"kmeans", "spherical-kmeans", "agglomerative", "gmm", "temi"}
    options = extra.get(name, {}) | ({count: 4} if told else {})
    clusterer = build("clusterer", part(name, **options), seed=1)
    assert adjusted_rand_score(truth, clusterer.fit_predict(points)) == pytest.approx(1)
    assert n_clusters_asked(clusterer) == (4 if told else None)


def test_spherical_k_means_clusters_directions() -> None:
    """Points of two directions and any length fall into two groups, which k-means on the same points misses."""
    rng = np.random.default_rng(2)
    truth = np.arange(60) % 2
    angle = truth * 0.5 + rng.normal(0, 0.02, 60)
    points = (rng.uniform(0.1, 20, 60) * np.stack([np.cos(angle), np.sin(angle)])).T.astype(np.float32)
    found = build("clusterer", part("spherical-kmeans", n_clusters=2)).fit(points)
    assert adjusted_rand_score(truth, found.labels_) == 1
    assert np.array_equal(found.predict(points), found.labels_)
    np.testing.assert_allclose(np.linalg.norm(found.cluster_centers_, axis=1), 1, rtol=1e-5)
    assert adjusted_rand_score(truth, KMeans(2, n_init=3, random_state=0).fit_predict(points)) < 0.5


def test_encoder_trains_on_toy_songs(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig
) -> None:
    """The self-labelled encoder gives finite vectors, the same ones for the same seed and others for another."""
    songs = toy_songs(48)
    first, again, other = (
        SelfLabelledEncoder(tiny, stream, random_state=seed).fit_transform(songs) for seed in (0, 0, 1)
    )
    assert first.shape == (48, 32)
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_made_of_parts_that_exist(name: str, stream: StreamConfig) -> None:
    """Every declaration builds, and its description changes with the number of clusters where one is given."""
    system = SYSTEMS[name]
    changed = with_clusters(system, 7)
    asked = n_clusters_given(changed)
    told = system.clusterer.name in {"kmeans", "spherical-kmeans", "agglomerative", "gmm", "temi", "argmax"}
    assert asked == (7 if told else None)
    assert (describe(system, stream) != describe(changed, stream)) == told


@pytest.mark.parametrize("kind", PARTS)
def test_unknown_part_or_parameter_lists_the_choices(kind: Kind) -> None:
    """An unknown name is answered with the parts there are, an unknown parameter with those of the part."""
    with pytest.raises(ConfigError) as raised:
        build(kind, part("nothing"))
    assert all(name in str(raised.value) for name in PARTS[kind])
    first = next(iter(PARTS[kind]))
    with pytest.raises(ConfigError, match="no parameter wrong"):
        build(kind, part(first, wrong=1))


@pytest.mark.parametrize("name", ["self-labelled", "random-light", "spice", "secu", "random-transformer", "onnx"])
def test_features_before_an_encoder_of_songs_are_refused(name: str, stream: StreamConfig) -> None:
    """Such an encoder would take the images for songs; it is said before anything is made of the recordings."""
    parts = part(name), part("none"), part("kmeans", n_clusters=2)
    with pytest.raises(ConfigError, match=f"{name} takes the songs themselves; leave out the features mfcc") as raised:
        describe(System("own", "", part("mfcc"), *parts), stream)
    assert raised.value.reason == "SYSTEM_INVALID"
    assert describe(System("own", "", None, *parts), stream)


def test_unknown_system_lists_the_choices() -> None:
    """All systems are chosen by no name, one only once, and an unknown one is answered with those there are."""
    assert choose_systems([]) == tuple(SYSTEMS.values())
    assert [s.name for s in choose_systems(["recipe", "recipe"])] == ["recipe"]
    with pytest.raises(ConfigError, match="basenet-kmeans") as raised:
        choose_systems(["nothing"])
    assert raised.value.reason == "SYSTEM_UNKNOWN"
    with pytest.raises(ConfigError, match="neither features nor an encoder"):
        System("empty", "", None, None, part("none"), part("kmeans"))
