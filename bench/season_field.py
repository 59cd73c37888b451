"""The field of bench/season.py: who sings what on which day, its sound, and the stations that stream it."""

import asyncio
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from math import inf
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from songcore.arrays import FloatArray
from songcore.bundle import load_bundle
from songcore.stream import SongStream, StreamConfig
from songstation.channel import Channel
from songstation.link import LinkSettings
from songstation.listening import Account, Station, listen
from songstation.sources import Playback
from songtrain.synth.config import SeasonConfig, season_config
from songtrain.synth.season import open_season, render_recording

__all__ = ["Day", "FieldPlan", "Recording", "TrueSong", "render_day", "render_pool", "stream_day"]

FIRST_DAY = datetime(2024, 4, 1, tzinfo=UTC)
DAWN = timedelta(hours=3)
PAUSE = timedelta(minutes=20)
"""Between the beginnings of a station's recordings."""


@dataclass(frozen=True)
class FieldPlan:
    """A season of days; types in ``appears`` are sung from their day on, the others from the first."""

    n_days: int = 40
    songs_per_day: int = 240
    n_types: int = 80
    n_new: int = 20
    new_after: int = 10
    """The first day on which a new type may appear is the next one."""
    n_stations: int = 6
    storms: tuple[int, ...] = (5, 13, 22, 31)
    """Days of wind and rain, on which songs drown."""
    drifting: int = 2
    drift_octaves: float = 0.003
    seed: int = 1

    @property
    def appears(self) -> dict[int, int]:
        """Day on which each new type, by index, is first sung: spread over ranks and over the days that leave it time."""
        step = self.n_types // max(1, self.n_new)
        new = [step * (i + 1) - 1 for i in range(self.n_new)]
        span = max(1, round(0.6 * (self.n_days - self.new_after)))
        order = np.random.default_rng(self.seed).permutation(self.n_new)
        return {index: self.new_after + 1 + int(order[i]) * span // max(1, self.n_new) for i, index in enumerate(new)}

    def config(self, day: int) -> SeasonConfig:
        """Return what is simulated on a day; day 0 is the year before, with other birds, none of which knows a new type."""
        storm = {"wind_share": 1.0, "rain_share": 1.0, "snr_db": (-5.0, 12.0)} if day in self.storms else {}
        return season_config(
            "easy",
            **{
                "seed": self.seed + (1000 if day == 0 else 0),
                "type_seed": self.seed,
                "day": day,
                "n_types": self.n_types,
                "withheld": tuple(index for index, first in self.appears.items() if first > day),
                "n_songs": self.songs_per_day,
                "n_singers": self.n_stations,
                "n_stations": self.n_stations,
                "n_sites": min(3, self.n_stations),
                "near_variant_share": 0.0,
                "recording_s": 300.0,
                "snr_db": (8.0, 30.0),
                "far_singer_share": 0.1,
                "other_birds_per_minute": 1.0,
                "drifting": self.drifting,
                "drift_octaves": self.drift_octaves,
                **storm,
            },
        )


@dataclass(frozen=True)
class TrueSong:
    """A song that was sung, seconds of its recording."""

    onset_s: float
    offset_s: float
    label: str
    snr_db: float


@dataclass(frozen=True)
class Recording:
    """What one station recorded, its truth, and what a stream hears in it offline."""

    path: Path
    station: str
    begin: datetime
    songs: tuple[TrueSong, ...]
    heard: tuple[tuple[int, int], ...]
    """Onset and offset, samples at the bundle's rate."""
    features: Path
    """npz: ``frames`` of all songs heard, one behind the other, and their ``lengths``."""

    def read_features(self) -> list[FloatArray]:
        """Return the features of every song heard."""
        with np.load(self.features) as arrays:
            return np.split(arrays["frames"].astype(np.float32), np.cumsum(arrays["lengths"])[:-1])


@dataclass
class Day:
    """One day's recordings, and what became of streaming them."""

    number: int
    recordings: list[Recording]
    accounts: list[Account] = field(default_factory=list)


def render_day(plan: FieldPlan, day: int, folder: Path, bundle: Path, pool: ProcessPoolExecutor) -> Day:
    """Render a day's recordings in the pool's processes; they are named as AudioMoth does, by when they begin."""
    season, turns, work = open_season(plan.config(day)), dict[int, int](), []
    for index, recording in enumerate(season.recordings):
        turn = turns[recording.station] = turns.get(recording.station, -1) + 1
        begin = FIRST_DAY + timedelta(days=day) + DAWN + turn * PAUSE
        path = folder / f"station-{recording.station + 1}" / f"{begin:%Y%m%d_%H%M%S}.WAV"
        path.parent.mkdir(parents=True, exist_ok=True)
        work.append((index, path, begin))
    return Day(day, list(pool.map(partial(_render, plan.config(day), bundle), work)))


def render_pool(n_workers: int) -> ProcessPoolExecutor:
    """Return processes for `render_day`."""
    return ProcessPoolExecutor(n_workers, mp_context=get_context("spawn"))


@lru_cache(maxsize=1)
def _stream_config(bundle: Path) -> StreamConfig:
    return load_bundle(bundle, device="cpu").stream_config


def _render(config: SeasonConfig, bundle: Path, work: tuple[int, Path, datetime]) -> Recording:
    index, path, begin = work
    samples, truth = render_recording(config, index)
    whole = np.rint(samples * 32768).astype(np.int16)
    soundfile.write(path, whole, config.sample_rate_hz, subtype="PCM_16")
    stream = SongStream(_stream_config(bundle), config.sample_rate_hz)
    heard = stream.push(whole.astype(np.float32) / np.float32(32768)) + stream.finish()
    features = path.with_suffix(".npz")
    frames = [song.features for song in heard]
    np.savez(
        features,
        frames=np.concatenate(frames).astype(np.float16) if frames else np.empty((0, 1), np.float16),
        lengths=np.asarray([len(one) for one in frames], np.int64),
    )
    rate = config.sample_rate_hz
    songs = tuple(TrueSong(s.onset / rate, s.offset / rate, s.label, s.snr_db) for s in truth)
    return Recording(path, path.parent.name, begin, songs, tuple((s.onset, s.offset) for s in heard), features)


def stream_day(day: Day, address: str, seed: int) -> None:
    """Stream every station's recordings one after the other, the stations at once, as fast as the server takes them."""
    day.accounts = asyncio.run(_stream(day, address, seed))
    for recording in day.recordings:
        recording.path.unlink()


async def _stream(day: Day, address: str, seed: int) -> list[Account]:
    stations: dict[str, list[Recording]] = {}
    for recording in day.recordings:
        stations.setdefault(recording.station, []).append(recording)

    async def one(name: str) -> list[Account]:
        rng = Random(f"{seed} {day.number} {name}")  # noqa: S311 - delays between attempts, not secrets
        async with Channel(address) as channel:
            return [await _stream_one(channel, recording, rng) for recording in stations[name]]

    told = await asyncio.gather(*(one(name) for name in sorted(stations)))
    return [account for accounts in told for account in accounts]


async def _stream_one(channel: Channel, recording: Recording, rng: Random) -> Account:
    return await listen(
        channel,
        Playback(recording.path, speed=inf, chunk_s=1.0),
        Station(recording.station, "bench/season.py", 64 * 10**6, LinkSettings()),
        rng=rng,
        now=lambda: recording.begin,
        stop=asyncio.Event(),
        on_song=lambda _: None,
        on_trouble=lambda *_: None,
    )
