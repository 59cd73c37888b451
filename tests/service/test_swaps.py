"""Bundles that are swapped while stations stream: no stream ends, no song is lost, and each song names the bundle it had."""

import asyncio
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from bundles import GATE, Family, bundle_parts, put_on_shelf, soundscape
from serving import (
    ServerProcess,
    ServerThread,
    Stream,
    chunk_messages,
    failure,
    finish_message,
    scrape,
    session_name,
    setup,
    stream_all,
)
from songcore.bundle import load_bundle
from songcore.errors import ConfigError
from songserve.commands.models import models as command
from songserve.server import serving
from songserve.v1 import ingest_pb2, models_pb2, models_pb2_grpc, songs_pb2, songs_pb2_grpc

RATE = 24_000
ACTIVE, READY, STAGED, FAILED, RETIRED = (
    models_pb2.ModelBundle.State.Value(name) for name in ("ACTIVE", "READY", "STAGED", "FAILED", "RETIRED")
)
Serving = ServerThread | ServerProcess


@pytest.fixture
def server(family: Family, tmp_path: Path) -> Iterator[ServerThread]:
    """Return a server of the first bundle."""
    first = load_bundle(family.first_dir, device="cpu")
    settings: dict[str, Any] = {"bundle": family.first_dir, "models_dir": family.shelf, "listen_window_ms": 10.0}
    with ServerThread(first, tmp_path / "data", **settings) as server:
        yield server


def stub(server: Serving) -> Any:
    """Return the stub of ModelBundleService."""
    return models_pb2_grpc.ModelBundleServiceStub(server.channel)


def activate(server: Serving, digest: str, *accepted: str, **fields: Any) -> Any:
    """Activate a bundle."""
    name = f"modelBundles/{digest}"
    request = models_pb2.ActivateModelBundleRequest(name=name, accepted_findings=accepted, **fields)
    return stub(server).ActivateModelBundle(request, timeout=60)


def roll_back(server: Serving) -> Any:
    """Return to the bundle before."""
    return stub(server).RollbackModelBundle(models_pb2.RollbackModelBundleRequest(), timeout=60)


def refused(call: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
    """Return code and reason of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call(*arguments, **options)
    return failure(failed.value)[:2]


def active(server: Serving) -> str:
    """Return the digest of the active bundle."""
    request = models_pb2.GetModelBundleRequest(name="modelBundles/active")
    return str(stub(server).GetModelBundle(request).digest)


def listed(server: Serving) -> dict[str, Any]:
    """Return all bundles by digest."""
    found = stub(server).ListModelBundles(models_pb2.ListModelBundlesRequest()).model_bundles
    return {bundle.digest: bundle for bundle in found}


def songs_of(server: Serving) -> list[Any]:
    """Return all songs that are stored, in order of time."""
    request = songs_pb2.ListSongsRequest(page_size=1000)
    stub: Any = songs_pb2_grpc.SongServiceStub(server.channel)
    return list(stub.ListSongs(request).songs)


def digest_of(song: Any, family: Family) -> str:
    """Return the bundle of a song, after a look at whether its type is one of that bundle."""
    digest = str(song.model_bundle.removeprefix("modelBundles/"))
    assert re.sub("[0-9]", "", song.song_type.removeprefix("songTypes/")) == family.prefixes[digest]
    return digest


def test_a_swap_disturbs_no_stream(server: ServerThread, family: Family) -> None:
    """Streams of three stations go on over two swaps: every song once, of the bundle that was active, and no stream reset."""
    samples, truth = soundscape([0, 1, 2, 3, 4, 5], 41)
    chunks = chunk_messages(samples, [RATE // 2])
    streams = [Stream(server.channel, setup(session_name(f"s{n}", n + 1))) for n in range(3)]
    ends = [len(chunks) // 3, 2 * len(chunks) // 3, len(chunks)]
    begin = 0
    for end, following in zip(ends, (family.child, family.other_ears, ""), strict=True):
        for stream in streams:
            stream.send(*chunks[begin:end])
            stream.responses += stream.read_until_received(end)
        if following:
            accepted = ("FRONTEND_DIFFERS", "PARENT_NOT_ACTIVE") if following == family.other_ears else ()
            assert activate(server, following, *accepted).state == ACTIVE
        begin = end
    for stream in streams:
        stream.send(finish_message(chunks))
        stream.responses += list(stream)
        stream.half_close()
        kinds = [response.session_event.kind for response in stream.responses if response.HasField("session_event")]
        assert kinds.count(ingest_pb2.SessionEvent.KIND_BUNDLE_CHANGED) == 2
    by_station: dict[str, list[str]] = {f"stations/s{n}": [] for n in range(3)}
    for song in songs_of(server):
        by_station[song.station].append(digest_of(song, family))
    order = [family.first, family.child, family.other_ears]
    for digests in by_station.values():
        assert len(digests) == len(truth)
        assert digests == sorted(digests, key=order.index)
        assert set(digests) == set(order)
    states = {digest: bundle.state for digest, bundle in listed(server).items()}
    assert (states[family.other_ears], states[family.child]) == (ACTIVE, RETIRED)


def test_a_storm_of_swaps_loses_nothing(server: ServerThread, family: Family) -> None:
    """While two people activate one bundle after another, streams find every song once; nobody meets a half-made swap."""
    samples, truth = soundscape([0, 1, 2, 3, 4, 5], 43)
    over, outcomes = threading.Event(), list[str]()

    def swap(order: list[str]) -> None:
        while not over.is_set():
            for digest in order:
                try:
                    activate(server, digest, "FRONTEND_DIFFERS", "PARENT_NOT_ACTIVE")
                    outcomes.append("activated")
                except grpc.RpcError as error:
                    outcomes.append(failure(error)[1])
                    over.wait(0.05)

    def stream(number: int) -> Any:
        chunks = chunk_messages(samples, [RATE // 4])
        call = Stream(server.channel, setup(session_name(f"s{number}", number + 1)))
        for begin in range(0, len(chunks), 8):
            call.send(*chunks[begin : begin + 8])
            call.read_until_received(min(begin + 8, len(chunks)))
            swaps, until = outcomes.count("activated"), time.monotonic() + 10
            while outcomes.count("activated") == swaps and time.monotonic() < until:
                time.sleep(0.01)
        call.send(finish_message(chunks))
        return list(call)[-1]

    with ThreadPoolExecutor(5) as threads:
        orders = [family.child, family.other_ears, family.first, family.grandchild], [family.grandchild, family.first]
        swapping = [threads.submit(swap, order) for order in orders]
        streaming = [threads.submit(stream, number) for number in range(3)]
        try:
            lasts = [call.result(100) for call in streaming]
        finally:
            over.set()
        for storm in swapping:
            storm.result(60)
    assert all(last.ack.finished for last in lasts)
    songs = songs_of(server)
    assert len(songs) == 3 * len(truth)
    assert len({digest_of(song, family) for song in songs}) > 1
    assert outcomes.count("activated") >= 4
    assert set(outcomes) <= {"activated", "SWAP_RUNNING", "ALREADY_ACTIVE"}
    page = scrape(server)
    counted = re.search(r'^songstream_model_swaps_total\{outcome="activated"\} (\S+)', page, re.MULTILINE)
    assert counted
    assert float(counted[1]) == outcomes.count("activated")
    assert re.findall(r'^songstream_model_bundle_info\{digest="(\w+)"', page, re.MULTILINE) == [active(server)]


def test_what_cannot_be_activated_changes_nothing(server: ServerThread, family: Family) -> None:
    """Every bundle and request that is refused has its reason, and the stream beside it does not notice."""
    parts = replace(bundle_parts(), gate=GATE)
    failed = GATE[0].model_copy(update={"passed": False, "value": 0.5, "bound": "at least 0.85"})
    made: dict[str, tuple[dict[str, Any], str]] = {
        "orphan": ({"parent_digest": "0" * 64}, "PARENT_UNKNOWN"),
        "trained-anew": ({}, "PARENT_UNKNOWN"),
        "weak": ({"gate": (failed, *GATE[1:]), "parent_digest": family.first}, "GATE_FAILED"),
        "ungated": ({"gate": (), "parent_digest": family.first}, "GATE_MISSING"),
    }
    not_ready: dict[str, str] = {
        put_on_shelf(family.shelf, parts, name=name, **changes).digest: reason
        for name, (changes, reason) in made.items()
    }
    broken, altered = family.shelf / ("b" * 64), family.shelf / ("c" * 64)
    broken.mkdir()
    shutil.copytree(family.shelf / family.child, altered)
    samples, truth = soundscape([0, 1, 2], 44)
    chunks = chunk_messages(samples, [RATE])
    stream = Stream(server.channel, setup())
    stream.send(*chunks[:3])
    try:
        for digest, finding in {**not_ready, family.other_ears: "FRONTEND_DIFFERS"}.items():
            assert refused(activate, server, digest) == ("FAILED_PRECONDITION", "BUNDLE_NOT_READY")
            bundle = listed(server)[digest]
            assert (bundle.state, [found.reason for found in bundle.findings]) == (FAILED, [finding])
            assert activate(server, digest, finding, validate_only=True).state == FAILED
        for path in (broken, altered):
            found = refused(activate, server, path.name, "FILE_MISSING", "HASH_MISMATCH")
            assert found == ("FAILED_PRECONDITION", "ACTIVATION_FAILED")
            assert listed(server)[path.name].state == FAILED
        broken.rmdir()
        assert refused(activate, server, broken.name) == ("NOT_FOUND", "BUNDLE_UNKNOWN")
        assert refused(activate, server, family.first) == ("FAILED_PRECONDITION", "ALREADY_ACTIVE")
        assert refused(activate, server, family.child, etag="0.0") == ("ABORTED", "ETAG_MISMATCH")
        assert refused(roll_back, server) == ("FAILED_PRECONDITION", "NO_EARLIER_BUNDLE")
        assert active(server) == family.first
    finally:
        for name in (*not_ready, altered.name):
            shutil.rmtree(family.shelf / name)
    stream.send(*chunks[3:], finish_message(chunks))
    assert list(stream)[-1].ack.finished
    assert [digest_of(song, family) for song in songs_of(server)] == [family.first] * len(truth)


def test_two_people_and_the_way_back(server: ServerThread, family: Family) -> None:
    """Of two who read the same, one activates; a rollback leads back step by step; the history tells all of it."""
    before = listed(server)
    assert before[family.child].state == STAGED
    validate = models_pb2.ValidateModelBundleRequest(name=f"modelBundles/{family.child}")
    assert stub(server).ValidateModelBundle(validate).state == READY
    assert activate(server, family.child, etag=listed(server)[family.child].etag).state == ACTIVE
    late = before[family.grandchild].etag
    assert refused(activate, server, family.grandchild, etag=late) == ("ABORTED", "ETAG_MISMATCH")
    assert activate(server, family.grandchild).state == ACTIVE
    assert [roll_back(server).digest, roll_back(server).digest] == [family.child, family.first]
    assert refused(roll_back, server) == ("FAILED_PRECONDITION", "NO_EARLIER_BUNDLE")
    token, told = "", list[tuple[str, str]]()
    while True:
        request = models_pb2.ListModelBundleEventsRequest(page_size=3, page_token=token)
        page = stub(server).ListModelBundleEvents(request)
        told += [(event.kind, event.model_bundle.removeprefix("modelBundles/")) for event in page.events]
        token = page.next_page_token
        if not token:
            break
    assert [event for event in reversed(told) if event[0] != "validated"] == [
        ("started", family.first),
        ("activated", family.child),
        ("activated", family.grandchild),
        ("rolled_back", family.child),
        ("rolled_back", family.first),
    ]


def test_a_shadow_compares_and_decides_nothing(server: ServerThread, family: Family) -> None:
    """The child names every song of live streams too; its ids differ, and no row is its. Another front end is refused."""
    start = models_pb2.StartShadowRequest(name=f"modelBundles/{family.child}")
    other = models_pb2.StartShadowRequest(name=f"modelBundles/{family.other_ears}")
    assert refused(stub(server).GetShadow, models_pb2.GetShadowRequest()) == ("NOT_FOUND", "NO_SHADOW")
    assert refused(stub(server).StartShadow, other) == ("FAILED_PRECONDITION", "FRONTEND_DIFFERS")
    assert stub(server).StartShadow(start).n_songs == 0
    samples, truth = soundscape([0, 1, 2, 3, 4, 5], 45)
    stream_all(server.channel, samples, [RATE])
    shadow = stub(server).StopShadow(models_pb2.StopShadowRequest())
    assert (shadow.n_songs, shadow.n_left_out) == (len(truth), 0)
    assert shadow.n_novel_active == shadow.n_novel_candidate == shadow.n_novel_both
    assert shadow.n_other == len(truth) - shadow.n_novel_both == sum(pair.n_songs for pair in shadow.pairs)
    assert shadow.p_value_drift == shadow.p_value_shift == 0
    assert [digest_of(song, family) for song in songs_of(server)] == [family.first] * len(truth)
    assert refused(stub(server).GetShadow, models_pb2.GetShadowRequest()) == ("NOT_FOUND", "NO_SHADOW")


def test_the_command_does_all_of_it(server: ServerThread, family: Family) -> None:
    """`songstream models` lists, validates, activates with an accepted finding, shadows and rolls back."""

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(command, ["--server", server.addresses.grpc, *arguments, "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    assert [bundle["state"] for bundle in run("list")] == ["ACTIVE", "STAGED", "STAGED", "STAGED"]
    assert run("validate", "child")["state"] == "READY"
    assert run("validate", "other-ears", code=1)["findings"][0]["reason"] == "FRONTEND_DIFFERS"
    assert run("activate", "other-ears", "--accept", "FRONTEND_DIFFERS", "--dry-run")["state"] == "FAILED"
    assert run("activate", family.child[:10])["state"] == "ACTIVE"
    assert run("shadow", "start", "grandchild")["n_songs"] == "0"
    assert run("rollback")["digest"] == family.first
    assert [event["kind"] for event in run("history", "--limit", "2")] == ["shadowed", "rolled_back"]
    assert run("history", "--last", "2") == run("history", "--limit", "2")
    missing = CliRunner().invoke(command, ["--server", server.addresses.grpc, "show", "nothing"])
    assert isinstance(missing.exception, ConfigError)
    assert missing.exception.reason == "BUNDLE_UNKNOWN"
    human = CliRunner().invoke(command, ["--server", server.addresses.grpc, "show", "child"], env={"COLUMNS": "200"})
    assert family.child in human.stdout


def test_the_command_is_read_at_80_columns(server: ServerThread, family: Family) -> None:
    """Digests are whole, no line of words is longer, and parts of the manifest with many settings are left to --json."""
    terminal = {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}

    def shown(*arguments: str) -> str:
        done = CliRunner().invoke(command, ["--server", server.addresses.grpc, *arguments], env=terminal)
        assert not done.exception or isinstance(done.exception, SystemExit), done.exception
        text = re.sub(r"\x1b\[\d+m", "", done.stdout)
        assert "…" not in text
        assert all(len(line) <= 80 for line in text.splitlines()), text
        return text

    for arguments in (("show", "child"), ("validate", "other-ears"), ("validate", "child")):
        text = shown(*arguments)
        assert re.search(r"^  [0-9a-f]{64}$", text, re.MULTILINE)
        assert "frontend " not in text
        assert "n_mels" not in text
    assert family.child in shown("show", "child")
    assert family.child[:12] in shown("list")
    shown("history")


def test_the_command_tells_people_its_verdict(server: ServerThread, family: Family) -> None:
    """The first line of `validate` is the verdict, an empty name is no bundle's, and JSON keeps its order."""

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(command, ["--server", server.addresses.grpc, *arguments], env={"COLUMNS": "200"})

    ready, ears = run("validate", "child"), run("validate", "other-ears")
    assert (ready.exit_code, ready.stdout.splitlines()[0]) == (0, "READY")
    assert (ears.exit_code, ears.stdout.splitlines()[0]) == (1, "NOT READY: FRONTEND_DIFFERS")
    assert run("validate", family.first).stdout.splitlines()[0] == "ACTIVE"
    for which in ("", " "):
        for asked in (["validate"], ["show"], ["activate"], ["shadow", "start"]):
            refused = run(*asked, which).exception
            assert isinstance(refused, ConfigError)
            assert refused.reason == "NAME_INVALID"
    listed = json.loads(run("list", "--json").stdout)
    assert all(list(bundle) == sorted(bundle) for bundle in listed)
    shown = run("history").stdout
    assert "activated" in shown or "started" in shown
    assert "{}" not in shown


def test_a_server_killed_in_an_activation_has_one_bundle(family: Family, tmp_path: Path) -> None:
    """The next start serves the old or the new bundle, as the history says, and the session goes on without a loss."""
    samples, truth = soundscape([0, 1, 2], 46)
    chunks = chunk_messages(samples, [RATE // 2])
    settings = tmp_path / "settings.toml"
    settings.write_text(f'models_dir = "{family.shelf}"\nlisten_window_ms = 10.0\n')
    with ServerProcess(family.first_dir, tmp_path / "data", "--config", str(settings)) as server:
        stream = Stream(server.channel, setup())
        stream.send(*chunks[:6])
        stream.read_until_committed(1)
        request = models_pb2.ActivateModelBundleRequest(name=f"modelBundles/{family.child}")
        swap = stub(server).ActivateModelBundle.future(request)
        threading.Event().wait(0.1)
        server.process.kill()
        swap.exception(10)
        stream.half_close()
    with ServerProcess(family.first_dir, tmp_path / "data", "--config", str(settings)) as server:
        now = active(server)
        assert now == server.ready["bundle"]
        events = stub(server).ListModelBundleEvents(models_pb2.ListModelBundleEventsRequest()).events
        activated = "activated" in [event.kind for event in events]
        assert now == (family.child if activated else family.first)
        if not activated:
            assert activate(server, family.child).state == ACTIVE
        again = Stream(server.channel, setup())
        expected = again.read().setup_ack.expected_sequence_number
        again.send(*chunks[expected - 1 :], finish_message(chunks))
        assert list(again)[-1].ack.finished
        again.half_close()
        songs = songs_of(server)
    assert len(songs) == len(truth)
    assert {digest_of(song, family) for song in songs} <= {family.first, family.child}


@pytest.mark.parametrize("n_more", [1, 5, 7])
def test_a_server_killed_while_two_bundles_listen(family: Family, tmp_path: Path, n_more: int) -> None:
    """Both heard the song that was being sung when the new one was activated; the next server has every song once."""
    samples, truth = soundscape([0, 1, 2], 47)
    chunks = chunk_messages(samples, [RATE // 4])
    in_song = sum(truth[1][:2]) // 2 // (RATE // 4)
    settings = tmp_path / "settings.toml"
    settings.write_text(f'models_dir = "{family.shelf}"\nlisten_window_ms = 10.0\ncommit_interval_s = 0.5\n')
    with ServerProcess(family.first_dir, tmp_path / "data", "--config", str(settings)) as server:
        stream = Stream(server.channel, setup())
        stream.send(*chunks[:in_song])
        stream.read_until_received(in_song)
        assert activate(server, family.other_ears, "FRONTEND_DIFFERS").state == ACTIVE
        stream.send(*chunks[in_song : in_song + n_more])
        stream.read_until_received(in_song + n_more)
        server.process.kill()
        stream.half_close()
    with ServerProcess(family.first_dir, tmp_path / "data", "--config", str(settings)) as server:
        assert active(server) == family.other_ears
        again = Stream(server.channel, setup())
        expected = again.read().setup_ack.expected_sequence_number
        again.send(*chunks[expected - 1 :], finish_message(chunks))
        assert list(again)[-1].ack.finished
        again.half_close()
        songs = sorted(songs_of(server), key=lambda song: song.onset_sample)
    assert len(songs) == len(truth)
    for song, (onset, offset, _) in zip(songs, truth, strict=True):
        assert abs(song.onset_sample - onset) < RATE // 4
        assert abs(song.offset_sample - offset) < RATE // 4
    digests = [digest_of(song, family) for song in songs]
    assert (digests[0], digests[2]) == (family.first, family.other_ears)


def test_the_active_bundle_survives_a_restart(family: Family, tmp_path: Path) -> None:
    """What was activated serves again; a missing one is an error, and another --bundle or --activate-bundle the way out."""
    first = load_bundle(family.first_dir, device="cpu")
    settings: dict[str, Any] = {"bundle": family.first_dir, "models_dir": family.shelf}
    with ServerThread(first, tmp_path, **settings) as server:
        activate(server, family.child)
    with ServerThread(first, tmp_path, **settings) as server:
        assert active(server) == family.child
        assert listed(server)[family.first].state in {RETIRED, models_pb2.ModelBundle.DRAINING}
    settings["models_dir"] = tmp_path / "empty"

    async def start() -> None:
        async with serving(ServerThread(first, tmp_path, **settings).settings, first, version="test"):
            pass

    with pytest.raises(ConfigError) as missing:
        asyncio.run(start())
    assert missing.value.reason == "ACTIVE_BUNDLE_MISSING"
    with ServerThread(first, tmp_path, **settings, activate_bundle=True) as server:
        assert active(server) == family.first
    child = load_bundle(family.shelf / family.child, device="cpu")
    settings["bundle"] = family.shelf / family.child
    with ServerThread(child, tmp_path, **settings) as server:
        assert active(server) == family.child
    with ServerThread(child, tmp_path, **settings) as server:
        events = stub(server).ListModelBundleEvents(models_pb2.ListModelBundleEventsRequest()).events
        assert [event.kind for event in events] == ["started", "started", "activated", "validated", "started"]
