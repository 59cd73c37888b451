"""How much a bundle may ask for: each limit at its end, where the bundle is read, and one past it, where it is refused."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from songcore import bundle as bundle_module
from songcore.bundle import load_bundle, read_manifest
from songcore.errors import BundleError
from songcore.manifest import manifest_digest
from songcore.onnx_graph import MAX_NODES, check_operators

SEGMENTER_LIMITS = [
    ("max_song_s", 30.0),
    ("min_gap_s", 10.0),
    ("smoothing_ms", 1000.0),
    ("min_fall_ms", 10_000.0),
    ("pre_roll_s", 10.0),
    ("post_roll_s", 10.0),
    ("noise.block_s", 10.0),
    ("noise.bootstrap_s", 10.0),
    ("noise.settle_s", 10.0),
    ("noise.floor_window_s", 120.0),
    ("noise.background_window_s", 120.0),
]


def ask_for(path: Path, name: str, value: float) -> None:
    """Change a parameter of the segmenter, ``noise.`` before it for the noise's, and make the digest fit."""
    content = json.loads((path / "manifest.json").read_text())
    part = content["segmenter"]["noise"] if name.startswith("noise.") else content["segmenter"]
    part[name.removeprefix("noise.")] = value
    if name == "noise.block_s":
        content["segmenter"]["noise"]["background_window_s"] = 60.0
    content["digest"] = manifest_digest(content)
    (path / "manifest.json").write_text(json.dumps(content))


def refusal(load: Callable[[], Any]) -> str:
    """Return why a bundle is refused."""
    with pytest.raises(BundleError) as refused:
        load()
    return refused.value.reason


@pytest.mark.parametrize(("name", "most"), SEGMENTER_LIMITS, ids=[name for name, _ in SEGMENTER_LIMITS])
def test_no_bundle_holds_sound_back_for_long(bundle_path: Path, name: str, most: float) -> None:
    """The longest time is read; the next number, infinity and what is no number are refused as any wrong manifest."""
    ask_for(bundle_path, name, most)
    read_manifest(bundle_path)
    for value in (float(np.nextafter(most, np.inf)), float("inf"), float("nan")):
        ask_for(bundle_path, name, value)
        assert refusal(lambda: load_bundle(bundle_path, device="cpu")) == "MANIFEST_INVALID"


def test_a_bundle_with_the_longest_songs_is_served(bundle_path: Path) -> None:
    """Half a minute is no reason to refuse a bundle: its golden songs are shorter and come out as they were."""
    ask_for(bundle_path, "max_song_s", 30.0)
    assert load_bundle(bundle_path, device="cpu").manifest.segmenter.max_song_s == 30.0


def test_an_encoder_has_so_many_nodes() -> None:
    """The last node is taken, one more is not."""

    def model(n_nodes: int) -> bytes:
        nodes = [helper.make_node("Identity", ["features"], [f"y{n}"]) for n in range(n_nodes)]
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n"])
        return bytes(helper.make_model(helper.make_graph(nodes, "graph", [features], [])).SerializeToString())

    check_operators(model(MAX_NODES))
    assert refusal(lambda: check_operators(model(MAX_NODES + 1))) == "ENCODER_FOREIGN_OPERATOR"


def test_a_file_has_a_largest_size(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle whose largest file has just that size loads; with a byte less to have, it is not read."""
    largest = max(file.stat().st_size for file in bundle_path.iterdir())
    monkeypatch.setattr(bundle_module, "MAX_FILE_BYTES", largest)
    load_bundle(bundle_path, device="cpu")
    monkeypatch.setattr(bundle_module, "MAX_FILE_BYTES", largest - 1)
    assert refusal(lambda: load_bundle(bundle_path, device="cpu")) == "FILE_TOO_LARGE"


def test_arrays_unpack_to_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of exactly the limit are read, all together; a byte more is left packed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros(1000, np.float32), b=np.zeros(10, np.int64))
    with zipfile.ZipFile(buffer) as archive:
        n_bytes = sum(member.file_size for member in archive.infolist())
    monkeypatch.setattr(bundle_module, "MAX_ARRAY_BYTES", n_bytes)
    assert set(bundle_module._load_arrays(buffer.getvalue(), "types.npz")) == {"a", "b"}
    monkeypatch.setattr(bundle_module, "MAX_ARRAY_BYTES", n_bytes - 1)
    assert refusal(lambda: bundle_module._load_arrays(buffer.getvalue(), "types.npz")) == "FILE_TOO_LARGE"
