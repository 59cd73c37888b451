"""Keep one server under load for long while streams come and go; say whether its memory and open files grow.

Every stream sends in real time. With ``--churn 1`` one in a hundred of them ends each minute and another takes its place, and
as many lose their connection and resume. The last line is JSON. What its fields mean:

rss_mb, rss_change_percent         memory of the server at the end (the median of the last minute), and what it has grown since
                                   the minute that ends with ``--settle-minutes``
rss_slope_mb_per_hour              the slope of a line through all minutes since
rss_highest_percent                the highest minute since against the first
open_files, ...                    the same of its file descriptors
event_loop_lag_p99_s               how late its event loop wakes, from its own histogram
lost_songs, duplicated_songs       against offline runs of what each stream sent, as in bench/serve.py
flat                               neither grew by more than 2 %
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from serve import DEMO_BUNDLE, Process, Sample, Secured, Watch, generate, latencies, saved, sounds, stored_songs, tally
from serve_load import Load, Plan

from songcore.bundle import Bundle, load_bundle

N_RECORDINGS = 5
RECORDING_S = 60
RATE_HZ = 48_000
FLAT_PERCENT = 2.0


def plans(n_streams: int, minutes: float, churn_percent: float) -> list[Plan]:
    """Return streams of which some end and are replaced, and some lose their connection, at even times."""
    seconds = int(60 * minutes)
    n_churned = round(n_streams * churn_percent / 100 * minutes)
    ends = {number % n_streams: round((number + 0.5) * seconds / max(1, n_churned)) for number in range(n_churned)}
    planned = []
    for number in range(n_streams):
        begin_s, recording = number / n_streams, number % N_RECORDINGS
        end = ends.get(number)
        # Another stream than the one that ends: the one half round from it.
        break_after = ends.get((number + n_streams // 2) % n_streams) if end is None else None
        planned.append(Plan(recording, end or seconds, begin_s, break_after=break_after))
        if end and end < seconds:
            planned.append(Plan(recording, seconds - end, begin_s + end))
    return planned


def expected(planned: list[Plan], pcm: list[Any], bundle: Bundle) -> list[set[tuple[int, int]]]:
    """Return onset and offset of every song of each stream, found offline."""
    known: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for plan in planned:
        if (plan.recording, plan.n_chunks) in known:
            continue
        stream, songs, one = bundle.new_stream(RATE_HZ), [], pcm[plan.recording]
        for index in range(plan.n_chunks):
            begin = index * RATE_HZ % len(one)
            songs += stream.push(one[begin : begin + RATE_HZ].astype(np.float32) / np.float32(32768))
        songs += stream.finish()
        known[plan.recording, plan.n_chunks] = {(song.onset, song.offset) for song in songs}
    return [known[plan.recording, plan.n_chunks] for plan in planned]


def growth(values: list[float], name: str) -> dict[str, Any]:
    """Return how a series of minutes ends, and how it grew: over all, by the line through it, and at its highest."""
    first, last = values[0], values[-1]
    slope = float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0
    return {
        name: round(last, 1),
        f"{name.removesuffix('_mb')}_change_percent": round(100 * (last / first - 1), 2),
        f"{name.removesuffix('_mb')}_slope_per_hour": round(60 * slope, 2),
        f"{name.removesuffix('_mb')}_highest_percent": round(100 * (max(values) / first - 1), 2),
    }


def by_minute(samples: list[Sample], settle_minutes: float, minute_s: float) -> tuple[list[float], list[float]]:
    """Return the medians of memory and descriptors for each whole minute, from the one that ends the settling on."""
    begin = samples[0].at + max(0.0, settle_minutes - 1) * minute_s
    n_minutes = int((samples[-1].at - begin) // minute_s)
    minutes = [
        [sample for sample in samples if begin + i * minute_s <= sample.at < begin + (i + 1) * minute_s]
        for i in range(n_minutes)
    ]
    return (
        [float(np.median([sample.rss_mb for sample in minute])) for minute in minutes],
        [float(np.median([sample.n_open_files for sample in minute])) for minute in minutes],
    )


def lag_p99_s(metrics: str) -> float:
    """Return the upper end of the bucket of the event loop's lag that holds the 99th percentile."""
    with urlopen(metrics) as page:  # noqa: S310 - the server's own address
        families = text_string_to_metric_families(page.read().decode())
    lag = next(family for family in families if family.name == "songstream_event_loop_lag_seconds")
    buckets = [(float(s.labels["le"]), s.value) for s in lag.samples if s.name.endswith("_bucket")]
    return next(le for le, count in buckets if count >= 0.99 * buckets[-1][1])


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it all; return the fields of the JSON line."""
    bundle_dir = arguments.bundle or DEMO_BUNDLE
    bundle = load_bundle(bundle_dir, device="cpu")
    planned = plans(arguments.streams, arguments.minutes, arguments.churn)
    pcm = sounds(N_RECORDINGS, RECORDING_S, RATE_HZ, RATE_HZ)
    secured = Secured.in_folder(folder, len(planned)) if arguments.tls else Secured()
    server = Process(bundle_dir, folder / "data", ["--device", "cpu", *secured.options])
    try:
        load = Load(
            server.address,
            saved(pcm, folder),
            planned,
            RATE_HZ,
            RATE_HZ,
            end_s=60 * arguments.minutes,
            ca=secured.ca,
            tokens=secured.tokens[:-1],
        )
        with Watch(server, arguments.minute_s / 60) as watch:
            seen = generate(load, folder)
        lag_s = lag_p99_s(server.metrics)
        result = tally(expected(planned, pcm, bundle), stored_songs(server.address, secured))
    finally:
        code = server.stop()
    # Of the time of all streams; what comes after is their end.
    until = seen[0]["begin"] + 60 * arguments.minutes
    samples = [sample for sample in watch.samples if seen[0]["begin"] <= sample.at < until]
    rss_mb, files = by_minute(samples, arguments.settle_minutes, arguments.minute_s)
    grown = growth(rss_mb, "rss_mb") | growth(files, "open_files")
    delays = latencies(load, seen, bundle)
    return {
        "minutes": arguments.minutes,
        "streams": arguments.streams,
        "churn_percent": arguments.churn,
        "tls": arguments.tls,
        "sessions": len(planned),
        "resumed": sum(plan.break_after is not None for plan in planned),
        "errors": sorted({one["error"] for one in seen if one["error"]}),
        **result,
        "rss_mb_by_minute": [round(value, 1) for value in rss_mb],
        "open_files_by_minute": files,
        **grown,
        "flat": all(grown[f"{name}_change_percent"] <= FLAT_PERCENT for name in ("rss", "open_files")),
        "event_loop_lag_p99_s": lag_s,
        "song_latency_p99_s": delays["song_latency_p99_s"],
        "ack_p99_s": delays["ack_p99_s"],
        "server_exit_code": code,
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--churn", type=float, default=1.0, help="percent of the streams that are replaced each minute")
    parser.add_argument("--settle-minutes", type=float, default=5.0, help="what is compared begins here")
    parser.add_argument("--minute-s", type=float, default=60.0, help="seconds of a minute of the comparison")
    parser.add_argument("--bundle", type=Path, help="default: models/demo-v1")
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
