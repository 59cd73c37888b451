"""``songstream station`` as an operator has it: processes that are killed, a disk that is torn, and the commands beside it."""

import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile

from certificates import Authority
from serving import ServerProcess, ServerThread
from songcore.bundle import Bundle
from songserve.v1 import ingest_pb2, ingest_pb2_grpc, songs_pb2, songs_pb2_grpc
from tokens import add_token

ROOT = Path(__file__).resolve().parents[2]
SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
HEAVY = ["faiss", "grpc_health", "grpc_reflection", "grpc_status", "librosa", "matplotlib", "onnx", "onnxruntime"]
HEAVY += ["pandas", "psycopg", "pyarrow", "ray", "sklearn", "sqlalchemy", "torch", "transformers"]
LIGHT = f"""
import sys
for name in {HEAVY}:
    sys.modules[name] = None
from songcore.cli import main
main()
"""
STARTED: list[subprocess.Popen[str]] = []


def start(address: str, spool: Path, recording: Path, *options: str) -> subprocess.Popen[str]:
    """Start a station that plays a recording; none of the libraries that only service and training have can be imported."""
    command = [sys.executable, "-c", LIGHT, "station", "run", "--server", address, "--station", "north"]
    command += ["--spool", str(spool), "--play", str(recording), "--metrics-port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    STARTED.append(process)
    return process


def start_piped(address: str, spool: Path, pipe: Path, *options: str) -> subprocess.Popen[str]:
    """Start a station that hears a pipe at 8 kHz and tries again soon whatever fails."""
    command = [SONGSTREAM, "station", "run", "--server", address, "--station", "north", "--spool", str(spool)]
    command += ["--pipe", str(pipe), "--rate", "8000", "--metrics-port", "0", *options]
    quick = {f"SONGSTREAM_STATION_{name}_RETRY_S": "0.1" for name in ("FIRST", "LONGEST", "DEVICE")}
    process = subprocess.Popen(command, env=os.environ | quick, stderr=subprocess.PIPE, text=True)
    STARTED.append(process)
    return process


class Writer:
    """Writes silence into a pipe as a microphone at 8 kHz would give it, half a second at a time."""

    def __init__(self, pipe: Path) -> None:
        self.n_samples = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write, args=[pipe])
        self._thread.start()

    def stop(self) -> None:
        """Write no more."""
        self._stopped.set()
        self._thread.join()

    def _write(self, pipe: Path) -> None:
        # Opened for reading, too: it stays open when nobody else reads, and is full some day then.
        self.file = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while not self._stopped.wait(0.5):
                self.n_samples += os.write(self.file, bytes(8_000)) // 2


@contextmanager
def writing(pipe: Path) -> Iterator[Writer]:
    """Write into a pipe until it is stopped, and keep it open for the block."""
    writer = Writer(pipe)
    try:
        yield writer
    finally:
        writer.stop()
        os.close(writer.file)


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def station(*arguments: str, status: int = 0, **options: Any) -> str:
    """Run another of the station's commands and return what it prints."""
    command = [SONGSTREAM, "station", *arguments]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, **options
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def state(spool: Path, until: Any) -> dict[str, Any]:
    """Return the station's state once it is as wanted."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            found: dict[str, Any] = json.loads((spool / "state.json").read_text())
        except FileNotFoundError:
            found = {}
        if found and until(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"the station did not get there: {found}")


def sessions_of(spool: Path) -> list[dict[str, Any]]:
    """Return what `spool list` says."""
    listed: list[dict[str, Any]] = json.loads(station("spool", "list", "--spool", str(spool), "--json"))
    return listed


def test_killed_station_and_killed_server_lose_nothing(
    bundle: Bundle, bundle_dir: Path, recording: Any, tmp_path: Path
) -> None:
    """Both are killed in the middle; in the end the server has all that the files have, and the songs of just that."""
    spool, data = tmp_path / "spool", tmp_path / "data"
    samples, rate = soundfile.read(recording.path, dtype="float32")
    short = tmp_path / "20240501_040000.wav"
    soundfile.write(short, samples[: 3 * rate], rate, subtype="PCM_16")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with ServerProcess(bundle_dir, data, "--listen", address):
        first = start(address, spool, recording.path)
        state(spool, lambda found: found["is_connected"] and found["committed_samples"] > 0)
    # The server was killed at the end of the block; the station goes on, and is killed a little later.
    captured = state(spool, lambda _: True)["captured_samples"]
    state(spool, lambda found: found["captured_samples"] > captured)
    first.kill()
    first.communicate()
    assert '"running": false' in station("status", "--spool", str(spool), "--json", status=1)
    with ServerProcess(bundle_dir, data, "--listen", address) as server:
        second = start(address, spool, short)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 0, errors
        listed = sessions_of(spool)
        assert [round(one["seconds"], 3) for one in listed[1:]] == [3.0]
        assert all(one["finished"] and one["lost_s"] == 0 for one in listed)
        for one, source in zip(listed, (samples, samples[: 3 * rate]), strict=True):
            assert one["committed_s"] == one["seconds"] <= len(source) / rate
            _check_session(bundle, server.channel, one, source[: round(one["seconds"] * rate)], rate)
    assert listed[0]["seconds"] * rate >= captured


def _check_session(bundle: Bundle, channel: grpc.Channel, one: dict[str, Any], samples: Any, rate: int) -> None:
    """Check that the server finished a session at its last sample, with the songs that are in just those samples."""
    name = f"stations/north/sessions/{one['session']}"
    request = ingest_pb2.GetSessionStatusRequest(session=name)
    status = ingest_pb2_grpc.IngestServiceStub(channel).GetSessionStatus(request)
    assert (status.finished, status.committed_sample) == (True, len(samples))
    stream = bundle.new_stream(rate)
    songs = stream.push(samples) + stream.finish()
    hz = bundle.manifest.frontend.sample_rate_hz
    listing = songs_pb2.ListSongsRequest(session=name, include_noise=True, page_size=500)
    stored = songs_pb2_grpc.SongServiceStub(channel).ListSongs(listing).songs
    assert sorted((s.onset_s, s.offset_s) for s in stored) == [(s.onset / hz, s.offset / hz) for s in songs]


def test_a_station_without_a_server_is_looked_after(recording: Any, tmp_path: Path) -> None:
    """Alone it keeps its sound; status, metrics, list and export tell of it; a torn file is repaired and declared."""
    spool, token = tmp_path / "spool", tmp_path / "token"
    station("token", "set", "--file", str(token), input="sst_secret\n")
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == ("sst_secret\n", 0o600)
    station("token", "set", "--file", str(token), input="two words\n", status=1)
    (tmp_path / "station.toml").write_text('clock = "gnss"\n')
    options = ["--token-file", str(token), "--config", str(tmp_path / "station.toml")]
    running = start("127.0.0.1:9", spool, recording.path, *options)
    found = state(spool, lambda found: found["captured_samples"] >= 96_000)
    scraped = urllib.request.urlopen(f"http://{found['metrics']}/metrics", timeout=10).read().decode()
    _check_metrics(scraped)
    told = json.loads(station("status", "--spool", str(spool), "--json"))
    assert (told["running"], told["is_connected"], told["committed_samples"]) == (True, False, 0)
    assert told["account"]["n_streams_failed"]["UNAVAILABLE"] >= 1
    assert (told["clock"]["source"], told["refused"]) == ("gnss", "")
    assert "another station" in start("127.0.0.1:9", spool, recording.path).communicate(timeout=60)[1]
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (session,) = sessions_of(spool)
    newest = max(spool.glob("*.spool"))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert "1 files, 1 repaired" in station("spool", "repair", "--spool", str(spool))
    (torn,) = sessions_of(spool)
    assert (torn["seconds"], torn["lost_s"]) == (session["seconds"], 0.5)
    path = station("spool", "export", "all", "--spool", str(spool), "--to", str(tmp_path / "out")).strip()
    exported, rate = soundfile.read(path, dtype="int16")
    played, _ = soundfile.read(recording.path, dtype="int16", stop=len(exported))
    assert len(exported) == round(torn["seconds"] * rate)
    assert np.array_equal(exported[: -rate // 2], played[: -rate // 2])
    assert not exported[-rate // 2 :].any()
    station("spool", "export", "nobody", "--spool", str(spool), status=1)
    station("status", "--spool", str(tmp_path), status=1)


@pytest.mark.parametrize("reason", ["TOKEN_UNREADABLE", "TOKEN_EXPOSED", "TLS_UNREADABLE"])
def test_a_station_that_cannot_read_its_token_keeps_its_sound(reason: str, bundle_dir: Path, tmp_path: Path) -> None:
    """It records from the first sample, says what is missing, and asks nobody anything; once it is there all arrives."""
    spool, pipe, book, token = (tmp_path / name for name in ("spool", "pipe", "tokens.json", "token"))
    text, authority = add_token(book, "north"), Authority(tmp_path / "certificates")
    serve, options, ca = ["--token-file", str(book)], ["--token-file", str(token)], tmp_path / "ca.pem"
    if reason != "TOKEN_UNREADABLE":
        token.write_text(text)
        token.chmod(0o604 if reason == "TOKEN_EXPOSED" else 0o600)
    if reason == "TLS_UNREADABLE":
        files = authority.certificate("127.0.0.1")
        serve += ["--tls-certificate", str(files.certificate), "--tls-key", str(files.key)]
        options += ["--ca", str(ca)]
    os.mkfifo(pipe)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        running = start_piped(address, spool, pipe, *options)
        with writing(pipe) as written:
            found = state(spool, lambda found: found["captured_samples"] >= 8_000)
            assert f"[{reason}]" in found["refused"]
            assert reason in station("status", "--spool", str(spool), "--json")
            scraped = urllib.request.urlopen(f"http://{found['metrics']}/metrics", timeout=10).read().decode()
            assert "songstream_field_refused 1.0" in scraped
            assert not select.select([nobody], [], [], 0)[0]
            nobody.close()
            with ServerProcess(bundle_dir, tmp_path / "data", "--listen", address, *serve):
                if reason == "TLS_UNREADABLE":
                    shutil.copy(authority.ca, ca)
                else:
                    station("token", "set", "--file", str(token), input=f"{text}\n")
                found = state(spool, lambda found: found["committed_samples"] > 0)
                assert found["refused"] == ""
                written.stop()
                running.send_signal(signal.SIGTERM)
                _, errors = running.communicate(timeout=60)
                assert running.returncode == 0, errors
    listed = sessions_of(spool)
    assert sum(one["seconds"] for one in listed) == written.n_samples / 8_000
    assert all(one["finished"] and one["lost_s"] == 0 for one in listed)
    assert errors.count(f"[{reason}]; it is tried again") == 1
    assert "UNAUTHENTICATED" not in errors


def test_a_station_whose_metrics_port_is_taken_keeps_its_sound(recording: Any, tmp_path: Path) -> None:
    """It says so, and its metrics are there when the port is free."""
    spool = tmp_path / "spool"
    (tmp_path / "station.toml").write_text("first_retry_s = 0.1\nlongest_retry_s = 0.2\n")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        options = ["--metrics-port", port, "--config", str(tmp_path / "station.toml")]
        running = start("127.0.0.1:9", spool, recording.path, *options)
        found = state(spool, lambda found: found["captured_samples"] > 0)
        assert (found["metrics"], "[PORT_IN_USE]" in found["metrics_trouble"]) == ("", True)
        assert "PORT_IN_USE" in station("status", "--spool", str(spool), "--json")
    found = state(spool, lambda found: found["metrics"])
    assert (found["metrics"], found["metrics_trouble"]) == (f"127.0.0.1:{port}", "")
    assert "songstream_field_captured" in urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    running.kill()
    _, errors = running.communicate()
    assert errors.count("[PORT_IN_USE]; it is tried again") == 1


def test_a_station_fits_a_small_computer(bundle: Bundle, recording: Any, tmp_path: Path) -> None:
    """While it records, compresses and sends, it has never taken 150 MB; what is heavy it cannot even import."""
    with ServerThread(bundle, tmp_path / "data") as server:
        running = start(server.addresses.grpc, tmp_path / "spool", recording.path, "--encoding", "flac")
        state(tmp_path / "spool", lambda found: found["committed_samples"] >= 2 * 48_000)
        lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
        (peak_kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    assert 1024 * peak_kib < 150e6


@pytest.mark.parametrize(
    ("content", "reason"), [("text", "NOT_AUDIO"), ("empty", "EMPTY_RECORDING"), ("nan", "NOT_FINITE")]
)
def test_a_recording_that_cannot_be_played_to_its_end_is_a_failure(
    content: str, reason: str, bundle_dir: Path, tmp_path: Path
) -> None:
    """It will not be there again as a device may: the station says what is wrong and ends, after what it could read of it."""
    path = tmp_path / "bad.wav"
    samples = 0.01 * np.random.default_rng(0).standard_normal(48_000 if content == "nan" else 0).astype(np.float32)
    samples[40_000:] = np.nan
    soundfile.write(path, samples, 24_000, subtype="FLOAT")
    if content == "text":
        path.write_text("no sound")
    spool = tmp_path / "spool"
    with ServerProcess(bundle_dir, tmp_path / "data") as server:
        failed = start(server.ready["address"], spool, path)
        _, errors = failed.communicate(timeout=60)
        listed = sessions_of(spool)
    assert failed.returncode == 1
    assert f"[{reason}]" in errors.splitlines()[-1]
    assert "trying again" not in errors
    assert len(listed) == (content == "nan")
    assert all(one["finished"] and one["committed_s"] == one["seconds"] >= 1 for one in listed)


def test_what_is_wrong_with_a_recording_is_told_while_the_rest_waits(tmp_path: Path) -> None:
    """The server is away: the log says at once what broke, and no device is named that stood still, until the stop."""
    path, spool = tmp_path / "bad.wav", tmp_path / "spool"
    samples = 0.01 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    samples[40_000:] = np.nan
    soundfile.write(path, samples, 24_000, subtype="FLOAT")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        waiting = start(f"127.0.0.1:{nobody.getsockname()[1]}", spool, path)
        state(spool, lambda found: found["captured_samples"] > 0 and not found["device"])
        assert waiting.poll() is None
        waiting.send_signal(signal.SIGTERM)
        _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert errors.index("ERROR songstation.station") < len(errors) - 200


def test_only_the_last_process_tells_systemd_that_it_stops(tmp_path: Path) -> None:
    """A station that starts anew in the same process does not say so, or systemd would kill it; one that is stopped does."""
    never, notify = tmp_path / "never", tmp_path / "notify"
    os.mkfifo(never)  # nobody writes into it: whoever opens it hangs, as with a sound system that does
    environment = os.environ | {"NOTIFY_SOCKET": str(notify), "SONGSTREAM_STATION_DEVICE_ANSWER_S": "0.5"}
    command = [SONGSTREAM, "station", "run", "--spool", str(tmp_path / "spool"), "--play", str(never)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notify))
        manager.settimeout(60)
        running = subprocess.Popen(
            [*command, "--metrics-port", "0"], env=environment, stderr=subprocess.PIPE, text=True
        )
        STARTED.append(running)
        said: list[str] = []
        while said.count("READY=1") < 3:
            said.append(manager.recv(4096).decode())
        assert "STOPPING=1" not in said
        running.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while said[-1] != "STOPPING=1":
            assert time.monotonic() < deadline, said[-5:]
            said.append(manager.recv(4096).decode())
        assert running.wait(60) == 0
        assert said.count("READY=1") == 3


def _check_metrics(scraped: str) -> None:
    """Check that the station's metrics and those of the page are the same."""
    page = (ROOT / "docs" / "station.md").read_text()
    named = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `songstream_field_")}
    types = [line.split()[2:] for line in scraped.splitlines() if line.startswith("# TYPE songstream_field_")]
    # With a synchronised clock its error is told too.
    assert named - {"songstream_field_clock_error_seconds"} == {name for name, kind in types if name in named}
    assert {name for name, _ in types if not name.endswith("_created")} <= named


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--station", "North Pole"], "station"),
        (["--spool-mb", "1"], "spool_mb"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, options: list[str], named: str) -> None:
    """A wrong setting ends the program before anything is written, and its name is in the message."""
    command = [SONGSTREAM, "station", "run", "--spool", str(tmp_path / "spool"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert named in done.stderr
    assert not (tmp_path / "spool").exists()


def test_every_setting_is_documented() -> None:
    """Each setting has its row in docs/station.md, and no row is of another."""
    from songstation.station_settings import StationSettings

    page = (ROOT / "docs" / "station.md").read_text()
    table = page.split("## Settings")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name.strip(" `") for row in rows for name in row.split(",")}
    assert named == set(StationSettings.model_fields)
