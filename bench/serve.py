"""Load one server with many streams in real time; count lost and doubled songs, measure its work and its delays.

The last line is JSON. What its fields mean:

lost_songs, duplicated_songs       songs of the offline run (the same samples through one SongStream) that the store does
                                   not hold, and songs of the store that the offline run does not hold or that it holds twice
server_cpu_ms_per_audio_second     processor time of the server process, from the first chunk to the last ack, for each second
                                   of audio that came in; the generator is another process and does not count
song_latency_p99_s                 arrival of a song's event, minus the moment the generator handed over the chunk with the
                                   song's last sample, minus the delay that the segmenter declares to need
song_latency_from_capture_p99_s    the same, from the capture of the song's last sample and without subtracting anything
ack_p99_s                          arrival of an ack, minus the moment its last received chunk was handed over
tls                                whether all of it went over TLS, every stream with the token of its station
server_rss_mb                      memory of the server at the end
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from serve_load import Load, bearer, session_name

from songcore.arrays import FloatArray
from songcore.bundle import Bundle, load_bundle
from songserve.security.token_file import change_tokens
from songserve.security.tokens import Holder, TokenBook, new_token
from songserve.v1 import songs_pb2, songs_pb2_grpc, types_pb2

ROOT = Path(__file__).resolve().parent.parent
DEMO_BUNDLE = ROOT / "models" / "demo-v1"
N_RECORDINGS = 10
SONGS_PER_SECOND = 0.2
SONG_S = (1.0, 3.0)


def recording(seed: int, duration_s: float, rate_hz: int) -> FloatArray:
    """Return (n,) float32: songs of random trills, 0.2 a second, each of a pitch of its own, over noise."""
    rng = np.random.default_rng(seed)
    samples = (0.001 * rng.standard_normal(round(duration_s * rate_hz))).astype(np.float32)
    slot_s = 1 / SONGS_PER_SECOND
    for index in range(int(duration_s / slot_s)):
        length_s = rng.uniform(*SONG_S)
        begin = round((index * slot_s + rng.uniform(0.2, slot_s - length_s - 1)) * rate_hz)
        t = np.arange(round(length_s * rate_hz)) / rate_hz
        pitch = rng.uniform(1500, 7000) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(3, 20) * t))
        envelope = np.minimum(1, np.minimum(t, t[::-1]) / 0.02) * (0.6 + 0.4 * np.sin(2 * np.pi * 12 * t) ** 2)
        samples[begin : begin + len(t)] += 0.2 * envelope * np.sin(2 * np.pi * np.cumsum(pitch) / rate_hz)
    return samples


def random_bundle(path: Path) -> None:
    """Write the bundle of the tests: its encoder is random and small, all else is real."""
    sys.path.append(str(ROOT / "tests"))
    from bundles import make_test_bundle

    make_test_bundle(path)


def expected_songs(pcm: Any, bundle: Bundle, rate_hz: int) -> set[tuple[int, int]]:
    """Return onset and offset of every song of 16-bit samples, found offline."""
    stream = bundle.new_stream(rate_hz)
    songs = stream.push(pcm.astype(np.float32) / np.float32(32768)) + stream.finish()
    return {(song.onset, song.offset) for song in songs}


@dataclass
class Secured:
    """What makes the server encrypt and ask, as options, and what its clients need; nothing without TLS."""

    options: list[str] = field(default_factory=list)
    ca: str = ""
    tokens: list[str] = field(default_factory=list)
    """Of the stations, and last of one who reads."""

    @classmethod
    def in_folder(cls, folder: Path, n_stations: int) -> "Secured":
        """Write a certificate and tokens."""
        sys.path.append(str(ROOT / "tests"))
        from certificates import Authority

        authority = Authority(folder / "certificates")
        files, book = authority.certificate("127.0.0.1"), folder / "tokens.json"
        made = [new_token(secrets.token_bytes, datetime.now(UTC)) for _ in range(n_stations + 1)]
        holders = [
            Holder(name=f"bench-{number}", role="read" if number == n_stations else "ingest", tokens=(kept,))
            for number, (_, kept) in enumerate(made)
        ]
        change_tokens(book, lambda _: TokenBook(holders=tuple(holders)))
        options = ["--tls-certificate", str(files.certificate), "--tls-key", str(files.key), "--token-file", str(book)]
        return cls(options, authority.ca.read_text(), [text for text, _ in made])

    def channel(self, address: str) -> grpc.Channel:
        """Return a channel of a client."""
        if not self.ca:
            return grpc.insecure_channel(address)
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.ca.encode()))


class Process:
    """A server process and what Linux knows of it."""

    def __init__(self, bundle: Path, data_dir: Path, options: list[str]) -> None:
        command = [str(Path(sys.executable).with_name("songstream")), "serve", "--json", "--bundle", str(bundle)]
        command += ["--data-dir", str(data_dir), "--listen", "127.0.0.1:0", "--metrics-port", "0", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout
        self.address = json.loads(self._process.stdout.readline())["address"]
        self.pid = self._process.pid

    def cpu_s(self) -> float:
        """Processor time so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self._process.terminate()
        return self._process.wait(60)


def stored_songs(address: str, secured: Secured) -> list[types_pb2.Song]:
    """Return every song of the store."""
    songs: list[types_pb2.Song] = []
    token = ""
    metadata = bearer(secured.tokens[-1]) if secured.tokens else ()
    with secured.channel(address) as channel:
        stub: Any = songs_pb2_grpc.SongServiceStub(channel)
        while True:
            request = songs_pb2.ListSongsRequest(page_size=1000, page_token=token, include_noise=True)
            page = stub.ListSongs(request, metadata=metadata)
            songs += page.songs
            token = page.next_page_token
            if not token:
                return songs


def percentile(values: list[float], q: float) -> float | None:
    """Return a percentile rounded to milliseconds, None without values."""
    return round(float(np.percentile(values, q)), 3) if values else None


def latencies(load: Load, seen: list[dict[str, Any]], bundle: Bundle) -> dict[str, float | None]:
    """Return the delays defined above."""
    delay_s = bundle.manifest.segmenter.decision_delay_s
    rate_out = bundle.manifest.frontend.sample_rate_hz
    decided, captured, acked = [], [], []
    for one in seen:
        for arrival, _, _, offset in one["songs"]:
            end_s = offset / rate_out
            chunk = min(int((end_s * load.rate_hz - 1) // load.chunk_samples), len(one["handed_over"]) - 1)
            decided.append(arrival - one["handed_over"][chunk] - delay_s)
            captured.append(arrival - one["begin"] - end_s)
        acked += [arrival - one["handed_over"][received - 1] for arrival, received, _ in one["acks"] if received]
    return {
        "song_latency_p50_s": percentile(decided, 50),
        "song_latency_p99_s": percentile(decided, 99),
        "song_latency_from_capture_p50_s": percentile(captured, 50),
        "song_latency_from_capture_p99_s": percentile(captured, 99),
        "ack_p50_s": percentile(acked, 50),
        "ack_p99_s": percentile(acked, 99),
    }


def tally(expected: list[set[tuple[int, int]]], n_streams: int, stored: list[Any]) -> dict[str, int]:
    """Return how many songs are expected, lost and duplicated."""
    wanted = {(session_name(number), *song) for number in range(n_streams) for song in expected[number % len(expected)]}
    found = [(song.session, song.onset_sample, song.offset_sample) for song in stored]
    return {
        "expected_songs": len(wanted),
        "lost_songs": len(wanted - set(found)),
        "duplicated_songs": len(found) - len(set(found)) + len(set(found) - wanted),
    }


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it all; return the fields of the JSON line."""
    bundle_dir = arguments.bundle or DEMO_BUNDLE
    if arguments.bundle is None and not DEMO_BUNDLE.exists():
        bundle_dir = folder / "bundle"
        random_bundle(bundle_dir)
    bundle = load_bundle(bundle_dir, device="cpu")
    pcm = [
        np.round(recording(seed, arguments.seconds, arguments.rate) * 32767).astype("<i2")
        for seed in range(min(N_RECORDINGS, arguments.streams))
    ]
    paths = [folder / f"{index}.npy" for index in range(len(pcm))]
    for path, samples in zip(paths, pcm, strict=True):
        np.save(path, samples)
    expected = [expected_songs(samples, bundle, arguments.rate) for samples in pcm]
    secured = Secured.in_folder(folder, arguments.streams) if arguments.tls else Secured()
    server = Process(bundle_dir, folder / "data", ["--device", arguments.device, *secured.options])
    try:
        chunk_samples = round(arguments.chunk_s * arguments.rate)
        load = Load(
            server.address,
            [str(path) for path in paths],
            arguments.streams,
            arguments.rate,
            chunk_samples,
            secured.ca,
            secured.tokens[:-1],
        )
        (folder / "load.json").write_text(json.dumps(asdict(load)))
        before = server.cpu_s()
        command = [sys.executable, str(ROOT / "bench" / "serve_load.py"), str(folder / "load.json")]
        generator = subprocess.run(command, check=True, capture_output=True, text=True)
        cpu_s = server.cpu_s() - before
        seen = json.loads(generator.stdout)
        result = tally(expected, arguments.streams, stored_songs(server.address, secured))
        rss_mb = round(server.rss_mb(), 1)
    finally:
        code = server.stop()
    audio_s = arguments.streams * arguments.seconds
    return {
        "streams": arguments.streams,
        "seconds": arguments.seconds,
        "chunk_s": arguments.chunk_s,
        "sample_rate_hz": arguments.rate,
        "tls": arguments.tls,
        "bundle": bundle.manifest.name,
        "errors": sorted({one["error"] for one in seen if one["error"]}),
        **result,
        "server_cpu_ms_per_audio_second": round(1000 * cpu_s / audio_s, 3),
        **latencies(load, seen, bundle),
        "server_rss_mb": rss_mb,
        "server_exit_code": code,
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--chunk-s", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=48_000)
    parser.add_argument("--bundle", type=Path, help="default: models/demo-v1, or one of random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tls", action="store_true", help="encrypt, and give each station a token")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    print(json.dumps(result))
    lost = result["lost_songs"] or result["duplicated_songs"] or not result["expected_songs"]
    if lost or result["errors"] or result["server_exit_code"]:
        sys.exit("the run is no measurement: songs were lost, doubled or not expected, or a program failed")


if __name__ == "__main__":
    main()
