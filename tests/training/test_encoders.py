"""Encoders: silence around a song and songs beside it change nothing, and what is exported is what was trained."""

from typing import Any

import numpy as np
import pytest
import torch

from songcore.embed import Embedder
from songcore.errors import ConfigError
from songtrain.encoders.build import build_encoder, n_parameters
from songtrain.encoders.light import LightEncoder
from songtrain.encoders.masking import song_mask
from songtrain.encoders.network import ServedEncoder, SongNetwork
from songtrain.export.onnx import ExportError, check_parity, export_onnx
from songtrain.settings import EncoderSettings


def trained_encoder(n_features: int = 32) -> LightEncoder:
    """Return a light encoder whose batch norms have seen data, in evaluation mode."""
    torch.manual_seed(0)
    encoder = LightEncoder(64, width=4, n_features=n_features)
    for _ in range(3):
        encoder(4 * torch.rand(8, 1, 64, 64))
    return encoder.eval()


def served(encoder: torch.nn.Module, n_features: int = 32, d: int = 8) -> ServedEncoder:
    """Return the encoder with a random projection."""
    rng = np.random.default_rng(0)
    mean, components = rng.normal(size=n_features), rng.normal(size=(d, n_features))
    return ServedEncoder(encoder, mean.astype(np.float32), components.astype(np.float32)).eval()


def test_mask_spans_first_to_last_sound() -> None:
    """Silence inside a song belongs to it, silence around it does not, a silent song has no valid frame."""
    features = torch.zeros(2, 1, 8, 6)
    features[0, 0, 3, [1, 4]] = 1
    assert song_mask(features)[:, 0, 0].tolist() == [[0, 1, 1, 1, 1, 0], [0] * 6]


def test_silence_after_a_song_changes_nothing() -> None:
    """Padding by any number of silent frames, even in the same batch as a longer song, leaves the result as it is."""
    encoder = trained_encoder()
    song = 4 * torch.rand(1, 1, 64, 64)
    padded = torch.nn.functional.pad(song, (0, 96))
    with torch.inference_mode():
        alone = encoder(song)
        beside = encoder(torch.cat([padded, 4 * torch.rand(1, 1, 64, 160)]))[:1]
    assert torch.allclose(alone, beside, atol=1e-4)


def test_silent_song_has_a_finite_embedding() -> None:
    """A song of zeros gives numbers, not NaN."""
    with torch.inference_mode():
        assert torch.isfinite(served(trained_encoder())(torch.zeros(1, 1, 64, 32))).all()


def test_pitch_is_not_pooled_away() -> None:
    """The same tone an octave higher embeds elsewhere: the frequency axis is kept."""
    encoder = trained_encoder()
    low = torch.zeros(2, 1, 64, 64)
    low[0, 0, 10:13, 8:56], low[1, 0, 40:43, 8:56] = 3, 3
    with torch.inference_mode():
        embeddings = torch.nn.functional.normalize(encoder(low))
    assert float(embeddings[0] @ embeddings[1]) < 0.99


def test_default_encoder_is_light() -> None:
    """The default has about 0.4 million parameters, and takes a batch of any length."""
    encoder = build_encoder(EncoderSettings(), 64)
    assert 300_000 < n_parameters(encoder) < 500_000
    assert encoder(torch.rand(2, 1, 64, 144)).shape == (2, 512)


def test_wrong_number_of_bands_is_refused() -> None:
    """The light encoder halves the bands three times and says so when that does not go."""
    with pytest.raises(ConfigError, match="multiple of 8"):
        build_encoder(EncoderSettings(), 60)


def test_exported_encoder_equals_torch_for_any_batch_and_length() -> None:
    """Onnxruntime gives torch's embeddings for lengths and batch sizes that the export never saw, alone or together."""
    encoder = served(trained_encoder())
    embedder = Embedder(export_onnx(encoder, 64, 32), device="cpu")
    rng = np.random.default_rng(1)
    songs = [(4 * rng.random((length, 64))).astype(np.float32) for length in (32, 64, 64, 96, 320, 704)]
    assert check_parity(encoder, embedder, songs) > 0.99999
    together, alone = embedder.embed(songs), np.concatenate([embedder.embed([song]) for song in songs])
    assert together == pytest.approx(alone, abs=1e-6)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)


def test_different_encoders_do_not_pass_for_equal() -> None:
    """The parity check fails on another encoder's export."""
    embedder = Embedder(export_onnx(served(trained_encoder()), 64, 32), device="cpu")
    torch.manual_seed(5)
    other = served(LightEncoder(64, width=4, n_features=32).eval())
    with pytest.raises(ExportError, match="differ"):
        check_parity(other, embedder, [np.random.default_rng(0).random((64, 64)).astype(np.float32)])


def test_what_is_no_number_does_not_pass_for_equal() -> None:
    """NaN is not less than the least cosine, and fails all the same."""
    encoder = served(trained_encoder())
    embedder = Embedder(export_onnx(encoder, 64, 32), device="cpu")
    with torch.no_grad():
        encoder.project.bias.fill_(torch.nan)
    with pytest.raises(ExportError, match="cosine nan"):
        check_parity(encoder, embedder, [np.random.default_rng(0).random((64, 64)).astype(np.float32)])


def test_efficientnet_trains_and_exports() -> None:
    """EfficientNet-B0 takes a step with finite gradients, and its export equals it."""
    torch.manual_seed(0)
    network = SongNetwork(build_encoder(EncoderSettings(name="efficientnet-b0", n_features=32), 64))
    out: Any = network(4 * torch.rand(2, 1, 64, 64))
    (out.projection.square().sum() + out.embedding.square().sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.encoder.parameters() if p.grad is not None)
    encoder = served(network.encoder.eval())
    embedder = Embedder(export_onnx(encoder, 64, 32), device="cpu")
    songs = [np.random.default_rng(i).random((96, 64)).astype(np.float32) for i in range(2)]
    assert check_parity(encoder, embedder, songs) > 0.99999
