"""How long names may be and how many a request may ask for, each at its end and one past it, over a real port."""

from typing import Any

import grpc
import pytest

from serving import ServerThread, Stream, failure, finish_message, session_name, setup
from songserve.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    recluster_pb2,
    recluster_pb2_grpc,
    songs_pb2,
    songs_pb2_grpc,
)

UNKNOWN = {
    "GetSessionStatus": (63, "SESSION_UNKNOWN"),
    "GetSong": (63, "SONG_UNKNOWN"),
    "GetSongType": (63, "TYPE_UNKNOWN"),
    "GetReclustering": (63, "RECLUSTERING_UNKNOWN"),
    "GetModelBundle": (64, "BUNDLE_UNKNOWN"),
}
"""By call, the longest name that it takes, and what it says of one that is not there."""


def ask(server: ServerThread, method: str, n: int) -> tuple[str, str]:
    """Return how a call with a name or id of so many characters is refused."""
    text = "a" * n
    stubs: dict[str, tuple[Any, Any]] = {
        "GetSessionStatus": (
            ingest_pb2_grpc.IngestServiceStub,
            ingest_pb2.GetSessionStatusRequest(session=session_name(text)),
        ),
        "GetSong": (songs_pb2_grpc.SongServiceStub, songs_pb2.GetSongRequest(name=f"songs/{text}")),
        "GetSongType": (
            catalogue_pb2_grpc.CatalogueServiceStub,
            catalogue_pb2.GetSongTypeRequest(name=f"songTypes/{text}"),
        ),
        "GetReclustering": (
            recluster_pb2_grpc.ReclusterServiceStub,
            recluster_pb2.GetReclusteringRequest(name=f"reclusterings/{text}"),
        ),
        "GetModelBundle": (
            models_pb2_grpc.ModelBundleServiceStub,
            models_pb2.GetModelBundleRequest(name=f"modelBundles/{text}"),
        ),
    }
    stub, request = stubs[method]
    return refused(getattr(stub(server.channel), method), request)


def refused(call: Any, request: Any) -> tuple[str, str]:
    """Return code and reason of a call, OK and nothing where it is answered."""
    try:
        call(request)
    except grpc.RpcError as error:
        return failure(error)[:2]
    return "OK", ""


@pytest.mark.parametrize("method", UNKNOWN)
def test_a_name_is_so_long(shared_server: ServerThread, method: str) -> None:
    """The longest is a name, of nothing here; one character more is none."""
    most, unknown = UNKNOWN[method]
    assert ask(shared_server, method, most) == ("NOT_FOUND", unknown)
    assert ask(shared_server, method, most + 1) == ("INVALID_ARGUMENT", "NAME_INVALID")


def test_a_station_is_called_so_long(shared_server: ServerThread) -> None:
    """A station of 63 characters is served, one of 64 is no station."""
    stream = Stream(shared_server.channel, setup(session_name("s" * 63, 41)))
    stream.send(finish_message([]))
    assert list(stream)[-1].ack.finished
    stream.half_close()
    longer = Stream(shared_server.channel, setup(session_name("s" * 64, 42)))
    assert longer.fails_with()[:2] == ("INVALID_ARGUMENT", "SETUP_INVALID")


@pytest.mark.parametrize(("who", "name"), [("w" * 80, "n" * 81), ("w" * 81, "n" * 80), ("w" * 80, "n" * 80)])
def test_what_people_write_is_so_long(shared_server: ServerThread, who: str, name: str) -> None:
    """Eighty characters say who decides, and what a type is called; 81 say neither."""
    stub: Any = catalogue_pb2_grpc.CatalogueServiceStub(shared_server.channel)
    song_type = stub.GetSongType(catalogue_pb2.GetSongTypeRequest(name="songTypes/T0001"))
    request = catalogue_pb2.NameSongTypeRequest(
        name="songTypes/T0001", etag=song_type.etag, decided_by=who, display_name=name
    )
    reasons = {(80, 80): ("OK", ""), (81, 80): ("INVALID_ARGUMENT", "WHO_INVALID")}
    expected = reasons.get((len(who), len(name)), ("INVALID_ARGUMENT", "TYPE_NAME_INVALID"))
    assert refused(stub.NameSongType, request) == expected


@pytest.mark.parametrize(("field", "collection"), [("stations", "stations"), ("song_types", "songTypes")])
def test_a_request_asks_for_so_many(shared_server: ServerThread, field: str, collection: str) -> None:
    """A thousand are answered, one more is refused."""
    stub: Any = songs_pb2_grpc.SongServiceStub(shared_server.channel)
    for n, expected in ((1_000, ("OK", "")), (1_001, ("INVALID_ARGUMENT", "FILTER_TOO_LONG"))):
        request = songs_pb2.QueryFrequenciesRequest()
        getattr(request, field).extend(f"{collection}/t{number}" for number in range(n))
        assert refused(stub.QueryFrequencies, request) == expected


def test_so_many_results_are_taken_at_once(shared_server: ServerThread) -> None:
    """A thousand results of a retyping are looked at, and the first found to be of no song; one more is refused unread."""
    stub: Any = models_pb2_grpc.ModelBundleServiceStub(shared_server.channel)
    for n, said in ((1_000, "'' from '' is no result of a song"), (1_001, "1001 results, at most 1000")):
        request = models_pb2.AddRetypingsRequest(name="modelBundles/active", retypings=[models_pb2.Retyping()] * n)
        with pytest.raises(grpc.RpcError) as error:
            stub.AddRetypings(request)
        assert failure(error.value)[1] == "RETYPINGS_INVALID"
        assert said in (error.value.details() or "")
