"""Names that lead elsewhere: every text field of every RPC, filled with paths."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

import songserve.v1
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
FREE = {"client", "file_name", "firmware", "client_version", "etag", "into_etag", "display_name", "decided_by"}
"""Text that is shown and leads nowhere."""
NAMES = {"CatalogueService": "songTypes/T0001", "ModelBundleService": f"modelBundles/{'0' * 64}"}
"""What a request is about whose other fields are tried."""


def text_fields() -> Iterator[tuple[str, Any, tuple[FieldDescriptor, ...]]]:
    """Give method, request class and where it is for each text field of a request, or of a message in it."""
    for module in iter_modules(songserve.v1.__path__):
        if not module.name.endswith("_pb2"):
            continue
        services = import_module(f"songserve.v1.{module.name}").DESCRIPTOR.services_by_name
        for method in (method for service in services.values() for method in service.methods):
            for place in places(method.input_type):
                yield f"/{method.containing_service.full_name}/{method.name}", method.input_type, place


def places(message: Any) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Give the fields that lead to each text of a message."""
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_STRING and field.name not in FREE:
            yield (field,)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from ((field, *inner) for inner in places(field.message_type))


FIELDS = list(text_fields())
IDS = [f"{method}.{'.'.join(field.name for field in place)}" for method, _, place in FIELDS]


def filled(request: Any, place: tuple[FieldDescriptor, ...], method: str, text: str) -> Any:
    """Return a request with one text in one field, and a name that could be where that is another field."""
    message: Any = GetMessageClass(request)()
    part = message
    if place[0].name != "name" and "name" in request.fields_by_name:
        message.name = NAMES[method.split("/")[1].rpartition(".")[2]]
    for field in place[:-1]:
        part = getattr(part, field.name)
        part = part.add() if field.is_repeated else part
    if place[-1].is_repeated:
        getattr(part, place[-1].name).append(text)
    else:
        setattr(part, place[-1].name, text)
    return message


def answers(channel: grpc.Channel, method: str, message: Any) -> tuple[str, str]:
    """Return code and reason of a call of any kind."""
    call: Any = channel.stream_stream(method, request_serializer=type(message).SerializeToString)
    try:
        list(call(iter([message]), timeout=30))
    except grpc.RpcError as error:
        return failure(error)[:2]
    return "OK", ""


@pytest.mark.parametrize(("method", "request_class", "place"), FIELDS, ids=IDS)
def test_no_name_leads_out(
    shared_server: ServerThread, method: str, request_class: Any, place: tuple[FieldDescriptor, ...]
) -> None:
    """Each path is refused as a name that is none, or that is not there, and with a reason; nothing is opened or made."""
    folder = shared_server.settings.data_dir
    before = {path for path in folder.parent.rglob("*") if "clips" not in path.parts}
    for text in PATHS:
        code, reason = answers(shared_server.channel, method, filled(request_class, place, method, text))
        assert code in {"INVALID_ARGUMENT", "NOT_FOUND"}, (text, code, reason)
        assert reason, text
    assert {path for path in folder.parent.rglob("*") if "clips" not in path.parts} == before


def test_all_names_are_tried() -> None:
    """The fields that name something are found; a new one of another type would be missed and is added here."""
    assert {name.rpartition("/")[2] for name in IDS} >= {
        "GetSong.name",
        "GetSongClip.name",
        "KeepSongClip.name",
        "ListSongs.page_token",
        "WatchSongs.resume_token",
        "StreamAudio.setup.session",
        "GetSessionStatus.session",
        "ActivateModelBundle.name",
        "StartShadow.name",
        "AddRetypings.retypings.song",
        "MergeSongTypes.into",
        "SplitSongType.songs",
        "UndoDecision.name",
        "StartReclustering.reclustering_id",
        "CancelReclustering.name",
    }


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
