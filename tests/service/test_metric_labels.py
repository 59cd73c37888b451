"""Labels of metrics that people's data make: as many as the docs say, and the same ones after a restart."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest

from serving import ServerThread, scrape, session_name, setup, stream_all
from songcore.bundle import Bundle
from songcore.decisions import Action, Mark, Merge, Split, Undo
from songcore.manifest import SongType
from songserve import metrics as metrics_module
from songserve.decision_writing import Intent
from songserve.metrics import MAX_STATIONS, MAX_TYPES, Metrics
from songserve.records import StoredSong
from stores import Opened, commit, opening, song


def counted(page: str, metric: str, label: str) -> dict[str, float]:
    """Return what a metric counts, by its one label."""
    found = re.findall(rf'^songstream_{metric}\{{{label}="([^"]+)"\}} (\S+)$', page, re.MULTILINE)
    return {value: float(n) for value, n in found}


class Season:
    """A store that types come to, one after the other."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self._record = opened, opened.store.open_session(opening()).result(10)
        self._number = self._record.committed_sequence_number

    def sing(self, type_id: str, n_songs: int = 1, **fields: object) -> list[str]:
        """Store songs of a type; return their uids."""
        self._number += 1
        starts = [self._number * 100 + second for second in range(n_songs)]
        new: list[StoredSong] = [song(self._record, start, type_id, **fields) for start in starts]
        self.opened.store.commit(commit(self._record, self._number, *new)).result(10)
        return [one.uid for one in new]

    def decide(self, action: Action) -> int:
        """Decide about types; return the decision's number."""
        catalogue = {f"T{number:04d}": SongType(id=f"T{number:04d}") for number in range(100)}
        done = self.opened.store.decide(Intent(action, "ada", 1, {}, catalogue, frozenset())).result(10)
        assert done is not None
        return done.seq


def shown(bundle: Bundle, data_dir: Path) -> dict[str, float]:
    """Return the songs by type that a server shows which is started on a store."""
    with ServerThread(bundle, data_dir) as server:
        return counted(scrape(server), "songs_total", "song_type")


def test_the_51st_type_shares_its_label(bundle: Bundle, tmp_path: Path) -> None:
    """The first fifty types have labels of their own, and keep them when a more frequent one of a lower id comes."""
    with Opened(tmp_path) as opened:
        season = Season(opened)
        season.sing("T9001", kind="noise")
        season.sing("T9002", novelty="novel")
        for number in range(MAX_TYPES, 0, -1):
            season.sing(f"T{number:04d}")
    own = {f"T{number:04d}": 1.0 for number in range(1, MAX_TYPES + 1)}
    assert len(own) == 50
    assert shown(bundle, tmp_path) == {**own, "novel": 1, "noise": 1}
    with Opened(tmp_path) as opened:
        Season(opened).sing("T0000", 9)
    assert shown(bundle, tmp_path) == {**own, "other": 9, "novel": 1, "noise": 1}


def test_labels_after_a_restart_are_those_before(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sung and decided between two scrapes, a server that was there shows what one shows that begins now."""
    monkeypatch.setattr(metrics_module, "MAX_TYPES", 5)
    season, queries = Season(opened), opened.queries

    def begun() -> Metrics:
        metrics = Metrics(version="test")
        metrics.count_in_store(queries.totals, queries.declared_gaps, queries.types_in_order)
        return metrics

    def songs(metrics: Metrics) -> dict[str, float]:
        return counted(generate_latest(metrics.registry).decode(), "songs_total", "song_type")

    def agreed() -> dict[str, float]:
        assert songs(lasting) == songs(begun())
        return songs(lasting)

    lasting = begun()
    uids = season.sing("T0009", 3)
    season.sing("T0008", 2)
    assert agreed() == {"T0009": 3, "T0008": 2}
    season.decide(Merge(type_id="T0008", into="T0009", sound="song"))
    season.sing("T0007")
    assert agreed() == {"T0009": 5, "T0007": 1}
    split = season.decide(Split(type_id="T0009", new_id="", songs=tuple(uids[:1]), sound="song"))
    assert agreed() == {"T0009": 4, "T0007": 1, "P0001": 1}
    season.sing("T0006", 7)
    season.sing("T0005", 8)
    assert agreed() == {"T0009": 4, "T0007": 1, "P0001": 1, "T0006": 7, "other": 8}
    season.decide(Mark(kind="noise", type_id="T0007"))
    season.decide(Undo(seq=split))
    season.sing("T0001", 9)
    assert agreed() == {"T0009": 5, "T0006": 7, "other": 17, "noise": 1}


def test_the_501st_station_shares_its_label(bundle: Bundle, tmp_path: Path) -> None:
    """The stations that began first have labels of their own, also when one of the others is the first to connect."""
    names = [f"s{number:03d}" for number in range(MAX_STATIONS, -1, -1)]  # the last is s000
    with Opened(tmp_path) as opened:
        openings = [replace(opening(number + 1, name)) for number, name in enumerate(names)]
        dated = [replace(one, capture_start_ms=one.capture_start_ms + n) for n, one in enumerate(openings)]
        records = [opened.store.open_session(one) for one in dated]
        for done in [opened.store.commit(commit(record.result(60), 1)) for record in records]:
            done.result(60)
    own = dict.fromkeys(names[:-1], 1.0)
    assert len(own) == 500
    for number in (1, 2):
        with ServerThread(bundle, tmp_path) as server:
            stream_all(
                server.channel, np.zeros(24_000, np.float32), [24_000], setup(session_name("s000", 10**6 + number))
            )
            page = scrape(server)
        assert counted(page, "recorded_seconds_total", "station") == {**own, "other": 1.0 + number}
        assert set(counted(page, "station_last_seen_timestamp_seconds", "station")) == {"other"}
