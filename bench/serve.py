"""Load one server with many streams in real time; count lost and doubled songs, measure its work and its delays.

The last line is JSON. What its fields mean:

lost_songs, duplicated_songs       songs of the offline run (the same samples through one SongStream) that the store does
                                   not hold, and songs of the store that the offline run does not hold or that it holds twice
server_cpu_ms_per_audio_second     processor time of the server process, from the first chunk to the last ack, for each second
                                   of audio that came in; the generator is another process and does not count
song_latency_p99_s                 arrival of a song's event, minus the moment the generator handed over the chunk with the
                                   song's last sample, minus the delay that the segmenter declares to need
song_latency_from_capture_p99_s    the same, from the capture of the song's last sample and without subtracting anything
ack_p99_s                          arrival of an ack, minus the moment the chunk was handed over that it is the first to
                                   acknowledge: one that closes a block of commit_interval_s, or in which a song is decided.
                                   Acks that repeat a number, as signs of life, do not count
tls                                whether all of it went over TLS, every stream with the token of its station
server_rss_mb                      memory of the server at the end
rss_per_stream_mb                  what each stream adds to an idle server
rss_per_stalled_stream_mb          with --stalled: so many of the clients stop reading after half of the time, take 1 KiB of
                                   answers ahead, and from then on send as fast as they can. The highest memory of the server
                                   after that less the highest before, for each of them. Songs are counted of the others
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from serve_load import Load, Plan, bearer, session_name

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
        ready = json.loads(self._process.stdout.readline())
        self.address, self.metrics = ready["address"], ready["metrics"]
        self.pid = self._process.pid

    def cpu_s(self) -> float:
        """Processor time so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def n_open_files(self) -> int:
        """Descriptors in use."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self._process.terminate()
        return self._process.wait(60)


@dataclass(frozen=True)
class Sample:
    """What a server holds at a moment."""

    at: float
    """Monotonic seconds."""
    rss_mb: float
    n_open_files: int


class Watch:
    """Samples a server while inside the block."""

    def __init__(self, server: Process, interval_s: float = 0.25) -> None:
        self._server, self._interval_s = server, interval_s
        self.samples: list[Sample] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            self.samples.append(Sample(time.monotonic(), self._server.rss_mb(), self._server.n_open_files()))
            self._done.wait(self._interval_s)

    def highest_mb(self, begin: float, end: float) -> float:
        """Return the most memory within a time."""
        return max(sample.rss_mb for sample in self.samples if begin <= sample.at < end)


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
        last = 0
        for arrival, received, _ in one["acks"]:
            if received > last:
                acked.append(arrival - one["handed_over"][received - 1])
                last = received
    return {
        "song_latency_p50_s": percentile(decided, 50),
        "song_latency_p99_s": percentile(decided, 99),
        "song_latency_from_capture_p50_s": percentile(captured, 50),
        "song_latency_from_capture_p99_s": percentile(captured, 99),
        "ack_p50_s": percentile(acked, 50),
        "ack_p99_s": percentile(acked, 99),
    }


def tally(expected: list[set[tuple[int, int]]], stored: list[Any]) -> dict[str, int]:
    """Return how many songs are expected of the streams 0, 1, ..., lost and duplicated; others are not looked at."""
    wanted = {(session_name(number), *song) for number, songs in enumerate(expected) for song in songs}
    sessions = {session_name(number) for number in range(len(expected))}
    found = [(song.session, song.onset_sample, song.offset_sample) for song in stored if song.session in sessions]
    return {
        "expected_songs": len(wanted),
        "lost_songs": len(wanted - set(found)),
        "duplicated_songs": len(found) - len(set(found)) + len(set(found) - wanted),
    }


def generate(load: Load, folder: Path) -> list[dict[str, Any]]:
    """Run the load in a process of its own; return what its streams saw."""
    (folder / "load.json").write_text(json.dumps(asdict(load)))
    command = [sys.executable, str(ROOT / "bench" / "serve_load.py"), str(folder / "load.json")]
    seen: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seen


def sounds(n: int, n_chunks: int, chunk_samples: int, rate_hz: int) -> list[Any]:
    """Return different recordings of 16-bit samples."""
    n_samples = n_chunks * chunk_samples
    recordings = [recording(seed, n_samples / rate_hz, rate_hz) for seed in range(n)]
    return [np.round(samples[:n_samples] * 32767).astype("<i2") for samples in recordings]


def saved(sounds: list[Any], folder: Path) -> list[str]:
    """Write recordings where a generator finds them; return the paths."""
    paths = [folder / f"{index}.npy" for index in range(len(sounds))]
    for path, samples in zip(paths, sounds, strict=True):
        np.save(path, samples)
    return [str(path) for path in paths]


def plans(arguments: argparse.Namespace, n_recordings: int, n_chunks: int) -> list[Plan]:
    """Return streams whose beginnings are spread over some seconds; the last ones stall after half of the time."""
    later_s, n_live = arguments.spread_s / arguments.streams, arguments.streams - arguments.stalled
    live = [Plan(number % n_recordings, n_chunks, number * later_s) for number in range(n_live)]
    return live + [
        Plan(number % n_recordings, 10**6, number * later_s, stall_after=n_chunks // 2)
        for number in range(n_live, arguments.streams)
    ]


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it all; return the fields of the JSON line."""
    bundle_dir = arguments.bundle or DEMO_BUNDLE
    if arguments.bundle is None and not DEMO_BUNDLE.exists():
        bundle_dir = folder / "bundle"
        random_bundle(bundle_dir)
    bundle = load_bundle(bundle_dir, device="cpu")
    chunk_samples, n_chunks = round(arguments.chunk_s * arguments.rate), int(arguments.seconds / arguments.chunk_s)
    n_live = arguments.streams - arguments.stalled
    pcm = sounds(min(N_RECORDINGS, n_live), n_chunks, chunk_samples, arguments.rate)
    songs = [expected_songs(samples, bundle, arguments.rate) for samples in pcm]
    secured = Secured.in_folder(folder, arguments.streams) if arguments.tls else Secured()
    server = Process(bundle_dir, folder / "data", ["--device", arguments.device, *secured.options])
    try:
        load = Load(
            server.address,
            saved(pcm, folder),
            plans(arguments, len(pcm), n_chunks),
            arguments.rate,
            chunk_samples,
            end_s=n_chunks * arguments.chunk_s,
            ca=secured.ca,
            tokens=secured.tokens[:-1],
        )
        idle_mb, before = server.rss_mb(), server.cpu_s()
        with Watch(server) as watch:
            seen = generate(load, folder)
        cpu_s = server.cpu_s() - before
        result = tally([songs[number % len(pcm)] for number in range(n_live)], stored_songs(server.address, secured))
        rss_mb = server.rss_mb()
    finally:
        code = server.stop()
    return {
        "streams": arguments.streams,
        "stalled": arguments.stalled,
        "seconds": n_chunks * arguments.chunk_s,
        "chunk_s": arguments.chunk_s,
        "sample_rate_hz": arguments.rate,
        "tls": arguments.tls,
        "bundle": bundle.manifest.name,
        "errors": sorted({one["error"] for one in seen if one["error"]}),
        **result,
        **latencies(load, seen[:n_live], bundle),
        **_work(arguments, n_chunks, seen, watch, cpu_s=cpu_s, idle_mb=idle_mb),
        "server_rss_mb": round(rss_mb, 1),
        "server_exit_code": code,
    }


def _work(
    arguments: argparse.Namespace,
    n_chunks: int,
    seen: list[dict[str, Any]],
    watch: Watch,
    *,
    cpu_s: float,
    idle_mb: float,
) -> dict[str, Any]:
    """Return what the server needed for all that: with stalled streams, whose sound nobody counts, its memory only."""
    seconds = n_chunks * arguments.chunk_s
    if not arguments.stalled:
        per_stream = (watch.highest_mb(0, np.inf) - idle_mb) / arguments.streams
        cpu_ms = 1000 * cpu_s / (arguments.streams * seconds)
        return {"server_cpu_ms_per_audio_second": round(cpu_ms, 3), "rss_per_stream_mb": round(per_stream, 2)}
    begin = seen[0]["begin"]
    stall = begin + n_chunks // 2 * arguments.chunk_s
    before, after = watch.highest_mb(begin, stall), watch.highest_mb(stall, np.inf)
    return {
        "chunks_sent_stalled": sum(len(one["handed_over"]) for one in seen[-arguments.stalled :]),
        "rss_per_stream_mb": round((before - idle_mb) / arguments.streams, 2),
        "rss_per_stalled_stream_mb": round((after - before) / arguments.stalled, 2),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--stalled", type=int, default=0, help="so many of them stop reading and send all they can")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--chunk-s", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=48_000)
    parser.add_argument("--bundle", type=Path, help="default: models/demo-v1, or one of random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--spread-s",
        type=float,
        default=1 / SONGS_PER_SECOND,
        help="beginnings of streams are spread over so many seconds: the five from song to song, as stations know nothing of "
        "each other; with 1 all birds sing in the same moments",
    )
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
