"""Swap bundles under a load of live streams; count what it costs them.

Children are made of the bundle, which name songs as it does and have digests of their own; one after another is activated,
every few seconds, over the API. With --ears other every second one has another segmenter, so that streams listen with two
bundles for a while. The last line is JSON:

swaps, refused                     bundles that became active; activations that were refused, by reason
swap_p50_s, swap_max_s             from the call to the answer: load, golden songs, warm up, write down, take up
streams_reset                      streams that ended before their sound did
lost_songs, doubled_songs          songs of the offline run of the first bundle that no stored song covers by half or more, and
                                   stored songs that overlap another one of their session
songs_of_unknown_bundles           stored songs whose digest was never active
bundles                            that have songs
loop_lag_p99_s, loop_lag_max_s     how late the event loop woke, upper borders of the histogram's buckets
song_latency_p99_s                 as in bench/serve.py
"""

import argparse
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families
from serve import (
    DEMO_BUNDLE,
    N_RECORDINGS,
    Process,
    Secured,
    expected_songs,
    generate,
    latencies,
    percentile,
    saved,
    sounds,
    stored_songs,
)
from serve_load import Load, Plan, session_name

from songcore.bundle import load_bundle, read_parts, write_bundle
from songcore.errors import ConfigError
from songcore.manifest import GateCheck
from songserve.clients.bundles import BundleClient
from songserve.clients.connection import Connection, Server

GATE = tuple(GateCheck(name=name, passed=True) for name in ("golden", "id_stability", "review", "calibration"))
ACCEPTED = ("FRONTEND_DIFFERS", "PARENT_NOT_ACTIVE")


def make_children(bundle_dir: Path, shelf: Path, *, other_ears: bool, n: int = 4) -> list[str]:
    """Write bundles that name as their parent does; return their digests."""
    parts, parent = read_parts(bundle_dir), load_bundle(bundle_dir, device="cpu").digest
    segmenter = parts.stream.segmenter
    changed = segmenter.model_copy(update={"post_roll_s": segmenter.post_roll_s + 0.04})
    digests = []
    for number in range(n):
        stream = replace(parts.stream, segmenter=changed) if other_ears and number % 2 else parts.stream
        child = replace(parts, name=f"child-{number}", parent_digest=parent, gate=GATE, stream=stream)
        digests.append(write_bundle(shelf / "new", child).digest)
        (shelf / "new").rename(shelf / digests[-1])
    return digests


class Swapper:
    """Activates one bundle after another while inside the block."""

    def __init__(self, address: str, digests: list[str], every_s: float) -> None:
        self._address, self._digests, self._every_s = address, digests, every_s
        self.seconds: list[float] = []
        self.refused: Counter[str] = Counter()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        with Connection(Server(self._address)) as connection:
            client, number = BundleClient(connection), 0
            while not self._done.wait(self._every_s):
                bundle = client.find(self._digests[number % len(self._digests)])
                began = time.monotonic()
                try:
                    client.activate(bundle, accepted=ACCEPTED, dry_run=False)
                    self.seconds.append(time.monotonic() - began)
                except ConfigError as error:
                    self.refused[error.reason] += 1
                number += 1


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return what two intervals share of what they cover together."""
    common = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, common) / (max(one[1], other[1]) - min(one[0], other[0]))


def compared(expected: list[set[tuple[int, int]]], rate_hz: int, stored: list[Any]) -> dict[str, int]:
    """Return the counts of songs defined above; ``expected`` of the streams 0, 1, ..."""
    found: dict[str, list[tuple[float, float]]] = {}
    for song in stored:
        found.setdefault(song.session, []).append((song.onset_s, song.offset_s))
    lost = doubled = 0
    for number, songs in enumerate(expected):
        mine = sorted(found.get(session_name(number), []))
        wanted = [(onset / rate_hz, offset / rate_hz) for onset, offset in songs]
        lost += sum(max((overlap(song, one) for one in mine), default=0) < 0.5 for song in wanted)
        doubled += sum(after[0] < before[1] for before, after in pairwise(mine))
    return {"expected_songs": sum(map(len, expected)), "lost_songs": lost, "doubled_songs": doubled}


def lags(page: str) -> dict[str, float]:
    """Return the lag of the event loop from a metrics page."""
    borders: dict[float, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "songstream_event_loop_lag_seconds_bucket":
                borders[float(sample.labels["le"])] = sample.value
    total = max(borders.values())
    reached = {share: min(le for le, n in borders.items() if n >= share * total) for share in (0.99, 1.0)}
    return {"loop_lag_p99_s": reached[0.99], "loop_lag_max_s": reached[1.0]}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it all; return the fields of the JSON line."""
    bundle_dir, shelf = arguments.bundle or DEMO_BUNDLE, folder / "models"
    shelf.mkdir()
    first = load_bundle(bundle_dir, device="cpu")
    digests = make_children(bundle_dir, shelf, other_ears=arguments.ears == "other")
    chunk_samples, n_chunks = arguments.rate, arguments.seconds
    pcm = sounds(min(N_RECORDINGS, arguments.streams), n_chunks, chunk_samples, arguments.rate)
    songs = [expected_songs(samples, first, arguments.rate) for samples in pcm]
    (folder / "serve.toml").write_text(f'models_dir = "{shelf}"\n')
    server = Process(bundle_dir, folder / "data", ["--device", "cpu", "--config", str(folder / "serve.toml")])
    try:
        plans = [Plan(n % len(pcm), n_chunks, n / arguments.streams) for n in range(arguments.streams)]
        load = Load(server.address, saved(pcm, folder), plans, arguments.rate, chunk_samples, end_s=n_chunks)
        with Swapper(server.address, digests, arguments.every_s) as swapper:
            seen = generate(load, folder)
        stored = stored_songs(server.address, Secured())
        with urllib.request.urlopen(server.metrics) as page:  # noqa: S310 - our own address
            lag = lags(page.read().decode())
        rss_mb = server.rss_mb()
    finally:
        code = server.stop()
    by_bundle = Counter(song.model_bundle.rpartition("/")[2] for song in stored)
    return {
        "streams": arguments.streams,
        "seconds": arguments.seconds,
        "ears": arguments.ears,
        "swaps": len(swapper.seconds),
        "refused": dict(swapper.refused),
        "swap_p50_s": percentile(swapper.seconds, 50),
        "swap_max_s": percentile(swapper.seconds, 100),
        "streams_reset": sum(bool(one["error"]) for one in seen),
        **compared([songs[n % len(pcm)] for n in range(arguments.streams)], first.sample_rate_hz, stored),
        "songs_of_unknown_bundles": sum(n for digest, n in by_bundle.items() if digest not in {first.digest, *digests}),
        "bundles": len(by_bundle),
        **lag,
        "song_latency_p99_s": latencies(load, seen, first)["song_latency_p99_s"],
        "server_rss_mb": round(rss_mb, 1),
        "server_exit_code": code,
    }


def main() -> int:
    """Measure, print, and return 1 when a stream was reset, a song lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: models/demo-v1")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=48_000)
    parser.add_argument("--every-s", type=float, default=3.0, help="seconds between two swaps; large for none")
    parser.add_argument("--ears", choices=["same", "other"], default="same")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    print(json.dumps(result))
    bad = ("streams_reset", "lost_songs", "doubled_songs", "songs_of_unknown_bundles")
    return int(any(result[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
