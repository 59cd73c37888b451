"""The questions one can ask a running server, and what Prometheus sees."""

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bundles import soundscape
from serving import START_MS, ServerThread, failure, scrape, session_name, setup, stream_all
from songcore.bundle import Bundle
from songserve.server import SERVICES
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, models_pb2, models_pb2_grpc, songs_pb2, songs_pb2_grpc

DOCS = Path(__file__).resolve().parents[2] / "docs"
RATE = 24_000


@pytest.fixture(scope="module")
def heard(shared_server: ServerThread) -> ServerThread:
    """Return the server after it heard two stations, of which one heard songs of every type."""
    stream_all(shared_server.channel, soundscape([0, 1, 2, 3, 4, 5], 31)[0], [RATE], setup(session_name("north", 1)))
    stream_all(shared_server.channel, soundscape([0], 32)[0], [RATE], setup(session_name("south", 2)))
    return shared_server


def songs_stub(server: ServerThread) -> Any:
    """Return the stub of SongService."""
    return songs_pb2_grpc.SongServiceStub(server.channel)


def refusal(call: Any, request: Any) -> tuple[str, str]:
    """Return code and reason of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call(request)
    return failure(failed.value)[:2]


def test_songs_are_listed_page_by_page_and_found_by_name(heard: ServerThread) -> None:
    """All songs come in order of time over pages, and each can be had by its name."""
    stub = songs_stub(heard)
    found: list[Any] = []
    token = ""
    while True:
        page = stub.ListSongs(songs_pb2.ListSongsRequest(page_size=3, page_token=token))
        found += page.songs
        token = page.next_page_token
        if not token:
            break
    assert len(found) == 7
    starts = [song.start_time.ToMilliseconds() for song in found]
    assert starts == sorted(starts)
    assert stub.GetSong(songs_pb2.GetSongRequest(name=found[2].name)) == found[2]
    south = stub.ListSongs(songs_pb2.ListSongsRequest(station="stations/south")).songs
    assert [song.station for song in south] == ["stations/south"]


def test_types_and_frequencies_add_up(heard: ServerThread) -> None:
    """Counts by type equal the list's, and both stations' seconds are the audio that was sent."""
    stub = songs_stub(heard)
    listed = stub.ListSongs(songs_pb2.ListSongsRequest(page_size=1000)).songs
    buckets = stub.QueryFrequencies(songs_pb2.QueryFrequenciesRequest(bucket=Duration(seconds=3600))).buckets
    n_known = sum(count.n_songs for bucket in buckets for count in bucket.counts)
    assert n_known + sum(bucket.n_novel for bucket in buckets) == len(listed)
    types = stub.ListSongTypes(songs_pb2.ListSongTypesRequest()).song_types
    assert sum(song_type.n_songs for song_type in types) == n_known
    seconds = {bucket.station: bucket.recorded_s for bucket in buckets}
    many = [f"s{n}" for n in range(999)]  # with the one that is there, as many as are taken
    named = stub.QueryFrequencies(
        songs_pb2.QueryFrequenciesRequest(
            stations=["stations/north", *(f"stations/{name}" for name in many)],
            song_types=[*(song_type.name for song_type in types), *(f"songTypes/{name}" for name in many)][:1_000],
        )
    ).buckets
    assert {bucket.station: bucket.recorded_s for bucket in named} == {"stations/north": seconds["stations/north"]}
    assert seconds["stations/north"] == pytest.approx(len(soundscape([0, 1, 2, 3, 4, 5], 31)[0]) / RATE)
    assert buckets[0].start_time.ToMilliseconds() == START_MS - START_MS % 3_600_000


@pytest.mark.parametrize(
    ("method", "request_message", "expected"),
    [
        ("GetSong", songs_pb2.GetSongRequest(name="x"), ("INVALID_ARGUMENT", "NAME_INVALID")),
        ("GetSong", songs_pb2.GetSongRequest(name="songs/0"), ("NOT_FOUND", "SONG_UNKNOWN")),
        (
            "ListSongs",
            songs_pb2.ListSongsRequest(page_token="?"),  # noqa: S106 - no secret
            ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"),
        ),
        ("ListSongs", songs_pb2.ListSongsRequest(station="north"), ("INVALID_ARGUMENT", "NAME_INVALID")),
        (
            "QueryFrequencies",
            songs_pb2.QueryFrequenciesRequest(bucket=Duration(seconds=90)),
            ("INVALID_ARGUMENT", "BUCKET_INVALID"),
        ),
        (
            "QueryFrequencies",
            songs_pb2.QueryFrequenciesRequest(bucket=Duration(seconds=3600 * 2**50)),
            ("INVALID_ARGUMENT", "BUCKET_INVALID"),
        ),
        (
            "QueryFrequencies",
            songs_pb2.QueryFrequenciesRequest(stations=[f"stations/s{n}" for n in range(1_001)]),
            ("INVALID_ARGUMENT", "FILTER_TOO_LONG"),
        ),
        (
            "QueryFrequencies",
            songs_pb2.QueryFrequenciesRequest(song_types=[f"songTypes/T{n}" for n in range(40_000)]),
            ("INVALID_ARGUMENT", "FILTER_TOO_LONG"),
        ),
        (
            "QueryFrequencies",
            songs_pb2.QueryFrequenciesRequest(start_time=Timestamp(seconds=90)),
            ("INVALID_ARGUMENT", "INTERVAL_INVALID"),
        ),
        (
            "ListSongs",
            songs_pb2.ListSongsRequest(start_time=Timestamp(seconds=90), end_time=Timestamp(seconds=90)),
            ("INVALID_ARGUMENT", "INTERVAL_INVALID"),
        ),
    ],
)
def test_questions_without_an_answer_are_refused(
    heard: ServerThread, method: str, request_message: Any, expected: tuple[str, str]
) -> None:
    """Wrong names, tokens, intervals and buckets, and things that are not there, get their reasons."""
    assert refusal(getattr(songs_stub(heard), method), request_message) == expected


def test_the_model_tells_what_it_is(heard: ServerThread, bundle: Bundle) -> None:
    """The active model has the bundle's digest, real provider and delay; others are not found."""
    stub: Any = models_pb2_grpc.ModelBundleServiceStub(heard.channel)
    model = stub.GetModelBundle(models_pb2.GetModelBundleRequest(name="modelBundles/active"))
    assert model.digest == bundle.digest
    assert (model.state, model.n_song_types) == (models_pb2.ModelBundle.ACTIVE, len(bundle.types))
    assert model.provider == "CPUExecutionProvider"
    assert model.decision_delay.ToNanoseconds() / 1e9 == pytest.approx(bundle.manifest.segmenter.decision_delay_s)
    assert model.segmenter["max_song_s"] == bundle.manifest.segmenter.max_song_s
    assert list(stub.ListModelBundles(models_pb2.ListModelBundlesRequest()).model_bundles) == [model]
    unknown = models_pb2.GetModelBundleRequest(name="modelBundles/0")
    assert refusal(stub.GetModelBundle, unknown) == ("NOT_FOUND", "BUNDLE_UNKNOWN")


def test_session_status_needs_no_stream(heard: ServerThread) -> None:
    """A session's status is that of the store; unknown sessions are not found."""
    stub: Any = ingest_pb2_grpc.IngestServiceStub(heard.channel)
    status = stub.GetSessionStatus(ingest_pb2.GetSessionStatusRequest(session=session_name("north", 1)))
    assert status.finished
    assert not status.connected
    assert status.n_songs == 6
    assert status.capture_start_time.ToMilliseconds() == START_MS
    unknown = ingest_pb2.GetSessionStatusRequest(session=session_name("south", 1))
    assert refusal(stub.GetSessionStatus, unknown) == ("NOT_FOUND", "SESSION_UNKNOWN")


def test_health_and_reflection_know_every_service(heard: ServerThread) -> None:
    """Every service is SERVING and listed by reflection."""
    health: Any = health_pb2_grpc.HealthStub(heard.channel)
    for service in ("", *SERVICES):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(heard.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    listed = {service.name for service in answer.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed


def value(text: str, name: str) -> float:
    """Return a sample's value."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not on the page"
    return float(found[1])


def test_metrics_count_what_the_store_holds(heard: ServerThread, bundle: Bundle, tmp_path: Path) -> None:
    """Songs by type and recorded seconds equal the store's, also after a restart, which begins from the store."""
    samples, _ = soundscape([0, 0, 5], 33)

    def counted(text: str) -> dict[str, float]:
        return {
            name: float(n)
            for name, n in re.findall(r'^songstream_songs_total\{song_type="(\w+)"\} (\S+)$', text, re.MULTILINE)
        }

    with ServerThread(bundle, tmp_path) as server:
        stream_all(server.channel, samples, [RATE])
        before = scrape(server)
        assert sum(counted(before).values()) == 3
        assert value(before, 'songstream_recorded_seconds_total{station="north"}') == pytest.approx(len(samples) / RATE)
        assert value(before, 'songstream_ingest_chunks_total{outcome="accepted"}') == -(-len(samples) // RATE)
        assert value(before, "songstream_inference_songs_total") == 3
    with ServerThread(bundle, tmp_path) as server:
        after = scrape(server)
        assert counted(after) == counted(before)
        assert value(after, 'songstream_recorded_seconds_total{station="north"}') == pytest.approx(len(samples) / RATE)
    text = scrape(heard)
    handled = (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="StreamAudio",grpc_service="songserve.v1.IngestService"'
    )
    assert handled in text


def test_every_metric_is_documented(heard: ServerThread) -> None:
    """Every metric family of a live page stands in docs/operating.md, and every one there is on the page."""
    families = set(re.findall(r"^# TYPE ((?:songstream|grpc_server)_\w+) ", scrape(heard), re.MULTILINE))
    families = {name for name in families if not name.endswith("_created")}
    documented = set(re.findall(r"`((?:songstream|grpc_server)_[a-z_]+)[`{]", (DOCS / "operating.md").read_text()))
    assert families == documented


def test_every_call_is_documented() -> None:
    """The table of services in docs/protocol.md names every service that runs, with all of its methods and no others."""
    table = (DOCS / "protocol.md").read_text().split("| service |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", row) for row in table.splitlines() if re.match(r"\| `\w+` \|", row)]
    documented = {service: set(methods) for service, *methods in rows}
    pool = descriptor_pool.Default()
    assert documented == {
        service.rpartition(".")[2]: set(pool.FindServiceByName(service).methods_by_name) for service in SERVICES
    }


def test_every_reason_is_documented() -> None:
    """Every reason that the service's code can give stands in docs/protocol.md or one of the pages it names."""
    package = DOCS.parent / "service" / "songserve"
    sources = [*package.glob("*.py"), *(package / "servicers").glob("*.py")]
    reasons = {reason for source in sources for reason in re.findall(r'reason="([A-Z_]+)"', source.read_text())}
    documented = set(re.findall(r"`([A-Z_]+)`", (DOCS / "protocol.md").read_text()))
    for page in ("operating.md", "reasons.md"):
        documented |= set(re.findall(r"`([A-Z_]+)`", (DOCS / page).read_text()))
    assert reasons <= documented, sorted(reasons - documented)
