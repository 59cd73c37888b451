"""The main job, from nothing to named songs: simulate, train, serve, stream from three stations, compare with the truth.

Runs the same commands a user would type, and prints the last line as JSON. Two song types are withheld from training, so
whatever sings them in the field is new to the model.
"""

import argparse
import csv
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score

from songserve.v1 import songs_pb2, songs_pb2_grpc, types_pb2

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
STATIONS = ("meadow", "river", "wood")
WITHHELD = (3, 5)
METRICS_SHOWN = ("songstream_songs_total", "songstream_ingest_audio_seconds_total", "songstream_inference_batch_size_")
AT_LEAST = {"segmentation_f1": 0.8, "naming_accuracy": 0.85, "novelty_auroc": 0.85}
"""Far below what is usual; less means that something is broken, and the demo fails."""

console = Console()


@dataclass(frozen=True)
class TrueSong:
    """One simulated song."""

    onset_s: float
    offset_s: float
    label: str


def main() -> None:
    """Run every step and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for everything the demo makes")
    parser.add_argument("--songs", type=int, default=600, help="songs in the training season")
    parser.add_argument("--speed", type=float, default=16.0, help="stations stream at this many times real time")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    started = time.monotonic()

    step("1  Simulate a season to learn from, with two song types withheld")
    withheld = ",".join(map(str, WITHHELD))
    run(
        "synth",
        "--preset",
        "demo",
        "--seed",
        1,
        "--songs",
        args.songs,
        "--withhold",
        withheld,
        "--out",
        args.out / "season",
    )
    step("2  Learn the song types (no label is looked at)")
    run("train", "--data", args.out / "season", "--preset", "demo", "--out", args.out / "bundle")
    step("3  Simulate the field: other singers, all song types, three stations")
    field = args.out / "field"
    settings = [
        part
        for setting in ("recording_s=400", "n_stations=3", "n_singers=3", "far_singer_share=0")
        for part in ("--set", setting)
    ]
    run("synth", "--preset", "demo", "--seed", 2, "--songs", 45 * len(STATIONS), *settings, "--out", field)
    step(f"4  Serve the bundle; {len(STATIONS)} stations stream at {args.speed:g} times real time")
    songs, metrics = stream(args.out, sorted((field / "recordings").iterdir()), args.speed)
    step("5  What was heard, beside the truth")
    result = compare(songs, read_truth(field / "songs.csv"))
    show_metrics(metrics)
    console.print(f"\nThe report on the training is at [bold]{args.out / 'bundle' / 'report.html'}[/bold]")
    print(json.dumps({**result, "seconds": round(time.monotonic() - started, 1)}))
    broken = [
        f"{name} is {result[name]}, expected at least {least}"
        for name, least in AT_LEAST.items()
        if result[name] < least
    ]
    if broken:
        sys.exit(f"the demo ran, but {'; '.join(broken)}")


def step(title: str) -> None:
    """Announce a step."""
    console.rule(f"[bold]{title}", align="left")


def run(*arguments: object) -> None:
    """Run a songstream command as a user would, showing it first."""
    words = [str(argument) for argument in arguments]
    console.print(f"[dim]$ songstream {' '.join(words)}")
    subprocess.run([SONGSTREAM, *words], check=True)


def stream(out: Path, recordings: list[Path], speed: float) -> tuple[dict[str, list[types_pb2.Song]], str]:
    """Serve, stream each recording from a station of its own, and return the stored songs by recording and the metrics."""
    command = [SONGSTREAM, "serve", "--bundle", out / "bundle", "--data-dir", out / "data"]
    options = ["--listen", "127.0.0.1:0", "--metrics-port", "0", "--json"]
    with (out / "serve.log").open("w") as log:
        server = subprocess.Popen([*map(str, command), *options], stdout=subprocess.PIPE, stderr=log, text=True)
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        if not line:
            sys.exit(f"the service did not start; {out / 'serve.log'} says why")
        ready = json.loads(line)
        console.print(f"[dim]$ songstream serve --bundle {out / 'bundle'} …   → gRPC on {ready['address']}")
        stations = []
        for station, recording in zip(STATIONS, recordings, strict=False):
            words = [
                "listen",
                str(recording),
                "--server",
                ready["address"],
                "--station",
                station,
                "--speed",
                f"{speed:g}",
                "--start",
                "now",
            ]
            console.print(f"[dim]$ songstream {' '.join(words)}")
            stations.append(subprocess.Popen([SONGSTREAM, *words, "--json"], stdout=subprocess.DEVNULL))
        if any(station.wait() for station in stations):
            sys.exit("a station failed; its message is above")
        songs = {
            recording.name: list_songs(ready["address"], station)
            for station, recording in zip(STATIONS, recordings, strict=False)
        }
        metrics_url = ready["metrics"] if "://" in ready["metrics"] else f"http://{ready['metrics']}"
        with urllib.request.urlopen(f"{metrics_url.removesuffix('/metrics')}/metrics") as response:  # noqa: S310 - our own server on loopback
            metrics = response.read().decode()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    return songs, metrics


def list_songs(address: str, station: str) -> list[types_pb2.Song]:
    """Return every stored song of a station in order of time."""
    found: list[Any] = []
    with grpc.insecure_channel(address) as channel:
        service = songs_pb2_grpc.SongServiceStub(channel)
        token = ""
        while True:
            request = songs_pb2.ListSongsRequest(station=f"stations/{station}", page_size=500, page_token=token)
            page = service.ListSongs(request)
            found += page.songs
            token = page.next_page_token
            if not token:
                return found


def read_truth(path: Path) -> dict[str, list[TrueSong]]:
    """Return the simulated songs by recording."""
    truth: dict[str, list[TrueSong]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            song = TrueSong(float(row["onset_s"]), float(row["offset_s"]), row["label"])
            truth.setdefault(Path(row["recording"]).name, []).append(song)
    return truth


def match_songs(found: NDArray[np.float64], true: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return (found, true) pairs whose intersection over union is at least a half; both are (n, 2) onset and offset."""
    overlap = np.minimum(found[:, None, 1], true[:, 1]) - np.maximum(found[:, None, 0], true[:, 0])
    union = np.maximum(found[:, None, 1], true[:, 1]) - np.minimum(found[:, None, 0], true[:, 0])
    ratio = np.maximum(0, overlap) / union
    pairs = zip(*linear_sum_assignment(ratio, maximize=True), strict=True)
    return [(int(i), int(j)) for i, j in pairs if ratio[i, j] >= 0.5]


def compare(songs: dict[str, list[types_pb2.Song]], truth: dict[str, list[TrueSong]]) -> dict[str, float | int]:
    """Print the tables and return the scores."""
    pairs: list[tuple[Any, TrueSong]] = []
    n_found = n_true = 0
    for recording, found in songs.items():
        true = truth[recording]
        matched = match_songs(
            np.array([(s.onset_s, s.offset_s) for s in found]).reshape(-1, 2),
            np.array([(s.onset_s, s.offset_s) for s in true]).reshape(-1, 2),
        )
        pairs += [(found[i], true[j]) for i, j in matched]
        n_found, n_true = n_found + len(found), n_true + len(true)
    withheld = {label for _, song in pairs if int((label := song.label).removeprefix("T")) in WITHHELD}
    show_types(pairs, withheld)
    known = [(s, t) for s, t in pairs if t.label not in withheld]
    new = [(s, t) for s, t in pairs if t.label in withheld]
    named = [(s.song_type, t.label) for s, t in known if not s.is_novel]
    if not (named and new):
        sys.exit("no known or no withheld song was found where it was sung; the service log and the report may say why")
    found_types, labels = zip(*named, strict=True)
    majority = {kind: Counter(t for f, t in named if f == kind).most_common(1)[0][0] for kind in set(found_types)}
    scores: dict[str, float | int] = {
        "songs_sung": n_true,
        "songs_found": n_found,
        "segmentation_f1": round(2 * len(pairs) / (n_found + n_true), 3),
        "naming_nmi": round(float(normalized_mutual_info_score(labels, found_types)), 3),
        "naming_ari": round(float(adjusted_rand_score(labels, found_types)), 3),
        "naming_accuracy": round(float(np.mean([majority[f] == t for f, t in named])), 3),
        "withheld_flagged_novel": round(float(np.mean([s.is_novel for s, _ in new])), 3),
        "known_flagged_novel": round(float(np.mean([s.is_novel for s, _ in known])), 3),
        "novelty_auroc": round(
            float(roc_auc_score([t.label in withheld for _, t in pairs], [s.novelty_score for s, _ in pairs])), 3
        ),
    }
    table = Table(title="Scores against the truth", title_justify="left")
    table.add_column("score")
    table.add_column("value", justify="right")
    for name, value in scores.items():
        table.add_row(name.replace("_", " "), f"{value}")
    console.print(table)
    return scores


def show_types(pairs: list[tuple[Any, TrueSong]], withheld: set[str]) -> None:
    """Print every named type with its count and what was truly sung."""
    table = Table(title="Song types heard (novel songs apart)", title_justify="left")
    for name, justify in (("type", "left"), ("songs", "right"), ("truly", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # rich names the choices
    groups: dict[str, Counter[str]] = {}
    for song, true in pairs:
        kind = "novel" if song.is_novel else song.song_type.removeprefix("songTypes/")
        groups.setdefault(kind, Counter())[true.label] += 1
    for kind, labels in sorted(groups.items(), key=lambda item: (item[0] == "novel", -item[1].total())):
        truly = ", ".join(
            f"{label}{' (withheld)' if label in withheld else ''} {n}" for label, n in labels.most_common(4)
        )
        table.add_row(kind, str(labels.total()), truly)
    console.print(table)


def show_metrics(metrics: str) -> None:
    """Print the Prometheus lines a dashboard of song types would read."""
    console.print("\n[bold]What Prometheus scrapes, in part")
    for line in metrics.splitlines():
        if line.startswith(METRICS_SHOWN):
            console.print(f"  {line}", highlight=False)


if __name__ == "__main__":
    main()
