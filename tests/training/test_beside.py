"""What stands beside the trained network: random networks and spectra at places, exported as they are."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from songcore.embed import Embedder
from songcore.presets import STREAMS
from songtrain.augment.store import FrameStore
from songtrain.datasets.songs import SongSet
from songtrain.encoders.beside import fit_beside, random_networks, with_beside
from songtrain.encoders.network import JointEncoder, ServedEncoder, SteadyEncoder
from songtrain.encoders.places import PlacedSpectra
from songtrain.export.onnx import check_parity, export_onnx
from songtrain.lab.options import with_sound
from songtrain.lab.systems import SYSTEMS
from songtrain.settings import PRESETS, EncoderSettings, TrainSettings, change_settings, preset_for


def test_places_follow_the_sound_not_the_clock() -> None:
    """A sound and the same sound drawn out to twice its length, in silence, have the same spectra at their places."""
    song = torch.zeros(1, 1, 8, 24)
    song[0, 0, torch.arange(24) // 3, torch.arange(24)] = 2.0
    slow = torch.nn.functional.pad(song.repeat_interleave(2, dim=3), (5, 11))
    layer = PlacedSpectra(8, 4)
    torch.testing.assert_close(layer(slow), layer(song), atol=0.03, rtol=0)
    assert float(layer(song).norm()) == pytest.approx(1)


def test_places_tell_the_order_of_notes() -> None:
    """The same notes in another order are another sound, which no pooling over time can know."""
    song = torch.zeros(1, 1, 8, 24)
    song[0, 0, torch.arange(24) // 3, torch.arange(24)] = 2.0
    layer = PlacedSpectra(8, 12)
    assert float((layer(song) * layer(song.flip(3))).sum()) < 0.1


def test_a_sound_shorter_than_its_places_and_silence_stay_finite() -> None:
    """Three frames at twelve places, and a silent song, give numbers."""
    found = PlacedSpectra(4, 12)(torch.cat([torch.ones(1, 1, 4, 3), torch.zeros(1, 1, 4, 3)]))
    assert torch.isfinite(found).all()
    assert float(found[1].abs().max()) == 0


def test_random_networks_follow_from_the_seed_and_differ() -> None:
    """The same seed gives the same networks, another seed and each number others; the global generator stays as it was."""
    settings = EncoderSettings(width=4, n_features=16, n_random=2)
    state = torch.random.get_rng_state()
    one, again, other = (random_networks(settings, 64, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [next(network.parameters()) for network in (*one, *again, *other)]
    assert torch.equal(weights[0], weights[2])
    assert len({tuple(weight.flatten().tolist()) for weight in weights}) == 4


def test_all_of_it_is_served_as_it_is_trained(toy_songs: Callable[..., SongSet]) -> None:
    """Network, spectra at places and random networks, exported, give torch's embeddings for songs of several lengths."""
    songs = toy_songs(24)
    changes = {"encoder": {"width": 8, "n_features": 32, "n_random": 1, "n_places": 4, "n_modulation": 0}}
    settings = change_settings(TrainSettings(), changes, "test")
    store = FrameStore(songs, torch.device("cpu"))
    network = random_networks(settings.encoder, 64, 7)[0]
    joint = with_beside(network, fit_beside(settings, STREAMS["syllable"].features, store))
    assert isinstance(joint, JointEncoder)
    assert joint.n_features == 32 + 4 * 64 + 32
    rng = np.random.default_rng(1)
    n = joint.n_features
    weights, mean, components = (rng.normal(size=s).astype(np.float32) for s in ((n, n), (n,), (8, n)))
    served = ServedEncoder(SteadyEncoder(joint, weights), mean, components).eval()
    embedder = Embedder(export_onnx(served, 64, 32), device="cpu")
    assert check_parity(served, embedder, [songs.features(i) for i in range(6)]) > 0.99999


def test_presets_go_by_the_kind_of_sound() -> None:
    """Every front end has its preset, and in the laboratory clusterers that know a smallest share take that of the sounds."""
    assert preset_for(STREAMS["song"]) == PRESETS["default"]
    for kind in ("syllable", "general"):
        assert preset_for(STREAMS[kind]) == PRESETS[kind]
        assert PRESETS[kind].data.segmenter == kind
    share = PRESETS["syllable"].clusters.min_share
    for name in ("recipe", "classical-floor"):
        assert dict(with_sound(SYSTEMS[name], STREAMS["syllable"]).clusterer.parameters)["min_share"] == share
        assert with_sound(SYSTEMS[name], STREAMS["song"]) == SYSTEMS[name]
    assert with_sound(SYSTEMS["recipe-kmeans"], STREAMS["syllable"]) == SYSTEMS["recipe-kmeans"]
