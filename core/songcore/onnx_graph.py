"""Which operators an ONNX model uses, found without running or trusting it, and without the onnx package.

Knows only the part of onnx.proto that leads to nodes; protobuf skips the rest.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from songcore.errors import BundleError

__all__ = ["check_operators"]

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
"""Operators of the ONNX standard; every other domain is code of one vendor or of the model's author."""
MAX_NODES = 20_000

# onnx.proto: message -> field -> (number, message or None for a string, repeated)
_SCHEMA: dict[str, dict[str, tuple[int, str | None, bool]]] = {
    "ModelProto": {"graph": (7, "GraphProto", False), "functions": (25, "FunctionProto", True)},
    "GraphProto": {"node": (1, "NodeProto", True)},
    "FunctionProto": {"name": (1, None, False), "node": (7, "NodeProto", True)},
    "NodeProto": {
        "op_type": (4, None, False),
        "attribute": (5, "AttributeProto", True),
        "domain": (7, None, False),
    },
    "AttributeProto": {"g": (6, "GraphProto", False), "graphs": (11, "GraphProto", True)},
}


def check_operators(model: bytes) -> None:
    """Raise BundleError ENCODER_FOREIGN_OPERATOR unless all nodes, of subgraphs too, are standard ones, and not too many.

    ENCODER_UNREADABLE when the bytes are no model.
    """
    try:
        parsed = _MODEL.FromString(model)
    except DecodeError as error:
        raise BundleError(f"the encoder is not an ONNX model ({error})", reason="ENCODER_UNREADABLE") from error
    if parsed.functions:
        raise _foreign(f"functions of its own ({parsed.functions[0].name!r}); export it with functions inlined")
    for count, node in enumerate(_nodes(parsed.graph), start=1):
        if node.domain not in STANDARD_DOMAINS:
            raise _foreign(f"the operator {node.op_type!r} of the domain {node.domain!r}; export it with standard ones")
        if count > MAX_NODES:
            raise _foreign(f"more than {MAX_NODES} nodes; a smaller encoder serves")


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _foreign(found: str) -> BundleError:
    return BundleError(f"the encoder has {found}", reason="ENCODER_FOREIGN_OPERATOR")


def _model_class() -> Any:
    file = FileDescriptorProto(name="songcore/onnx_part.proto", package="onnx_part", syntax="proto2")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, target, repeated) in fields.items():
            made = message.field.add(name=field, number=number)
            made.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            made.type = FieldDescriptorProto.TYPE_MESSAGE if target else FieldDescriptorProto.TYPE_STRING
            if target:
                made.type_name = f".onnx_part.{target}"
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("onnx_part.ModelProto"))


_MODEL = _model_class()
