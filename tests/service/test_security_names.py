"""Names that lead elsewhere: every text field of every RPC, filled with paths."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from serving import ServerThread, failure
from songserve.v1 import classification_pb2, ingest_pb2

PATHS = (
    "../../../../etc/passwd",
    "/etc/passwd",
    "songs/../../../../etc/passwd",
    "songs/..%2f..%2fetc%2fpasswd",
    "songs/..\\..\\etc",
    "songs/\x00",
    "songs/",
    "stations/../sessions/00000000-0000-0000-0000-000000000001",
    "stations/north/sessions/../../..",
    "stations/north/sessions/00000000-0000-0000-0000-000000000001/../x",
    "songTypes/../x",
    "modelBundles/../../etc/passwd",
    "file:///etc/passwd",
    "~root",
    "' OR 1=1 --",
    "a" * 10_000,
)
FREE = {"client", "file_name", "firmware", "client_version", "etag"}
"""Text that is shown and leads nowhere."""


def text_fields() -> Iterator[tuple[str, Any, FieldDescriptor]]:
    """Give method, request class and field for each text field of the request of each method, setups of streams included."""
    for name in ("ingest", "classification", "songs", "models"):
        module: Any = import_module(f"songserve.v1.{name}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                request = method.input_type
                setup = request.fields_by_name.get("setup")
                fields = (setup.message_type if setup else request).fields
                for field in fields:
                    if field.type == FieldDescriptor.TYPE_STRING and field.name not in FREE:
                        yield f"/{service.full_name}/{method.name}", request, field


FIELDS = list(text_fields())


def filled(request: Any, field: FieldDescriptor, text: str) -> Any:
    """Return a request with one text in one field."""
    message = GetMessageClass(request)()
    part: Any = getattr(message, "setup", message) if field.containing_type is not request else message
    if field.is_repeated:
        getattr(part, field.name).append(text)
    else:
        setattr(part, field.name, text)
    return message


def answers(channel: grpc.Channel, method: str, message: Any) -> tuple[str, str]:
    """Return code and reason of a call of any kind."""
    call: Any = channel.stream_stream(method, request_serializer=type(message).SerializeToString)
    try:
        list(call(iter([message]), timeout=30))
    except grpc.RpcError as error:
        return failure(error)[:2]
    return "OK", ""


@pytest.mark.parametrize(
    ("method", "request_class", "field"), FIELDS, ids=[f"{method}.{field.name}" for method, _, field in FIELDS]
)
def test_no_name_leads_out(
    shared_server: ServerThread, method: str, request_class: Any, field: FieldDescriptor
) -> None:
    """Each path is refused as a name that is none, or that is not there, and with a reason; nothing is opened or made."""
    folder = shared_server.settings.data_dir
    before = {path for path in folder.parent.rglob("*") if "clips" not in path.parts}
    for text in PATHS:
        code, reason = answers(shared_server.channel, method, filled(request_class, field, text))
        assert code in {"INVALID_ARGUMENT", "NOT_FOUND"}, (text, code, reason)
        assert reason, text
    assert {path for path in folder.parent.rglob("*") if "clips" not in path.parts} == before


def test_all_names_are_tried() -> None:
    """The fields that name something are found; a new one of another type would be missed and is added here."""
    found = {f"{method.rpartition('/')[2]}.{field.name}" for method, _, field in FIELDS}
    assert {
        "GetSong.name",
        "GetSongClip.name",
        "KeepSongClip.name",
        "ActivateModelBundle.name",
        "StartShadow.name",
        "StreamAudio.session",
    } <= found
    assert {"ListSongs.session", "ListSongs.page_token", "WatchSongs.resume_token", "GetSessionStatus.session"} <= found


@pytest.mark.parametrize("text", PATHS)
def test_a_file_name_is_only_shown(shared_server: ServerThread, text: str) -> None:
    """What a client calls its recording is opened by nobody: the upload is judged by its bytes, of which there are none."""
    setup = classification_pb2.ClassifyRecordingRequest(setup=classification_pb2.RecordingSetup(file_name=text))
    code, reason = answers(shared_server.channel, "/songserve.v1.ClassificationService/ClassifyRecording", setup)
    assert (code, reason) == ("INVALID_ARGUMENT", "EMPTY_RECORDING")


def test_what_a_client_calls_itself_is_only_text(shared_server: ServerThread) -> None:
    """A path as the client's version begins a session like any other text."""
    from serving import Stream, finish_message, session_name, setup

    first = setup(session_name("paths", 1))
    first.setup.client = PATHS[0]
    stream = Stream(shared_server.channel, first)
    stream.send(finish_message([]))
    assert isinstance(list(stream)[-1], ingest_pb2.StreamAudioResponse)
    stream.half_close()
