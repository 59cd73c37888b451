"""Bundles made to harm, signed as their forger would: each is refused with a reason, and nothing else of the machine is read.

What a hash finds is in test_bundle.py; here every hash and digest fits.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundles import DIMENSION, random_encoder
from songcore.bundle import FILES, MAX_ARRAY_BYTES, load_bundle
from songcore.errors import BundleError
from songcore.onnx_graph import MAX_NODES

Node = onnx.NodeProto


def forge(path: Path, files: dict[str, bytes] | None = None, **changes: Any) -> None:
    """Replace files and keys of the manifest, and make hashes and digest fit."""
    for name, content in (files or {}).items():
        (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"] = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in FILES}
    manifest.update(changes)
    del manifest["digest"]
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    (path / "manifest.json").write_text(json.dumps({**manifest, "digest": hashlib.sha256(canonical).hexdigest()}))


def refusal(path: Path) -> str:
    """Return why the bundle is refused."""
    with pytest.raises(BundleError) as refused:
        load_bundle(path, device="cpu")
    return refused.value.reason


def model(nodes: list[Node], *initializers: Any, domains: tuple[str, ...] = ("",), functions: Any = ()) -> bytes:
    """Return a model with the encoder's interface."""
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 1, 64, "t"])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIMENSION])
    graph = helper.make_graph(nodes, "graph", [features], [embedding], list(initializers))
    opsets = [helper.make_opsetid(domain, 1 if domain else 18) for domain in domains]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    return bytes(made.SerializeToString())


def outside(name: str, file: str) -> TensorProto:
    """Return a tensor whose data lies in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=file)
    return tensor


def node(operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> Node:
    """Return a node."""
    return helper.make_node(operator, inputs, outputs, domain=domain, **attributes)


FLATTEN = node("Flatten", ["features"], ["embedding"])
PRIVATE = "/etc/passwd"


def subgraph(tensor: TensorProto, *, as_constant: bool) -> onnx.GraphProto:
    """Return a branch that holds a tensor, as an initializer or in a Constant."""
    out = helper.make_tensor_value_info("branch", TensorProto.FLOAT, [4])
    if as_constant:
        return helper.make_graph([node("Constant", [], ["branch"], value=tensor)], "branch", [], [out])
    return helper.make_graph([node("Identity", [tensor.name], ["branch"])], "branch", [], [out], [tensor])


def branching(tensor: TensorProto, *, as_constant: bool) -> bytes:
    """Return a model with the tensor in both branches of an If."""
    branch = subgraph(tensor, as_constant=as_constant)
    condition = numpy_helper.from_array(np.asarray(True), "condition")
    return model([node("If", ["condition"], ["x"], then_branch=branch, else_branch=branch), FLATTEN], condition)


@pytest.mark.parametrize("file", [PRIVATE, "../../../../etc/passwd", "weights.bin", "types.npz"])
@pytest.mark.parametrize(
    "encoder",
    [
        lambda tensor: model([FLATTEN], tensor),
        lambda tensor: model([node("Constant", [], ["x"], value=tensor), FLATTEN]),
        lambda tensor: branching(tensor, as_constant=False),
        lambda tensor: branching(tensor, as_constant=True),
    ],
    ids=["initializer", "Constant", "subgraph", "Constant of a subgraph"],
)
def test_no_tensor_lies_in_another_file(
    bundle_path: Path, encoder: Callable[[TensorProto], bytes], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute, escaping and neighbouring files are refused wherever a model can name one, with the file at hand too."""
    monkeypatch.chdir(bundle_path)
    (bundle_path / "weights.bin").write_bytes(bytes(16))
    forge(bundle_path, {"encoder.onnx": encoder(outside("w", file))})
    assert refusal(bundle_path) == "ENCODER_EXTERNAL_DATA"


_INNER = helper.make_function("x", "F", ["a"], ["b"], [node("Flatten", ["a"], ["b"])], [helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (model([node("Exec", ["features"], ["embedding"], "com.evil")], domains=("", "com.evil")), "FOREIGN_OPERATOR"),
        (
            model([node("Gelu", ["features"], ["x"], "com.microsoft"), FLATTEN], domains=("", "com.microsoft")),
            "FOREIGN_OPERATOR",
        ),
        (
            model([node("F", ["features"], ["embedding"], "x")], domains=("", "x"), functions=[_INNER]),
            "FOREIGN_OPERATOR",
        ),
        (model([FLATTEN, *[node("Identity", ["features"], [f"y{n}"]) for n in range(MAX_NODES)]]), "FOREIGN_OPERATOR"),
        (model([FLATTEN]), "INTERFACE"),
        (
            model(
                [node("ConstantOfShape", ["shape"], ["embedding"])],
                numpy_helper.from_array(np.asarray([2**36, DIMENSION], np.int64), "shape"),
            ),
            "FAILED",
        ),
        (b"\x3a" + b"\x3a\x7f" * 200, "UNREADABLE"),
    ],
    ids=["unknown", "vendor's", "own function", "too many nodes", "lying shape", "memory bomb", "nesting"],
)
def test_an_encoder_that_is_no_encoder(bundle_path: Path, encoder: bytes, reason: str) -> None:
    """Foreign operators, endless graphs, shapes that are not those declared and terabytes are refused at load."""
    forge(bundle_path, {"encoder.onnx": encoder})
    assert refusal(bundle_path) == f"ENCODER_{reason}"


def test_a_foreign_operator_hides_in_no_branch(bundle_path: Path) -> None:
    """An operator inside both branches of an If inside an If is found."""
    out = helper.make_tensor_value_info("branch", TensorProto.FLOAT, [4])
    inner = helper.make_graph([node("Exec", [], ["branch"], "com.evil")], "inner", [], [out])
    middle = helper.make_graph(
        [node("If", ["c"], ["branch"], then_branch=inner, else_branch=inner)], "middle", [], [out]
    )
    outer = node("If", ["c"], ["x"], then_branch=middle, else_branch=middle)
    condition = numpy_helper.from_array(np.asarray(True), "c")
    forge(bundle_path, {"encoder.onnx": model([outer, FLATTEN], condition, domains=("", "com.evil"))})
    assert refusal(bundle_path) == "ENCODER_FOREIGN_OPERATOR"


def npz(**members: bytes) -> bytes:
    """Return an archive of given members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array: Any, *, shape: tuple[int, ...] | None = None) -> bytes:
    """Return an array's file, with the header of another shape when one is given."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    content = buffer.getvalue()
    if shape is None:
        return content
    buffer = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + bytes(array.tobytes())


class _Payload:
    """Runs when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        return setattr, (_Payload, "ran", True)


@pytest.mark.parametrize("name", ["types.npz", "golden.npz"])
def test_a_pickle_is_not_opened(bundle_path: Path, name: str) -> None:
    """An array of objects is refused before its pickle runs."""
    with np.load(bundle_path / name) as arrays:
        members = {key: npy(arrays[key]) for key in arrays.files}
    first = next(iter(members))
    forge(bundle_path, {name: npz(**{**members, first: npy(np.asarray([_Payload()], object))})})
    assert refusal(bundle_path) == "FILE_UNREADABLE"
    assert not _Payload.ran


def test_an_archive_that_unpacks_to_too_much_is_left_packed(bundle_path: Path) -> None:
    """A bomb of zeros is refused by its table of contents, and an array of more elements than bytes when it ends early."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bank.npy", "w") as member:
        for _ in range(1 + MAX_ARRAY_BYTES // 2**24):
            member.write(bytes(2**24))
    assert len(buffer.getvalue()) < 2**22
    forge(bundle_path, {"types.npz": buffer.getvalue()})
    assert refusal(bundle_path) == "FILE_TOO_LARGE"
    forge(bundle_path, {"types.npz": npz(bank=npy(np.zeros(4, np.float32), shape=(2**38, 16)))})
    assert refusal(bundle_path) == "FILE_UNREADABLE"


@pytest.mark.parametrize("name", ["../outside.npy", "/tmp/outside"])  # noqa: S108 - what an attacker writes
def test_members_of_an_archive_are_not_paths(bundle_path: Path, name: str) -> None:
    """A member that is called like a file elsewhere is only an array too many."""
    forge(bundle_path, {"types.npz": npz(**{name: npy(np.zeros(1, np.float32))})})
    assert refusal(bundle_path) == "TYPES_INVALID"
    assert not (bundle_path.parent / "outside.npy").exists()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"prototypes": np.zeros((5, DIMENSION + 1), np.float32)}, "TYPES_INVALID"),
        ({"prototypes": np.full((5, DIMENSION), np.nan, np.float32)}, "TYPES_INVALID"),
        ({"type_index": np.full(5, 10**9, np.int64)}, "TYPES_INVALID"),
        ({"type_index": np.full(5, -1, np.int64)}, "TYPES_INVALID"),
        ({"bank": np.zeros((0, DIMENSION), np.float32)}, "TYPES_INVALID"),
        ({"calibration": np.full(9, np.inf, np.float32)}, "TYPES_INVALID"),
    ],
    ids=["wide", "nan", "index too large", "negative index", "empty bank", "infinite"],
)
def test_arrays_that_do_not_fit(bundle_path: Path, arrays: dict[str, Any], reason: str) -> None:
    """Shapes, indices and numbers that would be read beside an array or make every answer NaN."""
    with np.load(bundle_path / "types.npz") as found:
        members = {**found, **arrays}
    forge(bundle_path, {"types.npz": npz(**{key: npy(array) for key, array in members.items()})})
    assert refusal(bundle_path) == reason


def manifest_of(path: Path) -> dict[str, Any]:
    """Return the manifest's content."""
    content: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return content


def test_a_manifest_that_lies_is_found_out(bundle_path: Path) -> None:
    """Another dimension, number of bands, segmenter and encoder than the files have, and files that are not of a bundle."""
    content = manifest_of(bundle_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"encoder": {**content["encoder"], "dimension": DIMENSION + 1}}, "ENCODER_INTERFACE"),
        ({"frontend": {**content["frontend"], "n_mels": 32}}, "ENCODER_INTERFACE"),
        ({"segmenter": {**content["segmenter"], "min_song_s": 5.0}}, "GOLDEN_DRIFT"),
        ({"name": "../../etc"}, "MANIFEST_INVALID"),
        ({"sha256": {**content["sha256"], "encoder.onnx": "0" * 64}}, "HASH_MISMATCH"),
        ({"sha256": {}}, "HASH_MISMATCH"),
        ({"report": {"score": [1]}}, "MANIFEST_INVALID"),
    ]
    for changes, reason in cases:
        forge(bundle_path, **{**content, **changes})
        assert refusal(bundle_path) == reason, changes
    forge(bundle_path, {"encoder.onnx": random_encoder(seed=9)}, **{k: v for k, v in content.items() if k != "sha256"})
    assert refusal(bundle_path) == "GOLDEN_DRIFT"


@pytest.mark.parametrize("name", FILES)
def test_a_link_leads_only_to_what_the_manifest_promises(bundle_path: Path, name: str) -> None:
    """Links are followed, as deployments are made of them, and a link to a secret is refused without a word of its content."""
    (bundle_path / name).unlink()
    (bundle_path / name).symlink_to(PRIVATE)
    with pytest.raises(BundleError) as refused:
        load_bundle(bundle_path, device="cpu")
    assert refused.value.reason == "HASH_MISMATCH"
    assert "root" not in str(refused.value)
