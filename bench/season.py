"""A whole season through the real service: birds sing, types appear, a nightly job proposes, models are swapped under load.

A bundle is trained on the year before, whose birds are others and know none of the new types. Then, day by day, six
stations stream what was sung to a real server; every night `songstream recluster` runs on its store, in full on the nights of
--full, and what passes its gate is activated while the next day streams. The last line is JSON:

new_types, discovered_in_time      types that appeared and were sung 15 times, and the share of them that has an id of its own
                                   within three nights: half of its songs are known under it, most of the id's songs are its
discovered_purity                  share of the songs of new ids that are of their id's most frequent type, by the last bundle
songs_kept_id, least_kept          share of the songs of surviving types that are called as before, over all promotions, and
                                   the lowest of one promotion; judged on up to 1,500 songs each
plain_kept_id                      the same for clusters that are found anew and numbered by size
frequency_distance                 total variation between named and sung frequencies of the catalogue's types, mean of days
frequency_distance_unknown         the same when novel songs, and those of types that the catalogue does not have on the day,
                                   are one more type
frequency_distance_retyped         the first at the season's end, all songs named by the last bundle
streams_reset, lost_songs, doubled_songs
                                   over all days and swaps, against the offline run of the same samples
promotions, full_retrains, refused activations, and proposals that the gate refused (by reason)
decisions_in_force                 with --people: of how many decisions how many hold at the end for the service and for the
                                   last bundle alone, `full_retrains_since` full retrainings later

    python bench/season.py --out season-out
    python bench/season.py --days 8 --songs 90 --types 16 --new 4 --new-after 2 --training-songs 320 --full 6
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from season_field import Day, FieldPlan, render_day, render_pool, stream_day
from season_people import People
from season_scores import Promotion, Songs, discovery, frequency_distance, promotion, purity
from serve import Process, Secured, stored_songs

from songcore.bundle import Bundle, load_bundle
from songcore.errors import ConfigError
from songserve.clients.bundles import BundleClient
from songserve.clients.connection import Connection, Server
from songtrain.synth.write import simulate

SONGSTREAM = str(Path(sys.executable).with_name("songstream"))
console = Console(stderr=True)


@dataclass
class Season:
    """What happened so far."""

    plan: FieldPlan
    folder: Path
    first: Bundle
    server: Process
    songs: Songs = field(default_factory=Songs)
    days: list[Day] = field(default_factory=list)
    promotions: list[Promotion] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def models(self) -> Path:
        """The server's folder of bundles."""
        return self.folder / "data" / "models"


def train_first(plan: FieldPlan, folder: Path, arguments: argparse.Namespace) -> Path:
    """Train on the year before; return the bundle."""
    if (folder / "first").exists():
        return folder / "first"
    config = plan.config(0).model_copy(update={"n_songs": arguments.training_songs, "recording_s": 120.0})
    simulate(config, folder / "before", arguments.workers)
    command = [SONGSTREAM, "train", "--data", str(folder / "before"), "--preset", arguments.preset]
    subprocess.run([*command, "--out", str(folder / "first")], check=True, stdout=sys.stderr)
    return folder / "first"


def night(season: Season, day: int, mode: str) -> str | None:
    """Run the nightly job; return the digest of what it proposes, if anything."""
    command = [SONGSTREAM, "recluster", "--store", f"sqlite:///{season.folder / 'data' / 'songs.sqlite'}", "--active"]
    command += ["--bundle", str(season.folder / "first"), "--mode", mode, "--run", f"night-{day:02d}", "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    state = json.loads(done.stdout.splitlines()[-1])
    console.print(f"night {day}: {mode}, {state['outcome']}, {state['facts']}", highlight=False, markup=False)
    candidate: str | None = state["candidate"]
    return candidate


def activate(season: Season, digest: str) -> bool:
    """Ask the server to serve a bundle; a refusal is counted."""
    with Connection(Server(season.server.address)) as connection:
        client = BundleClient(connection)
        try:
            client.activate(client.validate(client.find(digest)), accepted=(), dry_run=False)
        except ConfigError as error:
            season.refused[error.reason] += 1
            console.print(f"refused: {error}", markup=False)
            return False
    return True


def run_day(season: Season, day: Day, candidate: tuple[str, str] | None, active: Path) -> Path:
    """Stream a day, activate what was proposed while it streams, take in what was heard; return the active bundle."""
    streaming = threading.Thread(target=stream_day, args=(day, season.server.address, season.plan.seed))
    streaming.start()
    promoted = active
    if candidate is not None:
        time.sleep(0.5)
        if activate(season, candidate[0]):
            promoted = season.models / candidate[0]
    streaming.join()
    season.days.append(day)
    if promoted != active:
        old, new = load_bundle(active, device="cpu"), load_bundle(promoted, device="cpu")
        judged = promotion(
            season.songs, old, new, season.first, day.number - 1, candidate[1] if candidate else "", season.plan
        )
        season.promotions.append(judged)
        console.print(
            f"promoted: {judged.kept} of {judged.of} keep their id; {len(judged.found)} new types", markup=False
        )
    season.songs.add(day, season.first.manifest.frontend.sample_rate_hz)
    return promoted


def live_names(season: Season) -> dict[tuple[str, int, int], list[Any]]:
    """Return every stored song by station and the time of its onset and offset, in samples since its recording's begin."""
    stored: dict[tuple[str, int, int], list[Any]] = {}
    begins = {
        (one.station, round(one.begin.timestamp() * 1000)): str(one.path)
        for day in season.days
        for one in day.recordings
    }
    rate = season.first.manifest.frontend.sample_rate_hz
    for song in stored_songs(season.server.address, Secured()):
        station = song.session.split("/")[1]
        start_ms = song.start_time.ToMilliseconds()
        begin_ms = round(start_ms - 1000 * song.onset_sample / rate)
        near = min((b for s, b in begins if s == station), key=lambda b: abs(b - begin_ms))
        key = (begins[station, near], song.onset_sample, song.offset_sample)
        stored.setdefault(key, []).append(song)
    return stored


def catalogue_labels(season: Season) -> dict[int, set[str]]:
    """Return the labels that the catalogue had on each day: those of the first bundle, and new ones once they were found."""
    new = {f"T{index:03d}" for index in season.plan.appears}
    old = {song.label for song in season.songs.heard} - new - {""}
    known = {}
    for day in season.days:
        found = {label for p in season.promotions if p.day < day.number for label in p.found}
        known[day.number] = old | found
    return known


def results(
    season: Season, last: Bundle, stored: dict[tuple[str, int, int], list[Any]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return the fields of the JSON line; ``stored`` are all songs as `live_names` gives them."""
    songs = season.songs
    expected = {song.key for song in songs.heard}
    as_heard = [stored.get(song.key) for song in songs.heard]
    live = [(s[0].song_type.removeprefix("songTypes/"), not s[0].is_novel) if s else ("", False) for s in as_heard]
    retyped = songs.named(last, songs.heard)
    in_time, n_new, found = discovery(season.promotions, songs, season.plan)
    known = catalogue_labels(season)
    everything = {day: set().union(*known.values()) for day in known}
    of = sum(p.of for p in season.promotions)
    return {
        "days": season.plan.n_days,
        "songs_sung": sum(counts.total() for counts in songs.sung.values()),
        "songs_heard": len(songs.heard),
        "new_types": n_new,
        "discovered_in_time": round(in_time / n_new, 3) if n_new else None,
        "discovered": len(found),
        "discovered_purity": round(purity(retyped, songs.heard, season.first), 3),
        "songs_kept_id": round(sum(p.kept for p in season.promotions) / of, 4) if of else None,
        "least_kept": round(min((p.kept / p.of for p in season.promotions if p.of), default=1.0), 4),
        "plain_kept_id": round(sum(p.plainly_kept for p in season.promotions) / max(1, len(season.promotions)), 4),
        "frequency_distance": round(frequency_distance(live, songs.heard, songs.sung, known), 4),
        "frequency_distance_unknown": round(
            frequency_distance(live, songs.heard, songs.sung, known, with_unknown=True), 4
        ),
        "frequency_distance_retyped": round(frequency_distance(retyped, songs.heard, songs.sung, everything), 4),
        "streams_reset": sum(account.n_streams - 1 for day in season.days for account in day.accounts),
        "lost_songs": len(expected - set(stored)),
        "doubled_songs": sum(len(s) - 1 for s in stored.values()) + len(set(stored) - expected),
        "promotions": len(season.promotions),
        "full_retrains": sum(p.mode == "full" for p in season.promotions),
        "refused": dict(season.refused),
        "n_types_first": len(season.first.types),
        "n_types_last": len(last.types),
        "preset": arguments.preset,
    }


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the season; return its results."""
    plan = FieldPlan(
        n_days=arguments.days,
        songs_per_day=arguments.songs,
        n_types=arguments.types,
        n_new=arguments.new,
        new_after=arguments.new_after,
        n_stations=arguments.stations,
        seed=arguments.seed,
    )
    first = train_first(plan, folder, arguments)
    # A day is streamed as fast as the server listens, not at the pace that stations are held to; and it is long ago.
    pace = "live_speed = 1000.0\nlisten_window_ms = 20.0\nmax_waiting_kb = 2048\n"
    (folder / "serve.toml").write_text(f"{pace}clip_days = 36500\n")
    server = Process(first, folder / "data", ["--device", "cpu", "--config", str(folder / "serve.toml")])
    season = Season(plan, folder, load_bundle(first, device="cpu"), server)
    people = People(server.address) if arguments.people else None
    active, candidate = first, None
    try:
        with render_pool(arguments.workers) as pool, ThreadPoolExecutor(1) as ahead:

            def rendered(number: int) -> "Future[Day]":
                return ahead.submit(render_day, plan, number, folder / "field", first, pool)

            coming = rendered(1)
            for number in range(1, plan.n_days + 1):
                day = coming.result()
                if number < plan.n_days:
                    coming = rendered(number + 1)
                active = run_day(season, day, candidate, active)
                if people is not None and number == plan.new_after:
                    people.decide(stored_songs(server.address, Secured()))
                mode = "full" if number in arguments.full else "quick"
                digest = night(season, number, mode)
                candidate = (digest, mode) if digest else None
        last, stored = load_bundle(active, device="cpu"), live_names(season)
        result = results(season, last, stored, arguments)
        if people is not None:
            last_day = min(one.begin for one in season.days[-1].recordings)
            heard = {stored[song.key][0].name: song for song in season.songs.heard if song.key in stored}
            songs = [song for same in stored.values() for song in same]
            result |= people.in_force(songs, heard, round(last_day.timestamp() * 1000), last)
            since = [one for one in season.promotions if one.mode == "full" and one.day > plan.new_after]
            result["full_retrains_since"] = len(since)
    finally:
        code = server.stop()
    (folder / "promotions.json").write_text(json.dumps([asdict(one) for one in season.promotions], indent=1))
    return {**result, "server_exit_code": code}


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--songs", type=int, default=240, help="songs a day")
    parser.add_argument("--types", type=int, default=80)
    parser.add_argument("--new", type=int, default=20, help="types that appear during the season")
    parser.add_argument("--new-after", type=int, default=10, help="the last day on which none of them is sung")
    parser.add_argument("--stations", type=int, default=6)
    parser.add_argument("--full", type=int, nargs="*", default=[20, 32], help="nights on which all is retrained")
    parser.add_argument("--people", action="store_true", help="let people name, merge, split and mark types")
    parser.add_argument("--training-songs", type=int, default=2400)
    parser.add_argument("--preset", default="default", help="of `songstream train`")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that render sound")
    parser.add_argument("--out", type=Path, help="folder to keep; a trained bundle in it is used again")
    arguments = parser.parse_args()
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        result = run(arguments, arguments.out.resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = run(arguments, Path(folder))
    print(json.dumps(result))
    if result.get("broken"):
        sys.exit(f"what people decided does not hold any more: {', '.join(result['broken'])}")
    if result["lost_songs"] or result["doubled_songs"] or result["streams_reset"] or result["server_exit_code"]:
        sys.exit("songs were lost or doubled, streams were reset, or the server failed")


if __name__ == "__main__":
    main()
