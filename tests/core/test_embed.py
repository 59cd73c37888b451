"""The encoder: batches change nothing, the provider is the one that runs, and no model but ours is taken."""

import ctypes
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bundles import DIMENSION, random_encoder
from songcore.arrays import FloatArray
from songcore.embed import MAX_BATCH, Embedder
from songcore.errors import BundleError, ConfigError


def gpu_is_there() -> bool:
    """Whether NVIDIA's driver is installed on this machine."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """Return the test bundle's encoder on the CPU."""
    return Embedder(random_encoder(), device="cpu")


def songs(lengths: list[int], seed: int = 0) -> list[FloatArray]:
    """Return features of songs with so many frames."""
    rng = np.random.default_rng(seed)
    return [rng.random((n, 64)).astype(np.float32) for n in lengths]


def reference(features: FloatArray) -> FloatArray:
    """Return what the test encoder computes, written out in numpy."""
    weights = onnx.numpy_helper.to_array(onnx.load_from_string(random_encoder()).graph.initializer[0])
    projected = np.concatenate([features.mean(axis=0), features.max(axis=0)]).astype(np.float64) @ weights
    return np.asarray(projected / np.linalg.norm(projected), np.float32)


@settings(max_examples=30)
@given(lengths=st.lists(st.sampled_from([1, 32, 64, 96, 700]), max_size=80), seed=st.integers(0, 99))
def test_a_song_does_not_depend_on_the_others(embedder: Embedder, lengths: list[int], seed: int) -> None:
    """Songs of mixed lengths in any number get the embeddings they get alone, in order, of unit length."""
    features = songs(lengths, seed)
    embeddings = embedder.embed(features)
    assert embeddings.shape == (len(lengths), DIMENSION)
    assert embeddings.dtype == np.float32
    for song, embedding in zip(features, embeddings, strict=True):
        np.testing.assert_allclose(embedding, embedder.embed([song])[0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_agrees_with_numpy(embedder: Embedder) -> None:
    """The embeddings are those of the graph written out in numpy, also beyond one batch of a length."""
    features = songs([32] * (MAX_BATCH + 3) + [64, 32])
    expected = np.stack([reference(song) for song in features])
    np.testing.assert_allclose(embedder.embed(features), expected, atol=1e-5)


def test_silence_is_finite(embedder: Embedder) -> None:
    """Features of nothing but silence give a finite embedding."""
    assert np.isfinite(embedder.embed([np.zeros((32, 64), np.float32)])).all()


def test_features_may_be_views(embedder: Embedder) -> None:
    """Features that are slices or transposes of other arrays are read as what they show."""
    song = songs([96])[0]
    expected = embedder.embed([song])
    np.testing.assert_array_equal(embedder.embed([np.asfortranarray(song)]), expected)
    np.testing.assert_array_equal(embedder.embed([np.repeat(song, 2, axis=0)[::2]]), expected)


def test_dimensions_and_provider_of_a_cpu(embedder: Embedder) -> None:
    """The sizes are the model's, and the provider is the one onnxruntime runs."""
    assert (embedder.n_mels, embedder.dimension) == (64, DIMENSION)
    assert embedder.provider == "CPUExecutionProvider"


@pytest.mark.skipif(gpu_is_there(), reason="this machine may have a GPU")
def test_a_missing_gpu_is_an_error_when_asked_for() -> None:
    """Without a GPU, auto comes up on the CPU and says so; cuda is refused instead of falling back silently."""
    assert Embedder(random_encoder(), device="auto").provider == "CPUExecutionProvider"
    with pytest.raises(ConfigError, match="CPUExecutionProvider") as caught:
        Embedder(random_encoder(), device="cuda")
    assert caught.value.reason == "DEVICE_MISSING"


@pytest.mark.parametrize("model", [b"", b"hello", bytes(1_000), random_encoder()[:-100], random_encoder()[:20]])
def test_not_a_model(model: bytes) -> None:
    """Bytes that are no whole ONNX model are a BundleError."""
    with pytest.raises(BundleError, match="not an ONNX model") as caught:
        Embedder(model, device="cpu")
    assert caught.value.reason == "ENCODER_UNREADABLE"


def varint(number: int) -> bytes:
    """Return a number in protobuf's variable length."""
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize(
    "key",
    [b"\x0a\x08location", b"\x0a\x88\x00location", b"\x8a\x00\x08location", b"\x8a\x80\x80\x00\x88\x80\x00location"],
    ids=["plain", "long length", "long tag", "both"],
)
def test_hidden_external_data(key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose weights lie in another file is refused, however its protobuf spells that, with the file at hand."""
    model = onnx.load_from_string(random_encoder())
    weights = model.graph.initializer.pop(0)
    assert weights.name == "weights"
    (tmp_path / "weights.bin").write_bytes(weights.raw_data)
    monkeypatch.chdir(tmp_path)
    tensor = b"".join(b"\x08" + varint(size) for size in weights.dims) + b"\x10\x01" + field(8, b"weights")
    tensor += field(13, key + field(2, b"weights.bin")) + b"\x70\x01"
    graph = model.graph.SerializeToString() + field(5, tensor)
    model.ClearField("graph")
    with pytest.raises(BundleError, match="one file") as caught:
        Embedder(model.SerializeToString() + field(7, graph), device="cpu")
    assert caught.value.reason == "ENCODER_EXTERNAL_DATA"


def test_external_data_as_onnx_writes_it(tmp_path: Path) -> None:
    """A model saved by onnx with its weights beside it is refused."""
    path = tmp_path / "model.onnx"
    model = onnx.load_from_string(random_encoder())
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(BundleError, match="one file"):
        Embedder(path.read_bytes(), device="cpu")


def test_the_word_location_alone_is_harmless() -> None:
    """A model that only mentions the word is taken."""
    model = onnx.load_from_string(random_encoder())
    model.doc_string = "allocation of locations; location"
    assert Embedder(model.SerializeToString(), device="cpu").n_mels == 64


def graph(inputs: dict[str, list[str | int]], outputs: dict[str, list[str | int]], operator: str = "Identity") -> bytes:
    """Return a model that passes its first input on to every output."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
        for values in (inputs, outputs)
    ]
    nodes = [helper.make_node(operator, [next(iter(inputs))], [name]) for name in outputs]
    made = helper.make_graph(nodes, "graph", infos[0], infos[1])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "model",
    [
        graph({"sound": ["n", 1, 64, "t"]}, {"embedding": ["n", 16]}, "Flatten"),
        graph({"features": ["n", 1, 64, "t"]}, {"vector": ["n", 16]}, "Flatten"),
        graph({"features": ["n", 1, 64, "t"], "more": ["n"]}, {"embedding": ["n", 16]}, "Flatten"),
        graph({"features": ["n", 1, 64, "t"]}, {"embedding": ["n", 16], "logits": ["n", 16]}, "Flatten"),
        graph({"features": ["n", 1, 64, "t"]}, {"embedding": ["n", 1, 64, "t"]}),
        graph({"features": ["n", "d"]}, {"embedding": ["n", "d"]}),
        graph({"features": ["n", 1, "m", "t"]}, {"embedding": ["n", 16]}, "Flatten"),
        graph({"features": ["n", 1, 64, "t"]}, {"embedding": ["n", "d"]}, "Flatten"),
    ],
    ids=["input name", "output name", "two inputs", "two outputs", "output axes", "input axes", "open bands", "open d"],
)
def test_another_interface_is_refused(model: bytes) -> None:
    """A model with other names, more tensors, other axes or open sizes is a BundleError that says what was expected."""
    with pytest.raises(BundleError, match=r"expected features|fix both") as caught:
        Embedder(model, device="cpu")
    assert caught.value.reason == "ENCODER_INTERFACE"
