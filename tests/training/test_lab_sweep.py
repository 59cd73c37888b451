"""Sweeps: what is tried, what every score prefers, rows kept; a real Ray Tune on toy songs."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_marks import ray_marks
from songcore.errors import ConfigError
from songcore.presets import STREAMS
from songcore.stream import StreamConfig
from songtrain.cluster import ray_session
from songtrain.datasets.songs import SongSet
from songtrain.lab.grid import BinarySearch, SearchRange, grid_settings, parse_grid, parse_search
from songtrain.lab.leaderboard import leaderboard
from songtrain.lab.ledger import Ledger
from songtrain.lab.options import n_clusters_given, with_clusters, with_parameters
from songtrain.lab.parts import describe
from songtrain.lab.report import write_lab_report
from songtrain.lab.results import Row, read_rows
from songtrain.lab.sweep import Sweep, _Plan, _Proposals, _search_score, run_sweep
from songtrain.lab.sweep_table import sweep_tables
from songtrain.lab.systems import System, choose_systems, part

pytestmark = [
    *ray_marks(600),
    pytest.mark.filterwarnings("ignore::UserWarning:ray"),
]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Hold one Ray of this machine for the tests of this file."""
    with ray_session(store_bytes=128 * 2**20):
        yield


def test_grids_are_all_combinations_of_typed_values() -> None:
    """Numbers, truth values and words are read as such; a grid without values is one setting; what is no grid is named."""
    grid = parse_grid(["reducer.n_components=8,16", "reducer.whiten=true", "clusterer.linkage=average,average"])
    assert grid == {"reducer.n_components": [8, 16], "reducer.whiten": [True], "clusterer.linkage": ["average"]}
    assert [setting["reducer.n_components"] for setting in grid_settings(grid)] == [8, 16]
    assert grid_settings({}) == [{}]
    assert parse_search("clusterer.n_clusters=16:256") == SearchRange("clusterer.n_clusters", 16, 256)
    assert parse_grid(['encoder.changes={"rounds": {"scale": 8, "n_rounds": 1}},null'])["encoder.changes"] == [
        {"rounds": {"scale": 8, "n_rounds": 1}},
        None,
    ]
    assert parse_grid(["clusters=8,16"]) == {"clusters": [8, 16]}
    assert parse_search("clusters=4:9") == SearchRange("clusters", 4, 9)
    for wrong in ("n_components=8", "reducer.n_components", "reducer.n_components=", "a.b=1"):
        with pytest.raises(ConfigError) as raised:
            parse_grid([wrong, "a.b=2"])
        assert raised.value.reason == "GRID_INVALID"
    for wrong in ("clusterer.n_clusters=16", "clusterer.n_clusters=9:3", "clusterer.n_clusters=a:b", "k=1:2"):
        with pytest.raises(ConfigError) as raised:
            parse_search(wrong)
        assert raised.value.reason == "GRID_INVALID"


def test_all_parts_that_are_told_a_number_of_clusters_are_swept_together() -> None:
    """``clusters`` reaches encoder and clusterer; what finds the number, and a search without silhouette, are refused."""
    nscnet, floor, vade = choose_systems(["nscnet-arcface-light", "classical-floor", "vade"])
    (tried,) = Sweep(nscnet, [{"clusters": 7}], 1).systems()
    assert [dict(chosen.parameters)["n_clusters"] for chosen in (tried.encoder, tried.clusterer) if chosen] == [7, 7]
    with pytest.raises(ConfigError, match="it finds it") as raised:
        Sweep(floor, [{"clusters": 7}], 1).systems()
    assert raised.value.reason == "PART_UNKNOWN"
    for wrong in ("many", 0, True, 2.5):
        with pytest.raises(ConfigError, match="whole number"):
            Sweep(vade, [{"clusters": wrong}], 1).systems()
    assert Sweep(vade, [{}], 1).systems() == [vade]
    with pytest.raises(ConfigError, match="silhouette") as raised:
        Sweep(vade, [{}], 1, parse_search("clusters=4:9")).systems()
    assert raised.value.reason == "GRID_INVALID"


def test_a_number_that_grid_and_search_both_set_is_refused() -> None:
    """The search's numbers would take the place of the grid's; of other parameters a grid joins the search."""
    (kmeans,) = choose_systems(["modulation-kmeans"])
    search = parse_search("clusters=4:9")
    with pytest.raises(ConfigError, match="both set clusters") as raised:
        Sweep(kmeans, grid_settings(parse_grid(["clusters=4,8"])), 1, search).systems()
    assert raised.value.reason == "GRID_INVALID"
    tried = Sweep(kmeans, grid_settings(parse_grid(["reducer.n_components=8,16"])), 1, search).systems()
    assert [n_clusters_given(system) for system in tried] == [4, 4]


def test_settings_of_training_are_swept_by_name() -> None:
    """A setting within the recipe's changes joins those that are there; one that there is not is refused at once."""
    (recipe,) = choose_systems(["recipe"])
    changed = with_parameters(recipe, {"encoder.changes.rounds.scale": 8, "encoder.changes.rounds.n_rounds": 1})
    assert changed.encoder == part("self-labelled", changes={"rounds": {"scale": 8, "n_rounds": 1}})
    with pytest.raises(ConfigError, match=r"rounds\.scales"):
        with_parameters(recipe, {"encoder.changes.rounds.scales": 8})
    rows = [
        replace(
            row(0, 2, ari=0.5),
            parameters={"encoder.changes.rounds.scale": scale},
            description=describe(to, STREAMS["song"]),
        )
        for scale in (8, 16)
        for to in [with_parameters(recipe, {"encoder.changes.rounds.scale": scale})]
    ]
    assert len(sweep_tables(rows)[0].points) == 2


def test_parts_named_alone_are_taken_instead() -> None:
    """As the first declared system has them behind the same part, else as they are; the system's own as it has them."""
    byol, mfcc, floor, vade = choose_systems(["byol-a-kmeans", "mfcc-ae-kmeans", "classical-floor", "vade"])
    mapped, reduced = choose_systems(["byol-a-tsne-dbscan", "byol-a-pca-kmeans"])
    for setting in ({"reducer": "tsne", "clusterer": "dbscan"}, {"clusterer": "dbscan", "reducer": "tsne"}):
        changed = with_parameters(byol, setting)
        assert (changed.encoder, changed.reducer, changed.clusterer) == (
            mapped.encoder,
            mapped.reducer,
            mapped.clusterer,
        )
    assert with_parameters(byol, {"reducer": "pca"}).reducer == reduced.reducer
    assert with_parameters(byol, {"clusterer": "dbscan"}).clusterer == part("dbscan")
    own = with_parameters(floor, {"reducer.n_components": 8})
    assert with_parameters(own, {"reducer": "pca", "clusterer": "hdbscan"}) == own
    later = with_parameters(byol, {"clusterer.eps": 3, "clusterer": "dbscan"}).clusterer
    assert later == part("dbscan", eps=3)
    told: list[tuple[System, dict[str, Any], int | None]] = [
        (mfcc, {"clusterer": "agglomerative"}, 20),
        (floor, {"clusterer": "gmm"}, 64),
        (floor, {"clusterer": "kmeans", "clusters": 7}, 7),
        (floor, {"clusterer": "dbscan", "clusters": 7}, None),
        (with_clusters(vade, 9), {"clusterer": "kmeans"}, 9),
    ]
    assert [n_clusters_given(with_parameters(system, setting)) for system, setting, _ in told] == [n for *_, n in told]
    assert parse_grid(["reducer=none,pca"]) == {"reducer": ["none", "pca"]}


def test_parts_that_cannot_be_taken_are_refused() -> None:
    """A part of another name, an encoder, and features where the encoder takes the songs: what there is, is said."""
    floor, recipe = choose_systems(["classical-floor", "recipe"])
    for system, kind, name, words in (
        (floor, "clusterer", "kmean", "no clusterer 'kmean': choose among kmeans, spherical-kmeans"),
        (floor, "reducer", 3, "no reducer '3': choose among none"),
        (floor, "encoder", "simclr", "name another part as features, reducer, clusterer"),
        (recipe, "features", "chroma", "recipe has no features to replace"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            with_parameters(system, {kind: name})
        assert raised.value.reason == "PART_UNKNOWN"
    with pytest.raises(ConfigError) as raised:
        parse_search("clusterer=4:9")
    assert raised.value.reason == "GRID_INVALID"
    (search,) = choose_systems(["modulation-kmeans"])
    with pytest.raises(ConfigError, match="silhouette"):
        Sweep(search, [{"clusterer": "argmax"}], 1, parse_search("reducer.n_components=4:9")).systems()


def test_time_is_given_to_networks_that_a_setting_names() -> None:
    """A sweep's minutes are those of a clusterer that learns, too, unless a setting gives it others."""
    (system,) = choose_systems(["modulation-kmeans"])
    settings: list[dict[str, object]] = [{"clusterer": "temi"}, {"clusterer": "temi", "clusterer.max_minutes": 2.0}, {}]
    tried = Sweep(system, settings, 1, max_minutes=0.5).systems()
    assert [dict(one.clusterer.parameters).get("max_minutes") for one in tried] == [0.5, 2.0, None]


@pytest.mark.parametrize("peak", [2, 3, 17, 60, 255, 256])
def test_binary_search_finds_the_one_peak(peak: int) -> None:
    """A score with one peak is searched to it in far fewer tries than there are numbers."""
    search = BinarySearch(2, 256)
    n_tried = 0
    while asked := search.ask():
        for number in asked:
            search.tell(number, -abs(number - peak))
            n_tried += 1
    assert search.best == peak
    assert n_tried <= 24


def test_binary_search_ends_when_nothing_could_be_tried() -> None:
    """A search whose numbers all fail ends, with the smallest as its answer."""
    search = BinarySearch(2, 9)
    for _ in range(100):
        asked = search.ask()
        for number in asked:
            search.tell(number, float("-inf"))
    assert search.ask() == []
    assert search.best == 2


def row(seed: int, k: int, **scores: float) -> Row:
    """Return a row of a sweep over the number of clusters."""
    return Row("a", seed, "", "s", 4, {"clusterer.n_clusters": k}, n_clusters=k, scores=scores, labels=(0, 0, 1, 1))


def test_every_score_prefers_its_own_setting() -> None:
    """Means over seeds decide, low ones for Davies-Bouldin; inertia is not asked; sweeps are not in the leaderboard."""
    rows = [
        row(0, 2, ari=0.2, silhouette=0.9, davies_bouldin=1.0, inertia=9.0),
        row(1, 2, ari=0.4, silhouette=0.7, davies_bouldin=1.0, inertia=9.0),
        row(0, 3, ari=0.8, silhouette=0.1, davies_bouldin=0.5, inertia=1.0),
    ]
    (table,) = sweep_tables(rows)
    best = {score: table.best(score) for score in ("ari", "silhouette", "davies_bouldin", "inertia")}
    chosen = {score: point and point.parameters["clusterer.n_clusters"] for score, point in best.items()}
    assert chosen == {"ari": 3, "silhouette": 2, "davies_bouldin": 3, "inertia": None}
    assert table.points[0].scores["ari"] == pytest.approx(0.3)
    assert leaderboard(rows) == []


def test_a_score_that_says_the_same_of_all_prefers_none() -> None:
    """Settings without any effect are not told apart by which of them was tried first."""
    (table,) = sweep_tables([row(0, k, ari=0.5, silhouette=k / 10) for k in (2, 3)])
    best = table.best("silhouette")
    assert best is not None
    assert best.parameters == {"clusterer.n_clusters": 3}
    assert table.best("ari") is None


def test_settings_of_other_systems_are_another_table() -> None:
    """Settings that were tried with another number of components are not compared with these, and each table says which."""
    (system,) = choose_systems(["modulation-kmeans"])
    rows = []
    for n, k in ((8, 2), (8, 3), (16, 4)):
        tried = with_parameters(system, {"reducer.n_components": n, "clusterer.n_clusters": k})
        rows.append(replace(row(0, k, ari=0.5), description=describe(tried, STREAMS["song"])))
    first, second = sweep_tables(rows)
    assert (len(first.points), len(second.points)) == (2, 1)
    assert (first.chain, second.chain) == tuple(f"modulation → pca(n_components={n}) → kmeans" for n in (8, 16))


def test_a_seed_that_failed_does_not_lead_the_search(
    toy_songs: Callable[..., SongSet], stream: StreamConfig, tmp_path: Path
) -> None:
    """A number is judged by the seeds that worked; one of which none worked is never the best."""
    (system,) = choose_systems(["modulation-kmeans"])
    songs, sweep = toy_songs(48), Sweep(system, [{}], 2, parse_search("clusterer.n_clusters=4:36"))
    plan = _Plan(sweep, songs, stream, "digest")
    proposals = _Proposals(plan, Ledger(tmp_path, "digest"))
    scores = {4: 0.1, 12: 0.3, 36: 0.2}
    tried = set()
    while isinstance(proposed := proposals.suggest("one"), dict):
        trial = proposed["trial"]
        k = trial.blank.parameters["clusterer.n_clusters"]
        tried.add(k)
        lost = k not in scores or (k == 12 and trial.blank.seed == 1)
        proposals.on_trial_complete("one", None if lost else {"silhouette": scores[k]}, error=lost)
    # Nearer and nearer to 12, and not to 36 with its two seeds that worked.
    assert {11, 13} <= tried
    assert max(tried - {36}) == 21
    # One that worked and found nothing to tell apart says something.
    assert _search_score(row(0, 4, ari=0.5)) == -1.0
    assert _search_score(replace(row(0, 4, ari=0.5), error="lost [WORKER_LOST]")) == -np.inf


@pytest.mark.usefixtures("ray_here")
def test_sweep_makes_rows_keeps_them_and_goes_on(
    toy_songs: Callable[..., SongSet], stream: StreamConfig, tmp_path: Path
) -> None:
    """A search over the number of clusters is rows; repeated, nothing is run again; a setting that fails is a row."""
    songs = toy_songs(48)
    (system,) = choose_systems(["modulation-kmeans"])
    search = Sweep(
        system, grid_settings(parse_grid(["reducer.n_components=8"])), 1, parse_search("clusterer.n_clusters=4:9")
    )
    seen: list[Row] = []
    first = run_sweep(songs, stream, search, tmp_path, lambda new, *_: seen.append(new))
    tried = {r.parameters["clusterer.n_clusters"]: r.scores["silhouette"] for r in first.rows}
    assert {4, 6, 9} <= tried.keys()
    assert max(tried, key=lambda k: tried[k]) == 6
    assert len(seen) == len(first.rows)
    grid = Sweep(system, grid_settings(parse_grid(["reducer.n_components=8", "clusterer.n_clusters=6,99"])), 1)
    second = run_sweep(songs, stream, grid, tmp_path)
    assert second.n_kept == 1
    assert [r.error[-15:] for r in second.rows] == ["", "[TOO_FEW_SONGS]"]
    assert run_sweep(songs, stream, search, tmp_path).n_kept == len(first.rows)
    assert len(read_rows(tmp_path)) == len(first.rows) + 1
    page = write_lab_report(tmp_path, datetime(2026, 5, 1, tzinfo=UTC)).read_text()
    assert "Sweep of modulation-kmeans over clusterer.n_clusters, reducer.n_components" in page


@pytest.mark.usefixtures("ray_here")
def test_settings_whose_process_is_lost_are_not_from_before(
    toy_songs: Callable[..., SongSet], stream: StreamConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that ends without a word is a failed row of this sweep, and counts as one that it made."""
    (system,) = choose_systems(["modulation-kmeans"])
    sweep = Sweep(system, grid_settings(parse_grid(["clusters=4,6"])), 1)
    first = replace(sweep, settings=sweep.settings[:1])
    assert run_sweep(toy_songs(48), stream, first, tmp_path).n_kept == 0

    def lost(config: dict[str, Any], *, bench: Any, board: Any) -> None:
        del config, bench, board
        raise RuntimeError("gone")

    monkeypatch.setattr("songtrain.lab.sweep._run_trial", lost)
    run = run_sweep(toy_songs(48), stream, sweep, tmp_path)
    assert [row.error[-13:] for row in run.rows] == ["", "[WORKER_LOST]"]
    assert run.n_kept == 1


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    ("name", "grid"),
    [
        (
            "nscnet-arcface-light",
            ["encoder.margin=0.2,0.4", "encoder.scale=16", "encoder.epoch_length=2", "clusters=6"],
        ),
        ("classical-floor", ["reducer.whiten=true,false", "reducer.unit=false", "clusterer.min_cluster_size=4"]),
    ],
)
def test_what_the_sources_swept_can_be_swept(
    name: str, grid: list[str], toy_songs: Callable[..., SongSet], stream: StreamConfig, tmp_path: Path
) -> None:
    """Margin and scale, epoch length, whitening and length, and sizes of clusters reach the parts, a row for every setting."""
    (system,) = choose_systems([name])
    if system.encoder is not None:
        system = with_parameters(system, {"encoder.n_epochs": 1})
    settings = grid_settings(parse_grid(grid))
    rows = run_sweep(toy_songs(48), stream, Sweep(system, settings, 1), tmp_path).rows
    assert [row.error for row in rows] == ["", ""]
    told = [json.loads(row.description) for row in rows]
    for row, parts in zip(rows, told, strict=True):
        for where, value in row.parameters.items():
            kind, _, key = where.partition(".")
            assert where == "clusters" or parts[kind][1][key] == value
    assert told[0] != told[1]


@pytest.mark.usefixtures("ray_here")
def test_a_grid_of_parts_is_one_sweep(toy_songs: Callable[..., SongSet], stream: StreamConfig, tmp_path: Path) -> None:
    """Every reducer with every clusterer is a row, all in one table and on the page."""
    (system,) = choose_systems(["modulation-kmeans"])
    grid = parse_grid(["reducer=none,pca", "clusterer=kmeans,dbscan,agglomerative", "clusters=6"])
    rows = run_sweep(toy_songs(48), stream, Sweep(system, grid_settings(grid), 1), tmp_path).rows
    assert [row.error for row in rows] == [""] * 6
    parts = [json.loads(row.description) for row in rows]
    assert {(told["reducer"][0], told["clusterer"][0]) for told in parts} == {
        (reducer, clusterer) for reducer in grid["reducer"] for clusterer in grid["clusterer"]
    }
    assert [row.n_clusters for row in rows if row.parameters["clusterer"] != "dbscan"] == [6] * 4
    (table,) = sweep_tables(read_rows(tmp_path))
    assert (table.chain, len(table.points)) == ("modulation", 6)
    page = write_lab_report(tmp_path, datetime(2026, 5, 1, tzinfo=UTC)).read_text()
    assert "Sweep of modulation-kmeans over clusterer, clusters, reducer" in page
