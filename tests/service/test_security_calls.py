"""What a server with tokens lets in, and for how long."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from bundles import soundscape
from serving import ServerThread, Stream, chunk_messages, failure, finish_message, session_name, setup
from songcore.bundle import Bundle
from songserve.security.roles import Role
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, models_pb2, models_pb2_grpc, songs_pb2, songs_pb2_grpc
from tokens import add_token, run_token

CHUNKS = chunk_messages(soundscape([0, 1], 5)[0], [24_000])
"""With two songs."""


class Guarded:
    """A server with a token of each role."""

    def __init__(self, server: ServerThread, file: Path, tokens: dict[str, str]) -> None:
        self.server, self.file, self.tokens = server, file, tokens

    def metadata(self, who: str) -> Any:
        """Return the call metadata of one of the holders, or none."""
        return (("authorization", f"Bearer {self.tokens.get(who, who)}"),) if who else ()

    def stream(self, who: str, station: str = "north", number: int = 1) -> Stream:
        """Return a stream that has sent its setup."""
        first = setup(session_name(station, number))
        return Stream(self.server.channel, first, metadata=self.metadata(who))

    def refused(self, who: str, call: Any, request: Any) -> tuple[str, str]:
        """Return code and reason of a single call that is refused."""
        with pytest.raises(grpc.RpcError) as error:
            call(request, metadata=self.metadata(who))
        return failure(error.value)[:2]


@pytest.fixture
def guarded(bundle: Bundle, tmp_path: Path) -> Iterator[Guarded]:
    """Return a server that asks for tokens, of a station, a reader and an admin."""
    file = tmp_path / "tokens.json"
    tokens = {}
    holders: list[tuple[str, Role]] = [("north", "ingest"), ("reader", "read"), ("boss", "admin")]
    for name, role in holders:
        tokens[name] = add_token(file, name, role)
    with ServerThread(bundle, tmp_path / "data", token_file=file, recheck_s=0.05) as server:
        yield Guarded(server, file, tokens)


def test_a_station_streams_only_as_itself(guarded: Guarded) -> None:
    """Its own name is served; another's, no token, a wrong one and a reader's are refused with their reasons."""
    stream = guarded.stream("north")
    assert stream.read().setup_ack.expected_sequence_number == 1
    stream.half_close()
    assert guarded.stream("north", "south").fails_with()[:2] == ("PERMISSION_DENIED", "STATION_MISMATCH")
    assert guarded.stream("").fails_with()[:2] == ("UNAUTHENTICATED", "TOKEN_MISSING")
    assert guarded.stream("sst_" + "0" * 12 + "_" + "0" * 64).fails_with()[:2] == ("UNAUTHENTICATED", "TOKEN_INVALID")
    assert guarded.stream("reader").fails_with()[:2] == ("PERMISSION_DENIED", "ROLE_MISSING")


def test_a_station_asks_about_its_own_sessions_only(guarded: Guarded) -> None:
    """Status and songs of its own sessions; not of others', not of all, and nothing that is for readers."""
    ingest: Any = ingest_pb2_grpc.IngestServiceStub(guarded.server.channel)
    songs: Any = songs_pb2_grpc.SongServiceStub(guarded.server.channel)
    models: Any = models_pb2_grpc.ModelBundleServiceStub(guarded.server.channel)
    metadata = guarded.metadata("north")
    assert not songs.ListSongs(songs_pb2.ListSongsRequest(session=session_name()), metadata=metadata).songs
    own = ingest_pb2.GetSessionStatusRequest(session=session_name())
    assert guarded.refused("north", ingest.GetSessionStatus, own) == ("NOT_FOUND", "SESSION_UNKNOWN")
    other = ingest_pb2.GetSessionStatusRequest(session=session_name("south"))
    assert guarded.refused("north", ingest.GetSessionStatus, other) == ("PERMISSION_DENIED", "STATION_MISMATCH")
    others = songs_pb2.ListSongsRequest(session=session_name("south"))
    assert guarded.refused("north", songs.ListSongs, others) == ("PERMISSION_DENIED", "STATION_MISMATCH")
    everything = songs_pb2.ListSongsRequest()
    assert guarded.refused("north", songs.ListSongs, everything) == ("INVALID_ARGUMENT", "NAME_INVALID")
    model = models_pb2.ListModelBundlesRequest()
    assert guarded.refused("north", models.ListModelBundles, model) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert models.ListModelBundles(model, metadata=guarded.metadata("reader")).model_bundles


def test_a_session_is_asked_for_under_its_station_only(guarded: Guarded) -> None:
    """The UUID of another station's session under one's own name gives nothing of it: no songs, no status, no format."""
    guarded.tokens["south"] = add_token(guarded.file, "south")
    sung = guarded.stream("south", "south", 5)
    sung.send(*CHUNKS, finish_message(CHUNKS))
    assert list(sung)[-1].ack.finished
    sung.half_close()
    ingest: Any = ingest_pb2_grpc.IngestServiceStub(guarded.server.channel)
    songs: Any = songs_pb2_grpc.SongServiceStub(guarded.server.channel)
    own, its = session_name("north", 5), session_name("south", 5)

    def listed(who: str, session: str, station: str = "") -> int:
        request = songs_pb2.ListSongsRequest(session=session, station=station)
        return len(songs.ListSongs(request, metadata=guarded.metadata(who)).songs)

    assert (listed("south", its), listed("reader", its, "stations/south")) == (2, 2)
    assert (listed("north", own), listed("reader", own)) == (0, 0)
    both = songs_pb2.ListSongsRequest(session=its, station="stations/north")
    assert guarded.refused("reader", songs.ListSongs, both) == ("INVALID_ARGUMENT", "NAME_INVALID")
    status, end = ingest_pb2.GetSessionStatusRequest(session=own), ingest_pb2.FinishSessionRequest(session=own)
    assert guarded.refused("north", ingest.GetSessionStatus, status) == ("NOT_FOUND", "SESSION_UNKNOWN")
    assert guarded.refused("north", ingest.FinishSession, end) == ("NOT_FOUND", "SESSION_UNKNOWN")
    taken = guarded.stream("north", "north", 5)
    with pytest.raises(grpc.RpcError) as error:
        list(taken)
    taken.half_close()
    assert failure(error.value)[:2] == ("FAILED_PRECONDITION", "FORMAT_CHANGED")
    details = error.value.details() or ""
    assert "another station" in details
    assert "south" not in details
    assert "24000" not in details


def test_swapping_bundles_is_for_admins(guarded: Guarded) -> None:
    """A reader looks and may not change; an admin gets as far as the bundle, which is not there, and is known by name."""
    models: Any = models_pb2_grpc.ModelBundleServiceStub(guarded.server.channel)
    request = models_pb2.ActivateModelBundleRequest(name=f"modelBundles/{'0' * 64}")
    assert guarded.refused("reader", models.ActivateModelBundle, request) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert guarded.refused("boss", models.ActivateModelBundle, request) == ("NOT_FOUND", "BUNDLE_UNKNOWN")
    active = models_pb2.ValidateModelBundleRequest(name="modelBundles/active")
    assert models.ValidateModelBundle(active, metadata=guarded.metadata("boss")).state == models_pb2.ModelBundle.ACTIVE
    events = models_pb2.ListModelBundleEventsRequest()
    listed = models.ListModelBundleEvents(events, metadata=guarded.metadata("reader")).events
    assert [(event.kind, event.who) for event in listed] == [("validated", "boss"), ("started", "")]


def test_keeping_a_clip_is_for_admins(guarded: Guarded) -> None:
    """A reader is refused by role; an admin gets as far as the song, which is not there."""
    songs: Any = songs_pb2_grpc.SongServiceStub(guarded.server.channel)
    request = songs_pb2.KeepSongClipRequest(name="songs/0", keep=True)
    assert guarded.refused("reader", songs.KeepSongClip, request) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert guarded.refused("boss", songs.KeepSongClip, request) == ("NOT_FOUND", "SONG_UNKNOWN")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["revoke", "north"], ("UNAUTHENTICATED", "TOKEN_INVALID")),
        (["disable", "north"], ("PERMISSION_DENIED", "STATION_DISABLED")),
        (["rotate", "north", "--overlap-hours", "0"], ("UNAUTHENTICATED", "TOKEN_INVALID")),
        (["rotate", "north", "--overlap-hours", "0.0001"], ("UNAUTHENTICATED", "TOKEN_EXPIRED")),
    ],
)
def test_a_revoked_station_loses_its_open_stream(guarded: Guarded, change: list[str], reason: tuple[str, str]) -> None:
    """A stream that is open ends with the reason, the next is refused with it; one of another holder goes on."""
    other = add_token(guarded.file, "south")
    guarded.tokens["south"] = other
    stream, beside = guarded.stream("north"), guarded.stream("south", "south", 2)
    assert stream.read().HasField("setup_ack")
    assert beside.read().HasField("setup_ack")
    run_token(*change, "--file", str(guarded.file))
    assert stream.fails_with()[:2] == reason
    assert guarded.stream("north").fails_with()[:2] == reason
    beside.send(ingest_pb2.StreamAudioRequest(finish=ingest_pb2.Finish()))
    assert beside.read().ack.finished
    beside.half_close()


def test_a_revoked_reader_stops_watching(guarded: Guarded) -> None:
    """A subscription to new songs ends like a stream."""
    songs: Any = songs_pb2_grpc.SongServiceStub(guarded.server.channel)
    watching = songs.WatchSongs(songs_pb2.WatchSongsRequest(), metadata=guarded.metadata("reader"), timeout=60)
    assert next(iter(watching)).resume_token
    run_token("revoke", "reader", "--file", str(guarded.file))
    with pytest.raises(grpc.RpcError) as error:
        list(watching)
    assert failure(error.value)[:2] == ("UNAUTHENTICATED", "TOKEN_INVALID")


def test_the_log_never_holds_a_token(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """Good, unknown and misplaced tokens leave no trace in the log, at any level."""
    caplog.set_level("DEBUG")
    guarded.stream("north", "south").fails_with()
    unknown = "sst_" + "1" * 12 + "_" + "2" * 64
    guarded.stream(unknown).fails_with()
    for text in (guarded.tokens["north"], unknown):
        assert text.split("_")[2] not in caplog.text


def test_health_asks_for_nothing(guarded: Guarded) -> None:
    """A probe without a token learns that the server is up, and reflection without one is refused."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    health = health_pb2_grpc.HealthStub(guarded.server.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.server.channel)
    ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with pytest.raises(grpc.RpcError) as error:
        list(reflection.ServerReflectionInfo(iter(ask)))
    assert failure(error.value)[:2] == ("UNAUTHENTICATED", "TOKEN_MISSING")
    assert list(reflection.ServerReflectionInfo(iter(ask), metadata=guarded.metadata("reader")))
