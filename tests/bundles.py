"""A small real bundle for tests: a seeded random encoder built with onnx, so that no test needs torch or training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from songcore.arrays import FloatArray
from songcore.bundle import Bundle, BundleParts, write_bundle
from songcore.manifest import EncoderInfo, GateCheck, SongType
from songcore.novelty import NoveltyConfig
from songcore.presets import STREAMS
from songcore.stream import SongStream, StreamConfig

N_TYPES = 6
DIMENSION = 16


def sing(type_number: int, rng: np.random.Generator, rate_hz: int = 24_000, duration_s: float = 1.2) -> FloatArray:
    """Return one rendition, (n,) float32, of a made-up song type: a frequency-modulated trill of its own pitch and rate."""
    t = np.arange(int(duration_s * rate_hz)) / rate_hz
    pitch = 1800 * 1.22 ** (type_number % N_TYPES) * (1 + 0.01 * rng.standard_normal())
    rate = 4 + 3 * (type_number % N_TYPES)
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.15 * np.sin(2 * np.pi * rate * t))) / rate_hz
    envelope = np.minimum(1, np.minimum(t, t[::-1]) / 0.02) * (0.6 + 0.4 * np.sin(2 * np.pi * rate * t) ** 2)
    return (0.3 * envelope * np.sin(phase)).astype(np.float32)


def soundscape(
    type_numbers: Sequence[int], seed: int, *, rate_hz: int = 24_000, gap_s: float = 1.5, noise: float = 0.002
) -> tuple[FloatArray, list[tuple[int, int, int]]]:
    """Return samples (n,) float32 with the songs in order, and (onset, offset, type number) of each in samples."""
    rng = np.random.default_rng(seed)
    pieces, truth, position = [], [], 0
    for number in type_numbers:
        gap = np.zeros(int(rate_hz * gap_s * rng.uniform(0.8, 1.4)), np.float32)
        song = sing(number, rng, rate_hz)
        pieces += [gap, song]
        truth.append((position + len(gap), position + len(gap) + len(song), number))
        position += len(gap) + len(song)
    pieces.append(np.zeros(int(rate_hz * gap_s), np.float32))
    samples = np.concatenate(pieces)
    return samples + (noise * rng.standard_normal(len(samples))).astype(np.float32), truth


def random_encoder(n_mels: int = 64, dimension: int = DIMENSION, seed: int = 0) -> bytes:
    """Return an ONNX encoder with seeded random weights: mean and peak of every band over time → linear → unit length."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((2 * n_mels, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["features", "time"], ["mean"], keepdims=0),
        helper.make_node("ReduceMax", ["features", "time"], ["peak"], keepdims=0),
        helper.make_node("Concat", ["mean", "peak"], ["both"], axis=2),
        helper.make_node("Flatten", ["both"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["projected"]),
        helper.make_node("LpNormalization", ["projected"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "random_encoder",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 1, n_mels, "n_frames"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", dimension])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.asarray([3], np.int64), "time")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def stream_config(preset: str = "song") -> StreamConfig:
    """Return the stream parameters of a preset."""
    return STREAMS[preset]


def bundle_parts(seed: int = 0) -> BundleParts:
    """Return everything of a test bundle that knows the first ``N_TYPES - 1`` of the made-up song types."""
    from songcore.embed import Embedder

    config, encoder = stream_config(), random_encoder(seed=seed)
    embedder = Embedder(encoder, device="cpu")
    known = list(range(N_TYPES - 1))

    def embed(seed: int, n_each: int) -> FloatArray:
        samples, _ = soundscape(known * n_each, seed)
        stream = SongStream(config, 24_000)
        songs = stream.push(samples) + stream.finish()
        assert len(songs) == len(known) * n_each, f"{len(songs)} songs found of {len(known) * n_each}"
        return embedder.embed([song.features for song in songs]).reshape(n_each, len(known), -1)

    bank, held_out = embed(seed + 1, 8), embed(seed + 2, 8).reshape(-1, DIMENSION)
    centres = bank.mean(axis=0)
    flat = bank.reshape(-1, DIMENSION)
    distances = np.sort(np.sqrt(np.maximum(0, 2 - 2 * held_out @ flat.T)), axis=1)[:, :5].mean(axis=1)
    golden = [soundscape([number], 100 + number)[0] for number in known[:3]]
    return BundleParts(
        name="test",
        created_by="tests/bundles.py",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        stream=config,
        encoder=encoder,
        encoder_info=EncoderInfo(
            architecture="random", n_parameters=128 * DIMENSION, dimension=DIMENSION, trained_on="nothing"
        ),
        types=[SongType(id=f"T{number + 1:04d}", n_songs=8) for number in known],
        prototypes=centres / np.linalg.norm(centres, axis=1, keepdims=True),
        type_index=np.arange(len(known), dtype=np.int64),
        bank=flat,
        calibration=distances.astype(np.float32),
        novelty=NoveltyConfig(),
        golden_recordings=golden,
    )


def make_test_bundle(path: Path, seed: int = 0) -> Bundle:
    """Write the test bundle to ``path`` and return it loaded."""
    return write_bundle(path, bundle_parts(seed))


GATE = tuple(GateCheck(name=name, passed=True) for name in ("golden", "id_stability", "review", "calibration"))


def put_on_shelf(folder: Path, parts: BundleParts, *, prefix: str = "", **changes: Any) -> Bundle:
    """Write a bundle under its digest, as a retraining does, with changed parts; ``prefix`` renames the song types."""
    types = [song_type.model_copy(update={"id": f"{prefix}{song_type.id}"}) for song_type in parts.types]
    changed = replace(parts, types=types, golden_recordings=parts.golden_recordings[:1], **changes)
    bundle = write_bundle(folder / "new", changed)
    (folder / "new").rename(folder / bundle.digest)
    return bundle


@dataclass(frozen=True)
class Family:
    """A first bundle and what was retrained from it; the song types of each begin with letters of its own."""

    first_dir: Path
    shelf: Path
    first: str
    child: str
    grandchild: str
    other_ears: str
    prefixes: dict[str, str]
    """By digest."""


def make_family(first_dir: Path, first: Bundle, shelf: Path) -> Family:
    """Put a child, a grandchild and a child with another segmenter on a shelf."""
    parts = replace(bundle_parts(), gate=GATE, parent_digest=first.digest)
    child = put_on_shelf(shelf, parts, prefix="A", name="child")
    grandchild = put_on_shelf(shelf, parts, prefix="B", name="grandchild", parent_digest=child.digest)
    config = parts.stream
    segmenter = config.segmenter.model_copy(update={"post_roll_s": 0.12})
    other = put_on_shelf(shelf, parts, prefix="C", name="other-ears", stream=replace(config, segmenter=segmenter))
    digests = (first.digest, child.digest, grandchild.digest, other.digest)
    return Family(first_dir, shelf, *digests, dict(zip(digests, ("T", "AT", "BT", "CT"), strict=True)))
