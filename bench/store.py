"""Fill a store with a season of songs, by commits as streams make them, and ask it what people ask; on either database.

The last line is JSON. What its fields mean, times in seconds:

fill_songs_per_s              songs stored for each second of filling, each with its embedding, each commit with its session,
                              counts and effort
season_p50_s, season_p95_s    `QueryFrequencies` over the whole season: all stations in total, by week and by day; one station
                              by day; one type of all stations by day; below each kind by itself
hours_p95_s                   the same over one week of all stations, by the hour, and over the season of one station
page_p95_s                    a page of 100 songs somewhere in the season: of all, one station, one type, or novel ones
watch_p95_s                   the next 500 songs after a number
totals_p95_s                  what a scrape of the metrics asks
season_by_hour_rpc_s          the season of all stations by the hour, over a port: every page of `QueryFrequencies`, once
open_s                        opening the filled database, as a server does when it starts
rss_mb                        memory of the process that asked all that
database_mb                   size of the database
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from songserve.database import DataDirectory
from songserve.frequencies import FrequencyFilter
from songserve.queries import SongFilter, SongQueries
from songserve.records import AudioFormat, Commit, SessionName, SessionOpening, SessionRecord, StoredSong
from songserve.store import Store
from songserve.times import DAY_MS, HOUR_MS

ROOT = Path(__file__).resolve().parent.parent
START_MS = 20_580 * DAY_MS
"""Midnight of a day in May."""
N_DAYS, N_STATIONS, N_TYPES = 100, 30, 60
HOURS = range(2, 10)
"""Dawn, UTC."""
SEASON = (START_MS, START_MS + N_DAYS * DAY_MS)
EMBEDDING_SIZE = 256
MAX_WAITING = 256
N_REPEATS = 20


def station_hours(n_songs: int, rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Give station, start of an hour and its number of songs, in order of time; the numbers add up to ``n_songs``."""
    n_cells = N_DAYS * len(HOURS) * N_STATIONS
    numbers = iter(rng.multinomial(n_songs, rng.dirichlet(np.full(n_cells, 3.0))))
    for day in range(N_DAYS):
        for hour in HOURS:
            for station in range(N_STATIONS):
                yield station, START_MS + day * DAY_MS + hour * HOUR_MS, int(next(numbers))


def songs_of(record: SessionRecord, hour_ms: int, n_songs: int, rng: np.random.Generator) -> tuple[StoredSong, ...]:
    """Return songs of random types, few of them frequent as song types are, in one hour."""
    name = record.opening.name
    types = np.minimum(rng.zipf(1.5, n_songs), N_TYPES)
    at = np.sort(rng.integers(0, HOUR_MS, n_songs))
    novel = rng.random(n_songs) < 0.03
    return tuple(
        StoredSong(
            uid=str(uuid5(name.uuid, f"{hour_ms}:{index}")),
            station=name.station,
            session=str(name.uuid),
            start_ms=hour_ms + int(at[index]),
            end_ms=hour_ms + int(at[index]) + 2000,
            onset=index * 48_000,
            offset=index * 48_000 + 48_000,
            sample_rate_hz=24_000,
            type_id=f"T{types[index]:04d}",
            kind="song",
            similarity=0.8,
            novelty_score=0.2,
            p_value=0.4,
            novelty="novel" if novel[index] else "known",
            forced_cut=False,
            snr_db=20.0,
            quality="good",
            bundle="0" * 64,
        )
        for index in range(n_songs)
    )


def fill(directory: DataDirectory, n_songs: int) -> float:
    """Store a season; return the seconds it took."""
    rng = np.random.default_rng(0)
    store = Store(directory, group_window_s=0.0, min_free_bytes=0, observe=lambda *_: None)
    records = {
        station: store.open_session(
            SessionOpening(
                SessionName(f"station-{station:02d}", UUID(int=station + 1)),
                AudioFormat("linear16", 48_000, 1, None),
                START_MS,
            )
        ).result(60)
        for station in range(N_STATIONS)
    }
    waiting: deque[Future[Any]] = deque()
    began = time.perf_counter()
    for station, hour_ms, n in station_hours(n_songs, rng):
        hours_since = (hour_ms - START_MS) // HOUR_MS + 1
        record = replace(records[station], committed_sample=hours_since * 3600 * 48_000)
        songs = songs_of(record, hour_ms, n, rng)
        vectors = {song.uid: rng.bytes(4 * EMBEDDING_SIZE) for song in songs}
        commit = Commit(record, songs, {hour_ms: 3600.0 - float(rng.integers(0, 60))}, embeddings=vectors)
        waiting.append(store.commit(commit))
        if len(waiting) > MAX_WAITING:
            waiting.popleft().result(60)
    for future in waiting:
        future.result(60)
    took = time.perf_counter() - began
    store.close()
    return took


def questions(queries: SongQueries, n_songs: int, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """Return what is asked, by name; each asks for something else every time."""
    start, end = SEASON

    def frequencies(**wanted: Any) -> object:
        return queries.frequencies(FrequencyFilter(**{"start_ms": start, "end_ms": end, **wanted}))

    def station() -> str:
        return f"station-{rng.integers(N_STATIONS):02d}"

    def type_id() -> str:
        return f"T{rng.integers(1, N_TYPES):04d}"

    def page(**wanted: Any) -> object:
        return queries.page(SongFilter(**wanted), (start + int(rng.integers(N_DAYS * DAY_MS)), ""), 100)

    def week() -> object:
        first = start + int(rng.integers(N_DAYS - 7)) * DAY_MS
        return frequencies(start_ms=first, end_ms=first + 7 * DAY_MS, bucket_ms=HOUR_MS)

    return {
        "season_total": frequencies,
        "season_by_week": lambda: frequencies(bucket_ms=7 * DAY_MS),
        "season_by_day": lambda: frequencies(bucket_ms=DAY_MS),
        "season_by_day_of_a_station": lambda: frequencies(bucket_ms=DAY_MS, stations=[station()]),
        "season_by_day_of_a_type": lambda: frequencies(bucket_ms=DAY_MS, type_ids=[type_id()]),
        "hours_of_a_week": week,
        "hours_of_a_station": lambda: frequencies(bucket_ms=HOUR_MS, stations=[station()]),
        "page_of_all": page,
        "page_of_a_station": lambda: page(station=station()),
        "page_of_a_type": lambda: page(type_id=type_id()),
        "page_of_novel": lambda: page(only_novel=True),
        "watch": lambda: queries.after(SongFilter(), int(rng.integers(n_songs)), 500),
        "totals": queries.totals,
    }


def measure(directory: DataDirectory, n_songs: int) -> dict[str, float]:
    """Ask everything again and again; return the fields of the JSON line."""
    times: dict[str, list[float]] = {}
    for name, ask in questions(SongQueries(directory.readers), n_songs, np.random.default_rng(1)).items():
        for _ in range(N_REPEATS):
            began = time.perf_counter()
            ask()
            times.setdefault(name, []).append(time.perf_counter() - began)
    groups = {
        group: [seconds for name, taken in times.items() if name.startswith(group) for seconds in taken]
        for group in ("season", "hours", "page", "watch", "totals")
    }
    result = {"season_p50_s": percentile(groups["season"], 50)}
    result |= {f"{group}_p95_s": percentile(taken, 95) for group, taken in groups.items()}
    result |= {
        f"{name}_p95_s": percentile(taken, 95) for name, taken in times.items() if name.startswith(("sea", "hou"))
    }
    # Linux counts in kilobytes.
    result["rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    result["database_mb"] = round(directory.database_bytes / 2**20, 1)
    return result


def ask_over_a_port(data_dir: Path, url: str | None) -> dict[str, float]:
    """Have a server answer for the store, which nobody may have open, from a port; return the fields of the JSON line."""
    sys.path.append(str(ROOT / "tests"))
    from bundles import make_test_bundle
    from serving import ServerThread
    from songcore.bundle import load_bundle
    from songserve.clients.connection import Connection, Server
    from songserve.clients.songs import SongClient

    with tempfile.TemporaryDirectory() as folder:
        make_test_bundle(Path(folder) / "bundle")
        bundle = load_bundle(Path(folder) / "bundle", device="cpu")
        with (
            ServerThread(bundle, data_dir, database_url=url) as server,
            Connection(Server(server.addresses.grpc)) as connection,
        ):
            began = time.perf_counter()
            found = deque(SongClient(connection).frequencies(bucket=timedelta(hours=1)), maxlen=1)
            took = time.perf_counter() - began
    assert found[0].start is not None
    return {"season_by_hour_rpc_s": round(took, 4)}


def percentile(values: list[float], q: float) -> float:
    """Return a percentile rounded to tenths of milliseconds."""
    return round(float(np.percentile(values, q)), 4)


@contextmanager
def own_postgres() -> Iterator[str]:
    """Give the URL of an empty database of a PostgreSQL that is started for it, with its ordinary durability."""
    sys.path.append(str(ROOT / "tests"))
    from postgres import PostgresServer

    with PostgresServer(durable=True) as server:
        yield server.new_database()


def run(arguments: argparse.Namespace, data_dir: Path, url: str | None) -> None:
    """Fill, then measure in a process of its own, whose memory filling has not touched."""
    began = time.perf_counter()
    directory = DataDirectory(data_dir, database_url=url)
    open_s = round(time.perf_counter() - began, 3)
    if arguments.measure:
        result = {"songs": arguments.songs, "database": directory.writer.dialect.name, "open_s": open_s}
        result |= measure(directory, arguments.songs)
        directory.close()
        print(json.dumps({**result, **ask_over_a_port(data_dir, url)}))
        return
    if SongQueries(directory.readers).position()[1]:
        sys.exit("the database holds songs already; this program fills an empty one")
    took = fill(directory, arguments.songs)
    if url:
        with directory.writer.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("ANALYZE")  # as autovacuum does, a minute later
    directory.close()
    command = [sys.executable, __file__, "--measure", "--songs", str(arguments.songs), "--data-dir", str(data_dir)]
    measured = subprocess.run([*command, *(["--url", url] if url else [])], check=True, capture_output=True, text=True)
    result = {**json.loads(measured.stdout), "fill_songs_per_s": round(arguments.songs / took)}
    print(json.dumps(result))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty PostgreSQL database, postgresql+psycopg://...; default: SQLite")
    parser.add_argument("--postgres", action="store_true", help="start a PostgreSQL for this and delete it afterwards")
    parser.add_argument("--data-dir", type=Path, help="an empty folder; default: a temporary one")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = arguments.data_dir or Path(folder)
        if arguments.postgres:
            with own_postgres() as url:
                run(arguments, data_dir, url)
        else:
            run(arguments, data_dir, arguments.url)


if __name__ == "__main__":
    main()
