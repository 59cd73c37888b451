"""Modulation spectra beside the network: those of numpy, exported as they are; a collapse behind them is seen."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize

from songcore.embed import Embedder
from songcore.features import FeatureConfig
from songcore.presets import STREAMS
from songcore.stream import StreamConfig
from songtrain.augment.store import FrameStore
from songtrain.datasets.songs import SongSet
from songtrain.encoders.light import LightEncoder
from songtrain.encoders.modulation import N_RATES, PERIOD, fit_modulation, modulation_size, modulation_spectra
from songtrain.encoders.network import JointEncoder, ServedEncoder, SteadyEncoder
from songtrain.evaluation.collapse import CollapseError
from songtrain.export.onnx import check_parity, export_onnx
from songtrain.loop.distributed import TrainedEncoder
from songtrain.loop.learner import Learner
from songtrain.loop.world import World
from songtrain.pipeline import serve_trained
from songtrain.settings import TrainSettings


@pytest.mark.parametrize("n_frames", [1, 32, 500, 704])
def test_spectra_are_numpys_transforms(n_frames: int) -> None:
    """Every value is log(1 + |X|) of numpy's transform of its band, also for songs longer than the slowest period."""
    song = np.random.default_rng(0).random((1, 1, 3, n_frames), np.float32)
    at = np.arange(n_frames)
    turns = np.exp(-2j * np.pi * np.outer(at, np.arange(N_RATES)) / PERIOD)
    expected = np.log1p(np.abs(song[0, 0].astype(np.float64) @ turns))
    found = modulation_spectra(torch.from_numpy(song)).numpy()
    np.testing.assert_allclose(found, normalize(expected.reshape(1, -1)), atol=1e-5)
    if n_frames <= PERIOD:
        again = np.log1p(np.abs(np.fft.rfft(song[0, 0], n=PERIOD)[:, :N_RATES]))
        np.testing.assert_allclose(found, normalize(again.reshape(1, -1)), atol=1e-5)


def test_silence_around_a_song_changes_nothing(toy_songs: Callable[..., SongSet]) -> None:
    """Padding leaves the spectrum as it is, and so does silence before the song."""
    song = torch.from_numpy(toy_songs(4).features(0).T.copy())[None, None]
    moved = torch.nn.functional.pad(song, (17, 40))
    torch.testing.assert_close(modulation_spectra(moved), modulation_spectra(song), atol=1e-4, rtol=1e-4)


def test_joint_encoder_is_served_as_it_is_trained(toy_songs: Callable[..., SongSet]) -> None:
    """Exported with all its layers it gives torch's embeddings for songs of several lengths, alone and in batches."""
    songs = toy_songs(24)
    torch.manual_seed(0)
    modulation = fit_modulation(FrameStore(songs, torch.device("cpu")), 16, 0)
    joint = JointEncoder(LightEncoder(64, width=8, n_features=32), modulation).eval()
    assert joint.n_features == 32 + 16
    rng = np.random.default_rng(1)
    weights, mean, components = (rng.normal(size=s).astype(np.float32) for s in ((48, 48), (48,), (8, 48)))
    served = ServedEncoder(SteadyEncoder(joint, weights), mean, components).eval()
    embedder = Embedder(export_onnx(served, 64, 32), device="cpu")
    long = rng.random((704, 64), np.float32)
    assert check_parity(served, embedder, [songs.features(i) for i in range(6)] + [long]) > 0.99999


def test_a_collapse_behind_the_spectra_is_seen(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig
) -> None:
    """A network that says the same of every song ends the training, though the spectra beside it still tell songs apart."""
    config = StreamConfig(stream.frontend, stream.segmenter, STREAMS["song"].features)
    learner = Learner(toy_songs(48), tiny, config, device=torch.device("cpu"), world=World())
    assert isinstance(learner.whole_encoder(), JointEncoder)
    embeddings, own, rank = learner._embeddings()
    assert embeddings.shape[0] == len(own) == 48
    assert rank > 1
    encoder = learner.network.encoder
    assert isinstance(encoder, LightEncoder)
    with torch.no_grad():
        encoder.per_frame.weight.mul_(1e-6)
        encoder.per_frame.bias.fill_(1)
    with pytest.raises(CollapseError, match="the same of every song"):
        learner._embeddings()


@pytest.mark.parametrize("bias", [1.0, np.nan])
def test_a_collapse_in_a_training_that_never_looked_is_seen_before_export(
    toy_songs: Callable[..., SongSet], tiny: TrainSettings, stream: StreamConfig, bias: float
) -> None:
    """As with the presets for single sounds, which have neither rounds nor neighbours but much beside the network."""
    encoder = LightEncoder(64, width=4, n_features=32).eval()
    with torch.no_grad():
        encoder.per_frame.weight.mul_(1e-6)
        encoder.per_frame.bias.fill_(bias)
    trained = TrainedEncoder(encoder, np.empty((0, 48), np.int64), ())
    with pytest.raises(CollapseError, match="the same of every song"):
        serve_trained(trained, toy_songs(48), tiny, stream)


def test_single_sounds_have_no_modulation_unless_asked() -> None:
    """Songs have 256 values, syllables none, and a number given is a number taken."""
    assert modulation_size(None, STREAMS["song"].features) == 256
    assert modulation_size(None, STREAMS["syllable"].features) == 0
    assert modulation_size(7, FeatureConfig()) == 7
    assert modulation_size(0, STREAMS["song"].features) == 0
