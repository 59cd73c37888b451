"""Reads the songs of a store, by people's decisions, parted by station and period."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import Engine, select

from songcore.decisions import View
from songserve.frequencies import FrequencyFilter
from songserve.queries import SongQueries
from songserve.schema import songs
from songserve.times import DAY_MS
from songserve.verdicts import verdict

__all__ = ["ALL", "Choice", "Day", "Heard", "Period", "Season", "read_season"]

Period = Literal["none", "day", "week", "month"]
ALL = ""
"""Of all stations, or of the whole time."""
ROWS_AT_ONCE = 10_000

_COLUMNS = (
    songs.c.station,
    songs.c.session,
    songs.c.start_ms,
    songs.c.end_ms,
    songs.c.type_id,
    songs.c.kind,
    songs.c.is_novel,
    songs.c.placed_in,
)

Key = tuple[str, str]
"""Station and period."""


@dataclass(frozen=True)
class Choice:
    """Which songs, and how they are parted. Times are UTC milliseconds of whole days, half-open; None for no bound."""

    station: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    period: Period = "month"
    bout_gap_s: float = 30.0
    """A longer silence ends a bout: what comes after it does not follow what was before."""


@dataclass
class Heard:
    """What one station, or all, sang in one period, or in all."""

    counts: Counter[str] = field(default_factory=Counter)
    """Songs by type, novel ones and noise left out."""
    n_novel: int = 0
    n_noise: int = 0
    recorded_s: float = 0.0
    bouts: list[list[str]] = field(default_factory=list)
    """Types in the order in which they were sung."""


@dataclass(frozen=True)
class Day:
    """One station on one UTC day."""

    station: str
    day: str
    recorded_s: float
    counts: dict[str, int]
    n_novel: int
    n_noise: int


@dataclass
class Season:
    """Everything that was chosen."""

    heard: dict[Key, Heard]
    days: list[Day]
    names: dict[str, str]
    """By type, what people call it."""


def read_season(engine: Engine, choice: Choice) -> Season:
    """Return the chosen songs; raises Refusal STORE_UNAVAILABLE or STORE_CORRUPT."""
    queries = SongQueries(engine)
    wanted = FrequencyFilter(
        start_ms=choice.start_ms,
        end_ms=choice.end_ms,
        bucket_ms=DAY_MS,
        stations=[choice.station] if choice.station else [],
    )
    frequencies = queries.frequencies(wanted)
    heard: defaultdict[Key, Heard] = defaultdict(Heard)
    days = []
    for one in frequencies:
        start_ms = one.start_ms or 0
        for key in _keys(one.station, start_ms, choice.period):
            heard[key].recorded_s += one.recorded_s
        days.append(Day(one.station, _label(start_ms, "day"), one.recorded_s, one.counts, one.n_novel, one.n_noise))
    _hear(engine, choice, queries.view, heard)
    return Season(dict(sorted(heard.items())), days, dict(queries.view.names))


def _hear(engine: Engine, choice: Choice, view: View, heard: defaultdict[Key, Heard]) -> None:
    for session in _sessions(engine, choice):
        bouts = _Bouts(heard, choice)
        for song in session:
            decided = verdict(song, view)
            keys = _keys(song.station, song.start_ms, choice.period)
            if decided.kind == "noise":
                for key in keys:
                    heard[key].n_noise += 1
            elif decided.is_novel:
                # Of no type: what comes after it follows nothing that has a name.
                bouts.end()
                for key in keys:
                    heard[key].n_novel += 1
            else:
                for key in keys:
                    heard[key].counts[decided.type_id] += 1
                bouts.sing(decided.type_id, keys, song.start_ms, song.end_ms)
        bouts.end()


class _Bouts:
    """Puts the songs of a session into bouts of each station and period."""

    def __init__(self, heard: defaultdict[Key, Heard], choice: Choice) -> None:
        self._heard, self._gap_ms = heard, choice.bout_gap_s * 1000
        self._open: dict[Key, list[str]] = {}
        self._end_ms = 0

    def sing(self, type_id: str, keys: list[Key], start_ms: int, end_ms: int) -> None:
        if start_ms - self._end_ms > self._gap_ms:
            self.end()
        for key in keys:
            if key not in self._open:
                self._open[key] = []
                self._heard[key].bouts.append(self._open[key])
            self._open[key].append(type_id)
        self._end_ms = end_ms

    def end(self) -> None:
        self._open = {}


def _sessions(engine: Engine, choice: Choice) -> Iterator[Iterator[Any]]:
    """Give the songs of each session in order of time."""
    conditions = []
    if choice.station is not None:
        conditions.append(songs.c.station == choice.station)
    if choice.start_ms is not None:
        conditions.append(songs.c.start_ms >= choice.start_ms)
    if choice.end_ms is not None:
        conditions.append(songs.c.start_ms < choice.end_ms)
    ordered = select(*_COLUMNS).where(*conditions).order_by(songs.c.session, songs.c.start_ms, songs.c.uid)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            # Readers are in no transaction, and only in one can rows come bit by bit.
            connection.execution_options(isolation_level="REPEATABLE READ")
        rows = connection.execute(ordered.execution_options(yield_per=ROWS_AT_ONCE))
        for _, session in groupby(rows, key=lambda row: row.session):
            yield session


def _keys(station: str, start_ms: int, period: Period) -> list[Key]:
    """Return where a moment counts: for its station and for all, in its period and in all."""
    keys = [(ALL, ALL), (station, ALL)]
    if period != "none":
        label = _label(start_ms, period)
        keys += [(ALL, label), (station, label)]
    return keys


def _label(start_ms: int, period: Period) -> str:
    return _LABELS[period](datetime.fromtimestamp(start_ms / 1000, UTC))


_LABELS: dict[str, Callable[[datetime], str]] = {
    "none": lambda _: ALL,
    "day": lambda day: f"{day:%Y-%m-%d}",
    "week": lambda day: f"{day:%G-W%V}",
    "month": lambda day: f"{day:%Y-%m}",
}
