"""The real capture path: PortAudio records what PulseAudio plays."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pulse import PulseDaemon, why_no_pulse
from serving import ServerProcess, ServerThread
from songcore.bundle import Bundle
from songcore.errors import ConfigError
from songserve.v1 import ingest_pb2, ingest_pb2_grpc
from songstation.device_calls import answered
from songstation.microphone import Microphone
from songstation.ring import RingBuffer
from songstation.sources import Lost

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
RATE_HZ = 48_000


@pytest.fixture
def pulse() -> Iterator[PulseDaemon]:
    """Return a running daemon, or skip with the reason why there is none."""
    if reason := why_no_pulse():
        pytest.skip(reason)
    try:
        daemon = PulseDaemon(RATE_HZ).__enter__()
    except OSError as error:
        pytest.skip(f"no PulseAudio ({error}); deploy/install-test-tools.sh installs it")
    yield daemon
    daemon.__exit__(None, None, None)


@pytest.mark.pulse
def test_songs_played_into_the_microphone_are_heard(
    pulse: PulseDaemon, bundle_dir: Path, recording: Any, tmp_path: Path
) -> None:
    """A recording played at a microphone comes back as the songs that are in it, at their distances."""
    songs_played = recording.songs[:4]
    short = tmp_path / "short.wav"
    end_s = (songs_played[-1][1] + recording.songs[4][0]) / 2
    samples, _ = soundfile.read(recording.path, dtype="int16", stop=round(end_s * RATE_HZ))
    soundfile.write(short, samples, RATE_HZ)
    with ServerProcess(bundle_dir, tmp_path / "data") as server:
        command = [SONGSTREAM, "listen", "--server", server.ready["address"], "--rate", str(RATE_HZ), "--json"]
        station = subprocess.Popen(
            command, env=pulse.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not pulse.is_recording():
            assert station.poll() is None, station.communicate()[1]
            time.sleep(0.05)
        pulse.play(short)
        time.sleep(1)
        station.send_signal(signal.SIGINT)
        printed, errors = station.communicate(timeout=60)
    assert station.returncode == 0, errors
    *songs, last = map(json.loads, printed.splitlines())
    account = last["account"]
    # Not one sample less than was played, unless it was declared.
    assert account["captured_s"] == account["committed_s"] >= end_s - 0.01
    assert [song["type_id"] for song in songs] == [type_id for _, _, type_id, _ in songs_played]
    if account["lost_s"] == 0:
        began_s = songs[0]["onset_s"] - songs_played[0][0]
        onsets_s = [song["onset_s"] - began_s for song in songs]
        assert onsets_s == pytest.approx([onset_s for onset_s, *_ in songs_played], abs=0.1)


@pytest.mark.pulse
def test_a_sound_system_that_hangs_is_got_over(pulse: PulseDaemon, bundle: Bundle, tmp_path: Path) -> None:
    """The daemon stands still for two processes of the station, which say so; then there is sound, and no hole in between."""
    spool, log = tmp_path / "spool", tmp_path / "log"
    patience = {"device_silent_s": "5", "device_answer_s": "6", "device_retry_s": "0.5"}
    environment = pulse.environment | {f"SONGSTREAM_STATION_{name.upper()}": value for name, value in patience.items()}
    with ServerThread(bundle, tmp_path / "data") as server, log.open("w") as errors:
        command = [SONGSTREAM, "station", "run", "--server", server.addresses.grpc, "--spool", str(spool)]
        command += ["--rate", str(RATE_HZ), "--metrics-port", "0"]
        station = subprocess.Popen(command, env=environment, stdout=errors, stderr=errors)
        try:
            wait_for(station, log, lambda: state_of(spool).get("committed_samples", 0) > 0)
            pulse.hang()
            wait_for(station, log, lambda: log.read_text().count("starting anew") >= 2)
            assert "delivers no more sound" in log.read_text()
            assert "has not answered" in log.read_text()
            before = state_of(spool)["captured_samples"]
            pulse.go_on()
            wait_for(station, log, lambda: state_of(spool)["captured_samples"] > before and state_of(spool)["device"])
            station.send_signal(signal.SIGTERM)
            assert station.wait(60) == 0, log.read_text()
        finally:
            station.kill()
            station.wait()
        listing = [SONGSTREAM, "station", "spool", "list", "--spool", str(spool), "--json"]
        sessions = json.loads(subprocess.run(listing, capture_output=True, text=True, check=True).stdout)
        statuses = [committed(server, one["session"]) for one in sessions]
    assert len(sessions) >= 2
    assert [one["seconds"] * RATE_HZ for one in sessions] == pytest.approx([n for n, _ in statuses])
    assert all(finished for _, finished in statuses)
    # Silence that was waited through, an open call that hung, and the starts of the programs.
    assert sum(one["lost_s"] for one in sessions) > 11
    for one, behind in pairwise(sessions):
        # The sink gives its sound two seconds late.
        end = datetime.fromisoformat(one["start"]) + timedelta(seconds=one["seconds"])
        assert abs((datetime.fromisoformat(behind["start"]) - end).total_seconds()) < 4


def wait_for(station: "subprocess.Popen[bytes]", log: Path, condition: Callable[[], Any]) -> None:
    """Return when it is so."""
    deadline = time.monotonic() + 120
    while not condition():
        assert station.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def state_of(spool: Path) -> dict[str, Any]:
    """Return what the station last wrote about itself."""
    path = spool / "state.json"
    return json.loads(path.read_text()) if path.exists() else {}


def committed(server: ServerThread, session: str) -> tuple[int, bool]:
    """Return a session's samples at the server, and whether it is finished there."""
    request = ingest_pb2.GetSessionStatusRequest(session=f"stations/station/sessions/{session}")
    status = ingest_pb2_grpc.IngestServiceStub(server.channel).GetSessionStatus(request)
    return status.committed_sample, status.finished


@pytest.mark.pulse
def test_devices_are_listed(pulse: PulseDaemon) -> None:
    """`--list-devices` names the system's microphones and marks the default one."""
    command = [SONGSTREAM, "listen", "--list-devices"]
    listed = subprocess.run([*command, "--json"], env=pulse.environment, capture_output=True, text=True, check=True)
    devices = json.loads(listed.stdout)
    assert sum(device["is_default"] for device in devices) == 1
    assert all(device["n_channels"] > 0 for device in devices)
    shown = subprocess.run(command, env=pulse.environment, capture_output=True, text=True, check=True).stdout
    assert all(device["name"].split(":")[0] in shown for device in devices)


class Device:
    """A stream of PortAudio without PortAudio: active until it is stopped."""

    def __init__(self, last_block: Callable[[], None] = lambda: None) -> None:
        self.active = True
        self._last_block = last_block

    def stop(self) -> None:
        """Give what is on its way, as PortAudio does, and end."""
        if self.active:
            self._last_block()
        self.active = False

    def close(self) -> None:
        """End."""


def microphone_on(device: Device, *, n_chunk: int = 10, n_ring: int = 100) -> Microphone:
    """Return a microphone at 1 kHz that hears what the test writes into its ring."""
    microphone = Microphone.__new__(Microphone)
    microphone.name, microphone.sample_rate_hz, microphone._channel, microphone._previous_end_s = "test", 1_000, 1, None
    microphone._ring, microphone._pending, microphone._n_chunk = RingBuffer(n_ring), bytearray(), n_chunk
    microphone._poll_s, microphone._silent_s, microphone._is_stuck, microphone._stream = 0.0, 10.0, False, device
    return microphone


def events(chunks: Iterable[bytes | Lost]) -> list[int | None]:
    """Return the samples in order, None for each that is lost."""
    told: list[int | None] = []
    for chunk in chunks:
        told += [None] * chunk.n_samples if isinstance(chunk, Lost) else np.frombuffer(chunk, "<i2").tolist()
    return told


@given(st.lists(st.integers(-5, 35), max_size=30), st.integers(0, 30), st.integers(1, 12))
def test_a_stop_at_any_time_leaves_nothing_behind(blocks: list[int], n_before: int, n_chunk: int) -> None:
    """Samples and losses (below zero) come out complete and in order, also those that the device gives while stopping."""
    expected: list[int | None] = []

    def write(n_samples: int) -> None:
        """Write a block, or lose one where the number is negative."""
        block = np.arange(len(expected), len(expected) + n_samples, dtype=np.int16)
        if n_samples < 0:
            microphone._ring.lose(-n_samples)
        else:
            microphone._ring.write(block)
        expected.extend(block.tolist() or [None] * -n_samples)

    microphone = microphone_on(Device(lambda: write(3)), n_chunk=n_chunk, n_ring=2_000)
    for n_samples in blocks[:n_before]:
        write(n_samples)
    taken = list(microphone._take())
    for n_samples in blocks[n_before:]:
        write(n_samples)
    taken += microphone.finish()
    assert events(taken) == expected
    assert all(len(chunk) <= 2 * n_chunk for chunk in taken if isinstance(chunk, bytes))
    assert microphone.finish() == []


def test_a_device_that_goes_leaves_what_it_gave() -> None:
    """The samples before a device disappears are yielded, the short last chunk too, and then the loss of it is raised."""
    device = Device()
    microphone = microphone_on(device)
    microphone._ring.write(np.arange(14, dtype=np.int16))
    heard: list[bytes | Lost] = []

    async def hear() -> None:
        async for chunk in microphone.chunks():
            heard.append(chunk)
            device.active = False

    with pytest.raises(ConfigError, match="no more sound") as caught:
        asyncio.run(hear())
    assert caught.value.reason == "DEVICE_LOST"
    assert [len(chunk) // 2 for chunk in heard if isinstance(chunk, bytes)] == [10, 4]
    assert events(heard[:2]) == [*range(14)]


def test_a_device_that_hangs_is_lost_since_its_last_sample() -> None:
    """A stream that runs and gives nothing is not touched any more; the silence is a loss before it is given up."""
    microphone = microphone_on(Device())
    microphone._ring.write(np.arange(14, dtype=np.int16))
    microphone._silent_s = 0.2
    heard: list[bytes | Lost] = []

    async def hear() -> None:
        async for chunk in microphone.chunks():
            heard.append(chunk)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ConfigError) as caught:
        asyncio.run(hear())
    assert caught.value.reason == "DEVICE_LOST"
    assert events(heard[:2]) == [*range(14)]
    assert isinstance(heard[-1], Lost)
    assert heard[-1].n_samples >= 200
    with pytest.raises(ConfigError) as stuck:
        microphone.close()
    assert stuck.value.reason == "DEVICE_STUCK"


def test_a_device_that_does_not_start_is_missing() -> None:
    """What PortAudio says about it is a reason to wait and try again."""
    try:
        import sounddevice
    except OSError as error:
        pytest.skip(f"{error}; deploy/install-test-tools.sh installs PortAudio")
    device = Device()
    device.start = lambda: (_ for _ in ()).throw(sounddevice.PortAudioError("busy"))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="busy") as caught:
        microphone_on(device).begin(lambda: datetime(2024, 5, 1, tzinfo=UTC))
    assert caught.value.reason == "DEVICE_MISSING"


def test_the_callback_copies_and_counts_overflows() -> None:
    """A block goes into the ring as it is, its channel chosen; an overflow becomes as many lost samples as time says."""
    microphone = microphone_on(Device())
    block = np.stack([np.zeros(10), np.arange(10)], axis=1).astype(np.int16)
    for begin_s, overflow in [(5.0, False), (5.01, False), (5.05, True)]:
        clock, status = SimpleNamespace(inputBufferAdcTime=begin_s), SimpleNamespace(input_overflow=overflow)
        microphone._copy(block, 10, clock, status)
    n_lost, samples = microphone._ring.read(100)
    assert (n_lost, samples.tolist()) == (0, [*range(10), *range(10)])
    n_lost, samples = microphone._ring.read(100)
    assert (n_lost, samples.tolist()) == (30, [*range(10)])


def test_a_stop_does_not_wait_for_a_sound_system_that_hangs() -> None:
    """A call that never comes back ends at the stop, and after its time, with the reason DEVICE_STUCK."""
    never = threading.Event()

    async def ask(stop_is_set: bool) -> None:
        stop = asyncio.Event()
        if stop_is_set:
            stop.set()
        await answered(never.wait, stop, 30.0 if stop_is_set else 0.01)

    for stop_is_set in (True, False):
        with pytest.raises(ConfigError) as caught:
            asyncio.run(ask(stop_is_set))
        assert caught.value.reason == "DEVICE_STUCK"
    never.set()
